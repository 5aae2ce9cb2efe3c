"""What only vLLM's last words say. The wordings are those of 0.32; the file is in brackets."""

from muai_core import ExitEvidence, ExitRule, Failure, failure_from, general_failure

_RULES = (
    ExitRule(  # [v1/core/kv_cache_utils.py]
        "out_of_memory_kv_cache",
        r"No available memory for the cache blocks|larger than the available KV cache memory",
        "lower max_model_len or concurrency, or give the model more GPUs",
    ),
    ExitRule(  # [v1/worker/cpu_worker.py]
        "out_of_memory_kv_cache",
        r"Not enough memory.{0,200}KV|on kv cache allocation is less than",
        "lower max_model_len or concurrency: the host has too little free memory",
    ),
    ExitRule(  # [v1/worker/utils.py]
        "out_of_memory_weights",
        r"Free memory on device .{0,200}is less than desired",
        "something else holds the GPU's memory: see muai devices and nvidia-smi",
    ),
    ExitRule(  # [model_executor/models/registry.py]
        "model_files",
        r"Model architectures \[.{0,200} are not supported",
        "this vLLM does not know the architecture: use another engine or a newer vLLM",
    ),
    ExitRule(  # a folder that is gone is taken for a repository's name [transformers/utils/hub.py]
        "model_files",
        r".*HFValidationError: .*",
        "see whether the model's folder is still there and readable",
    ),
    ExitRule("driver", r"Failed to infer device type", "the GPU cannot be seen: see nvidia-smi"),
)
#: These follow from something else that the log may tell.
_LAST = (
    ExitRule(  # [v1/engine/exceptions.py, v1/executor/multiproc_executor.py]
        "rank_died",
        r"EngineDeadError|WorkerProc .{0,80}died|Engine core proc .{0,40}died",
        "look further up in the replica's log for the first error",
    ),
)


def failure_of(evidence: ExitEvidence) -> Failure | None:
    """Why vLLM ended, from its log; None: nothing in it tells."""
    return (
        failure_from(_RULES, evidence) or general_failure(evidence) or failure_from(_LAST, evidence)
    )
