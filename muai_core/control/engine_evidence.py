"""What an engine's log says about the health of its devices.

Engines quote the CUDA runtime: `CUDA error: uncorrectable ECC error encountered`. The wordings and
numbers are those of `cudaGetErrorString` and `cudaError_t` of CUDA 13.0 (HIP uses the same words),
as PyTorch, NCCL and Triton put them into their messages.

Two kinds of rows. The first speak of the device or of its way to the host: they make it suspect,
until a self-test or a few clean readings say otherwise. The others are how a program dies of its
own mistakes; they count, and become evidence when they repeat on one device and on no other (an
XID 13 or 31 tells the same story). Nothing here makes a device failed: a log may quote a user, so
the driver or a self-test has to confirm it. Running out of memory is no evidence at all.
"""

import re
from typing import NamedTuple

from muai_core.model.health import Finding, Health
from muai_core.planning.wording import one_line

#: How much of the log's line a finding quotes, in characters.
_QUOTED_CHARACTERS = 160
#: How much of a text is searched, from its end, in characters.
_SEARCHED_CHARACTERS = 100_000
#: Whatever a row matches has one of these in it. Looking for them first makes an ordinary line of a
#: log about fifty times cheaper.
_CLUES = ("cuda", "hip", "lost", "bus")
#: So many of a program's own mistakes on one device and on no other make it suspect: the figure
#: with which NVSentinel asks for a diagnosis after XID 31.
_APPLICATION_FAULTS = 2


class Trouble(NamedTuple):
    """One row: how it is worded, and what follows."""

    #: The kind of the finding.
    kind: str
    #: The number of the CUDA error.
    code: int | None
    #: A regular expression. With a code, it counts only after the word CUDA or HIP.
    words: str
    #: Its names in the runtime and driver APIs: cudaError<this>, CUDA_ERROR_<that>.
    symbols: tuple[str, str] | None
    severity: Health
    advice: str = ""
    repeat_limit: int = 0


def _device(
    code: int | None, words: str, symbols: tuple[str, str] | None, advice: str, kind: str = ""
) -> Trouble:
    return Trouble(kind or "cuda_error", code, words, symbols, Health.SUSPECT, advice)


def _application(
    code: int, words: str, symbols: tuple[str, str], repeat_limit: int = _APPLICATION_FAULTS
) -> Trouble:
    return Trouble("cuda_error", code, words, symbols, Health.HEALTHY, "", repeat_limit)


_KERNEL_LOG = "look for an XID of this GPU in the kernel log: journalctl -k -g Xid"

TROUBLES: tuple[Trouble, ...] = (
    _device(
        46,
        r"capable device(?:\(s\) is/are|s are| is) busy or unavailable",
        ("DevicesUnavailable", "DEVICE_UNAVAILABLE"),
        "see who holds the GPU, and in which compute mode it is: nvidia-smi -q -d COMPUTE",
    ),
    _device(
        214, r"uncorrectable ECC error", ("ECCUncorrectable", "ECC_UNCORRECTABLE"), _KERNEL_LOG
    ),
    _device(
        220,
        r"uncorrectable NVLink error",
        ("NvlinkUncorrectable", "NVLINK_UNCORRECTABLE"),
        "see the error counters of its NVLinks: nvidia-smi nvlink --errorcounters",
    ),
    _device(
        226,
        r"invalid access of peer GPU memory over nvlink or a hardware error",
        ("Contained", "CONTAINED"),
        _KERNEL_LOG,
    ),
    _device(
        802,
        r"system not yet initialized",
        ("SystemNotReady", "SYSTEM_NOT_READY"),
        "see whether the fabric manager runs: systemctl status nvidia-fabricmanager",
    ),
    _device(999, r"unknown error", ("Unknown", "UNKNOWN"), _KERNEL_LOG),
    _device(
        None,
        r"\bGPU (?:is|has been) lost\b|\bGPU has fallen off the bus\b|\bfell off the bus\b",
        None,
        _KERNEL_LOG,
        "gpu_lost",
    ),
    _device(
        None,
        r"\bno CUDA GPUs are available\b|\bno CUDA-capable device is detected\b",
        ("NoDevice", "NO_DEVICE"),
        "see whether nvidia-smi lists the GPU, and whether the engine may open /dev/nvidia*",
        "no_cuda_gpu",
    ),
    _application(700, r"illegal memory access", ("IllegalAddress", "ILLEGAL_ADDRESS")),
    _application(702, r"the launch timed out", ("LaunchTimeout", "LAUNCH_TIMEOUT")),
    # An assertion in a kernel is the program's own verdict on its input.
    _application(710, r"device-side assert triggered", ("Assert", "ASSERT"), repeat_limit=0),
    _application(714, r"hardware stack error", ("HardwareStackError", "HARDWARE_STACK_ERROR")),
    _application(715, r"an illegal instruction", ("IllegalInstruction", "ILLEGAL_INSTRUCTION")),
    _application(716, r"misaligned address", ("MisalignedAddress", "MISALIGNED_ADDRESS")),
    _application(718, r"invalid program counter", ("InvalidPc", "INVALID_PC")),
    _application(719, r"unspecified launch failure", ("LaunchFailure", "LAUNCH_FAILED")),
)


def device_trouble(text: str) -> Finding | None:
    """What a line or the end of an engine's log says against its devices; None: nothing.

    Of several troubles it is the worst, the last of equal ones: the end of a log tells what the
    engine died of. Its reason quotes the line. Never raises; takes time in proportion to the text.
    """
    searched = text[-_SEARCHED_CHARACTERS:]
    lowered = searched.lower()
    if not any(clue in lowered for clue in _CLUES):
        return None
    found: tuple[Trouble, re.Match[str]] | None = None
    for match in _ANY_TROUBLE.finditer(searched):
        trouble = TROUBLES[int((match.lastgroup or "_0")[1:].partition("_")[0])]
        if found is None or trouble.severity.rank >= found[0].severity.rank:
            found = trouble, match
    if found is None:
        return None
    trouble, match = found
    return Finding(
        kind=trouble.kind,
        code=trouble.code,
        severity=trouble.severity,
        reason=_quoted(match),
        advice=trouble.advice,
        clears="checked",
        repeat_limit=trouble.repeat_limit,
    )


def _quoted(match: re.Match[str]) -> str:
    """The log's line from where it speaks of the trouble."""
    end = match.string.find("\n", match.end())
    line = match.string[match.start() : end if end >= 0 else None]
    return one_line(line, _QUOTED_CHARACTERS)


def _any_trouble() -> re.Pattern[str]:
    """All rows as one expression: each log line is read once. A group's name leads to its row."""
    worded: list[str] = []
    named: list[str] = []
    free: list[str] = []
    for row, trouble in enumerate(TROUBLES):
        where = free if trouble.code is None else worded
        where.append(f"(?P<w{row}_words>{trouble.words})")
        if trouble.symbols is not None:
            runtime, driver = trouble.symbols
            named.append(f"(?P<s{row}_name>(?:cudaError{runtime}|CUDA_ERROR_{driver})\\b)")
    after_cuda = rf"\b(?:CUDA|HIP)\b[^\n]{{0,80}}?(?:{'|'.join(worded)})"
    by_name = rf"\b(?:{'|'.join(named)})"
    return re.compile("|".join([after_cuda, by_name, *free]), re.IGNORECASE)


_ANY_TROUBLE = _any_trouble()
