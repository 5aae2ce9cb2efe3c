"""Which model families split correctly, by `model_type`. Imports nothing heavy.

Found by running: logits of split random models against one process (DeepSpeed 0.19.8, transformers
5.19). What is in neither list is checked at every start.
"""

#: Tensor parallelism and pipeline stages give the logits of one process; the tests try them.
VERIFIED = frozenset({"llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"})

#: What DeepSpeed's automatic tensor parallelism (AutoTP) makes wrong or cannot do, and why.
BROKEN = {
    "phi3": "AutoTP cuts its fused query, key and value projection in the wrong places",
    "olmo2": "AutoTP does not cut its query and key norms, which span all heads",
    "gpt_oss": "AutoTP does not cut its attention sinks",
    "gpt2": "AutoTP does not support it",
}


def broken_reason(model_type: str, tensor_parallel_size: int) -> str | None:
    """Why the family cannot be served with this tensor-parallel size; None: nothing is known."""
    if tensor_parallel_size == 1 or model_type not in BROKEN:
        return None
    return (
        f"model_type {model_type} with tensor_parallel_size {tensor_parallel_size}: "
        f"{BROKEN[model_type]}; use tensor_parallel_size 1"
    )
