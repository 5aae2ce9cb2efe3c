"""What engines write into their logs about their memory, for `MemoryProfile.log_patterns`. Pure."""

#: As vLLM 0.32 and 0.33 write them (v1/worker/gpu_model_runner.py, v1/worker/gpu/model_runner.py,
#: v1/worker/gpu_worker.py). "Actual usage" is only written where vLLM sizes the KV cache itself:
#: `consumed` is weights and runtime, and the peak of activations counts what was estimated for the
#: graphs.
VLLM_LOG_PATTERNS: tuple[tuple[str, str], ...] = (
    ("weights", r"Model loading took (\d+(?:\.\d+)?) ?GiB"),
    ("kv_cache", r"Available KV cache memory: (\d+(?:\.\d+)?) GiB"),
    ("kv_cache", r"reserved (\d+(?:\.\d+)?) GiB memory for KV Cache as specified"),
    ("consumed", r"Actual usage is (\d+(?:\.\d+)?) GiB for consumed memory"),
    ("activation", r"(\d+(?:\.\d+)?) GiB for peak activation"),
    ("graphs", r"(\d+(?:\.\d+)?) GiB for CUDAGraph memory"),
    ("graphs", r"Graph capturing finished in \d+ secs, took (\d+(?:\.\d+)?) GiB"),
    ("graphs", r"CUDA graph pool memory: (\d+(?:\.\d+)?) GiB \(actual\)"),
    ("graphs_in_activation", r"Estimated CUDA graph memory: (\d+(?:\.\d+)?) GiB total"),
    ("graphs_in_activation", r"CUDA graph pool memory: .* (\d+(?:\.\d+)?) GiB \(estimated\)"),
)

#: vLLM for CPUs (v1/worker/cpu_worker.py). It does not tell its weights; what it calls consumed is
#: all that the process holds of the host's memory, libraries included.
VLLM_CPU_LOG_PATTERNS: tuple[tuple[str, str], ...] = (
    ("kv_cache", r"(?:Explicitly|Auto) set \((\d+(?:\.\d+)?)/[\d.]+\) GiB for KV cache"),
)
