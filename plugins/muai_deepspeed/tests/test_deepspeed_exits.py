"""What the last words of ranks come to."""

import pytest
from muai_deepspeed.exits import failure_of

from muai_core import ExitEvidence

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
LOST = "muai_deepspeed: rank 0 ended with status 1; the others are killed"


@pytest.mark.parametrize(
    ("stage", "log", "kind", "reason"),
    [
        ("load", f"{OOM}\n{LOST}", "out_of_memory_weights", "CUDA out of memory"),
        ("serving", f"{OOM}\n{LOST}", "out_of_memory_kv_cache", "CUDA out of memory"),
        ("load", f"std::bad_alloc\n{LOST}", "out_of_memory_host", "bad_alloc"),
        ("load", "muai_deepspeed: refused: --layers 3,2: 2 stages", "bad_argument", "--layers"),
        ("load", "muai_deepspeed: refused: model_type phi3 with", "model_files", "phi3"),
        (
            "serving",
            f"ERROR muai_deepspeed: lost rank 2: silent for 30 s\n{LOST}",
            "timed_out",
            "rank 2: silent for 30 s",
        ),
        (
            "serving",
            f"RuntimeError: [x.cc:81] Timed out waiting 30000ms for recv operation\n{LOST}",
            "timed_out",
            "Timed out waiting 30000ms",
        ),
        (
            "serving",
            "ERROR muai_deepspeed: lost rank 1: it closed the connection\n"
            "muai_deepspeed: rank 1 was killed by SIGKILL; the others are killed",
            "rank_died",
            "rank 1 was killed by SIGKILL",
        ),
        ("load", LOST, "rank_died", "rank 0 ended with status 1"),
        ("spawn", "OSError: [Errno 98] address already in use", "port_taken", "in use"),
    ],
)
def test_last_words_have_a_kind_and_advice(stage: str, log: str, kind: str, reason: str) -> None:
    failure = failure_of(ExitEvidence(stage=stage, status=1, log_tail=log))
    assert failure is not None
    assert failure.kind == kind
    assert reason in failure.reason
    assert failure.advice


def test_words_that_say_nothing_are_no_failure_with_a_name() -> None:
    assert failure_of(ExitEvidence(stage="serving", status=1, log_tail="all is well")) is None
