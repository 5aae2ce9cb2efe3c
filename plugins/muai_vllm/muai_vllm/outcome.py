"""Whether vLLM started as planned, read from its log."""

import re

from muai_core import LaunchRequest

#: Each rank says the first; the second may be told by one rank for all (0.32).
_RANKS = re.compile(r"world_size=(\d+) rank=(\d+) local_rank=")
_WORLD = re.compile(r"rank \d+ in world size (\d+) is assigned")
_CACHE = re.compile(r"KV cache size: ([\d,]+) tokens")
#: vLLM cuts the cache into whole blocks and may keep one for itself.
_SPARE_TOKENS = 256


def difference(request: LaunchRequest, log: str) -> str | None:
    """What is not as planned, in words; None: all is, or the log does not tell."""
    planned = len(request.devices)
    sizes = {int(size) for size in _WORLD.findall(log)}
    sizes |= {int(size) for size, _ in _RANKS.findall(log)}
    ranks = {int(rank) for _, rank in _RANKS.findall(log)}
    if sizes and sizes != {planned}:
        return f"vLLM runs with world size {max(sizes)}, planned are {planned} ranks"
    if ranks and ranks != set(range(planned)):
        return f"vLLM started {len(ranks)} ranks, planned are {planned}"
    wanted = (request.deployment.max_model_len or 0) * request.deployment.concurrency
    caches = [int(match.group(1).replace(",", "")) for match in _CACHE.finditer(log)]
    if request.ranks and caches and caches[-1] + _SPARE_TOKENS < wanted:
        return f"vLLM's KV cache holds {caches[-1]} tokens, planned are {wanted}"
    return None
