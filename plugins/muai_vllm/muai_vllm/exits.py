"""What vLLM's last words mean. The wordings are those of 0.32; the file is in brackets."""

import re

from muai_core import ExitEvidence, Failure, FailureKind

_QUOTED_CHARACTERS = 200

#: Kind, what to look for, what to do. The first row that is found wins.
_RULES: tuple[tuple[FailureKind, str, str], ...] = (
    (  # [v1/core/kv_cache_utils.py]
        "out_of_memory_kv_cache",
        r"No available memory for the cache blocks|larger than the available KV cache memory",
        "lower max_model_len or concurrency, or give the model more GPUs",
    ),
    (  # [v1/worker/cpu_worker.py]
        "out_of_memory_kv_cache",
        r"memory .{0,200}for KV cache|on kv cache allocation is less than",
        "lower max_model_len or concurrency: the host has too little free memory",
    ),
    (  # [v1/worker/utils.py]
        "out_of_memory_weights",
        r"Free memory on device .{0,200}is less than desired",
        "something else holds the GPU's memory: see muai devices and nvidia-smi",
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
    (
        "bad_argument",
        r"error: (?:unrecognized arguments|argument ).*|extra_forbidden",
        "correct engine_options.arguments of the model",
    ),
    (  # [model_executor/models/registry.py]
        "model_files",
        r"Model architectures \[.{0,200} are not supported",
        "this vLLM does not know the architecture: use another engine or a newer vLLM",
    ),
    (
        "model_files",
        r"(?:FileNotFoundError|SafetensorError|OSError|Cannot find any model weights).{0,300}",
        "see whether the model's folder is complete and readable",
    ),
    (
        "collectives",
        r"NCCL error|nccl(?:System|UnhandledCuda|Internal)Error|gloo.{0,40}timed? ?out",
        "see dmesg for NVLink and PCIe errors; NCCL_DEBUG=INFO under engines.vllm.env tells more",
    ),
    (
        "driver",
        r"CUDA driver version is insufficient|no CUDA-capable device|Failed to infer device type",
        "the NVIDIA driver does not fit this vLLM, or the GPU cannot be seen: see nvidia-smi",
    ),
    (
        "port_taken",
        r"[Aa]ddress already in use",
        "another program took the port; the next start gets another one",
    ),
    ("disk_full", r"No space left on device", "make room on the disk"),
    (  # [v1/engine/exceptions.py]
        "rank_died",
        r"EngineDeadError|WorkerProc .{0,80}died|Engine core proc .{0,40}died",
        "look further up in the replica's log for the first error",
    ),
)
_COMPILED = tuple((kind, re.compile(words), advice) for kind, words, advice in _RULES)


def failure_of(evidence: ExitEvidence) -> Failure | None:
    """Why vLLM ended, from its log; None: nothing in it tells."""
    for kind, pattern, advice in _COMPILED:
        if matches := list(pattern.finditer(evidence.log_tail)):
            # The last one tells what it died of.
            return Failure(kind=kind, reason=_line_of(matches[-1]), advice=advice)
    return None


def _line_of(match: re.Match[str]) -> str:
    end = match.string.find("\n", match.end())
    line = match.string[match.start() : end if end >= 0 else None]
    return line.replace("\n", " ")[:_QUOTED_CHARACTERS].strip()
