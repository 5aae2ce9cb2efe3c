"""Telling from an engine's last words why it ended: rows of wordings, the general ones and yours.

Pure. The general rows know torch, NCCL, CUDA, Python and argparse; an engine's own come first.
"""

import re
from collections.abc import Sequence

from msgspec import Struct

from muai_core.plugin.failure import ExitEvidence, Failure, FailureKind

#: How much of the log's line a reason quotes, in characters.
_QUOTED_CHARACTERS = 200


class ExitRule(Struct, frozen=True):
    """One row: what it is called, the regular expression that tells it, what a person may do."""

    kind: FailureKind
    pattern: str
    advice: str


def failure_from(rules: Sequence[ExitRule], evidence: ExitEvidence) -> Failure | None:
    """What the first row that matches says, quoting its last match; None: no row matches.

    The end of a log tells what the engine died of. `^` and `$` stand for a line's ends.
    """
    for rule in rules:
        if matches := list(re.finditer(rule.pattern, evidence.log_tail, re.MULTILINE)):
            return Failure(kind=rule.kind, reason=_line(matches[-1]), advice=rule.advice)
    return None


def general_failure(evidence: ExitEvidence) -> Failure | None:
    """Why any engine ended, where no rule of its own tells; None: nothing tells."""
    return failure_from(GENERAL_RULES, evidence)


def _line(match: re.Match[str]) -> str:
    end = match.string.find("\n", match.end())
    line = match.string[match.start() : end if end >= 0 else None]
    return " ".join(line.split())[:_QUOTED_CHARACTERS]


GENERAL_RULES = (
    ExitRule(
        "out_of_memory_weights",
        r"torch\.OutOfMemoryError|CUDA out of memory|CUDA error: out of memory",
        "raise tensor_parallel_size or pipeline_parallel_size, or lower max_model_len",
    ),
    ExitRule(
        "out_of_memory_host",
        r".*(?:DefaultCPUAllocator: can't allocate memory|\bMemoryError\b|std::bad_alloc"
        r"|[Cc]annot allocate memory|failed to map segment from shared object"
        r"|memory allocation of \d+ bytes failed|unable to mmap \d+ bytes"
        r"|pthread_create failed|can't start new thread"
        r"|RuntimeError: Resource temporarily unavailable"
        r"|Resource temporarily unavailable \(src/thread)",
        "the host has too little memory, or a limit (ulimit, cgroup) is too low for this model",
    ),
    ExitRule("disk_full", r".*No space left on device", "make room on the disk"),
    ExitRule(
        "port_taken",
        r".*(?:[Aa]ddress already in use|\bEADDRINUSE\b)",
        "another program took the port; the next start gets another one",
    ),
    ExitRule(
        "collectives",
        r"NCCL error|nccl(?:System|UnhandledCuda|Internal)Error|gloo.{0,40}timed? ?out",
        "see dmesg for NVLink and PCIe errors; NCCL_DEBUG=INFO under engines.<name>.env tells more",
    ),
    ExitRule(
        "driver",
        r"CUDA driver version is insufficient|no CUDA-capable device|No CUDA GPUs are available",
        "the NVIDIA driver does not fit this torch, or the GPU cannot be seen: see nvidia-smi",
    ),
    ExitRule(
        "bad_argument",
        r"error: (?:unrecognized arguments|argument |the following arguments).*",
        "correct the model's engine_options",
    ),
    ExitRule(
        "model_files",
        # Not one that a warning quotes.
        r"(?:^|(?<=[\s.]))(?:FileNotFoundError|SafetensorError|OSError|PermissionError"
        r"|JSONDecodeError)\b.*"
        r"|.*no such file or folder.*",
        "see whether the model's folder is complete and readable",
    ),
)
