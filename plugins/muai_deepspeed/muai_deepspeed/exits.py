"""What the last words of a replica mean."""

import re

from muai_core import ExitEvidence, Failure, FailureKind

_QUOTED_CHARACTERS = 200

#: Kind, what to look for, what to do. The first row that is found wins.
_RULES: tuple[tuple[FailureKind, str, str], ...] = (
    (
        "model_files",
        r"muai_deepspeed: refused: .*",
        "use the shape it names, or another engine",
    ),
    (
        "out_of_memory_weights",
        r"torch\.OutOfMemoryError|CUDA out of memory|CUDA error: out of memory",
        "raise tensor_parallel_size or pipeline_parallel_size, or lower max_model_len",
    ),
    (
        "out_of_memory_host",
        r"DefaultCPUAllocator: can't allocate memory|MemoryError|Cannot allocate memory",
        "the host has too little memory for this model",
    ),
    ("disk_full", r"No space left on device", "make room on the disk"),
    (
        "port_taken",
        r"[Aa]ddress already in use|EADDRINUSE",
        "another program took the port; the next start gets another one",
    ),
    (
        "model_files",
        r"^--model .*|(?:FileNotFoundError|SafetensorError|OSError).{0,300}",
        "see whether the model's folder is complete and readable",
    ),
    ("bad_argument", r"error: (?:unrecognized arguments|argument |--).*", "correct the options"),
    (
        "collectives",
        r"NCCL error|nccl(?:System|UnhandledCuda|Internal)Error",
        "see dmesg for NVLink and PCIe errors; NCCL_DEBUG=INFO under engines.deepspeed.env "
        "tells more",
    ),
    (
        "driver",
        r"CUDA driver version is insufficient|no CUDA-capable device|No CUDA GPUs are available",
        "the NVIDIA driver does not fit this torch, or the GPU cannot be seen: see nvidia-smi",
    ),
    (
        "rank_died",
        r"muai_deepspeed: (?:rank \d+ (?:was killed|ended)|lost ).*",
        "look further up in the replica's log for the first error",
    ),
)
_COMPILED = tuple((kind, re.compile(words, re.M), advice) for kind, words, advice in _RULES)


def failure_of(evidence: ExitEvidence) -> Failure | None:
    """Why the replica ended, from its log; None: nothing in it tells."""
    for kind, pattern, advice in _COMPILED:
        if match := pattern.search(evidence.log_tail):
            end = evidence.log_tail.find("\n", match.end())
            line = evidence.log_tail[match.start() : end if end >= 0 else None]
            return Failure(kind=kind, reason=line[:_QUOTED_CHARACTERS].strip(), advice=advice)
    return None
