"""Whether vLLM started as planned, read from its log."""

import re

from muai_core import LaunchRequest

_RANK = re.compile(r"rank (\d+) in world size (\d+) is assigned")
_CACHE = re.compile(r"KV cache size: ([\d,]+) tokens")
#: vLLM cuts the cache into whole blocks and may keep one for itself.
_SPARE_TOKENS = 256


def difference(request: LaunchRequest, log: str) -> str | None:
    """What is not as planned, in words; None: all is, or the log does not tell."""
    planned = len(request.devices)
    sizes = {int(match.group(2)) for match in _RANK.finditer(log)}
    ranks = {int(match.group(1)) for match in _RANK.finditer(log)}
    if sizes and sizes != {planned}:
        return f"vLLM runs with world size {max(sizes)}, planned are {planned} ranks"
    if ranks and ranks != set(range(planned)):
        return f"vLLM started {len(ranks)} ranks, planned are {planned}"
    wanted = (request.deployment.max_model_len or 0) * request.deployment.concurrency
    caches = [int(match.group(1).replace(",", "")) for match in _CACHE.finditer(log)]
    if request.ranks and caches and caches[-1] + _SPARE_TOKENS < wanted:
        return f"vLLM's KV cache holds {caches[-1]} tokens, planned are {wanted}"
    return None
