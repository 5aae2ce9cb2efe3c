"""Numbers in words, the same everywhere."""

GIB = 1024**3


def gib(memory_bytes: int) -> str:
    """Bytes as GiB with two digits, e.g. '79.22 GiB'; small amounts as MiB."""
    if abs(memory_bytes) < GIB // 10:
        return f"{memory_bytes / 1024**2:.0f} MiB"
    return f"{memory_bytes / GIB:.2f} GiB"
