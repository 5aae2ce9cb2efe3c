"""Which lines of an engine's log speak against a device. The lines are from real logs."""

import pytest

from muai_core.control.engine_evidence import TROUBLES, device_trouble
from muai_core.model.health import Health

SUSPECT = [
    (
        "(Worker_TP0 pid=71) ERROR 05-19 06:58:49 [multiproc_executor.py:470] "
        "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered",
        "cuda_error:214",
        "CUDA error: uncorrectable ECC error encountered",
    ),
    (
        "RuntimeError: CUDA error: uncorrectable NVLink error detected during the execution",
        "cuda_error:220",
        "CUDA error: uncorrectable NVLink error detected during the execution",
    ),
    (
        "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "cuda_error:46",
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    ),
    (
        "RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable",
        "cuda_error:46",
        "CUDA error: all CUDA-capable devices are busy or unavailable",
    ),
    (
        "CUDA initialization: CUDA unknown error - this may be due to an incorrectly set up "
        "environment",
        "cuda_error:999",
        "CUDA initialization: CUDA unknown error - this may be due to an incorrectly set up "
        "environment",
    ),
    ("nvls.cc:94 NCCL WARN Cuda failure 802 'system not yet initialized'", "cuda_error:802", ""),
    ("cuLaunchKernel failed: CUDA_ERROR_ECC_UNCORRECTABLE", "cuda_error:214", ""),
    ("thrust::system_error: cudaErrorNvlinkUncorrectable", "cuda_error:220", ""),
    ("RuntimeError: No CUDA GPUs are available", "no_cuda_gpu", "No CUDA GPUs are available"),
    ("CUDA error: no CUDA-capable device is detected", "no_cuda_gpu", ""),
    ("pynvml.NVMLError_GpuIsLost: GPU is lost", "gpu_lost", "GPU is lost"),
    ("HIP error: uncorrectable ECC error encountered", "cuda_error:214", ""),
]
COUNTED = [
    ("CUDA error: an illegal memory access was encountered", "cuda_error:700", 2),
    ("Triton Error [CUDA]: an illegal memory access was encountered", "cuda_error:700", 2),
    ("CUDA error: unspecified launch failure", "cuda_error:719", 2),
    ("CUDA error: misaligned address", "cuda_error:716", 2),
    ("CUDA error: device-side assert triggered", "cuda_error:710", 0),
]
NO_EVIDENCE = [
    "",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
    "CUDA error: out of memory",
    "CUDA error: invalid device ordinal",
    "CUDA error: no kernel image is available for execution on the device",
    "Bus error (core dumped)",
    "an unknown error has happened",
    "misaligned address in the config",
    "the scheduler is busy or unavailable",
    "RuntimeError: NCCL error: remote process exited or there was a network error",
    "INFO 05-19 06:58:49 [core.py:72] Initializing a V1 LLM engine with CUDA graphs",
]


@pytest.mark.parametrize(("line", "key", "quoted"), SUSPECT, ids=[key for _, key, _ in SUSPECT])
def test_trouble_of_the_device_makes_it_suspect(line: str, key: str, quoted: str) -> None:
    found = device_trouble(line)
    assert found is not None
    assert (found.key, found.severity, found.clears) == (key, Health.SUSPECT, "checked")
    assert found.advice
    assert found.reason == quoted or not quoted


@pytest.mark.parametrize(("line", "key", "limit"), COUNTED)
def test_mistakes_of_a_program_only_count(line: str, key: str, limit: int) -> None:
    found = device_trouble(f"ERROR {line}\n")
    assert found is not None
    assert (found.key, found.severity, found.repeat_limit) == (key, Health.HEALTHY, limit)


@pytest.mark.parametrize("line", NO_EVIDENCE)
def test_other_lines_say_nothing(line: str) -> None:
    assert device_trouble(line) is None


def test_a_log_is_never_enough_to_fail_a_device() -> None:
    """It may quote a user."""
    assert {trouble.severity for trouble in TROUBLES} == {Health.SUSPECT, Health.HEALTHY}


def test_of_a_log_the_worst_trouble_counts_and_of_equals_the_last() -> None:
    log = "\n".join(
        [
            "CUDA error: uncorrectable ECC error encountered",
            "something else",
            "RuntimeError: CUDA error: uncorrectable NVLink error detected",
            "CUDA error: an illegal memory access was encountered",
        ]
    )
    found = device_trouble(log)
    assert found is not None
    assert found.reason == "CUDA error: uncorrectable NVLink error detected"


def test_the_quoted_line_is_short_and_plain() -> None:
    line = "CUDA error: unknown error \x1b[31m" + "x" * 10_000
    found = device_trouble(line)
    assert found is not None
    assert len(found.reason) <= 160
    assert found.reason.isprintable()


def test_a_word_far_away_does_not_belong_to_it() -> None:
    assert device_trouble("CUDA " + "x " * 200 + "unknown error") is None
    assert device_trouble("CUDA graphs captured\nan unknown error") is None
