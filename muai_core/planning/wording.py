"""Numbers and exceptions in words, the same everywhere."""

GIB = 1024**3


def gib(memory_bytes: int) -> str:
    """Bytes as GiB with two digits, e.g. '79.22 GiB'; small amounts as MiB."""
    if abs(memory_bytes) < GIB // 10:
        return f"{memory_bytes / 1024**2:.0f} MiB"
    return f"{memory_bytes / GIB:.2f} GiB"


def described(error: BaseException) -> str:
    """Kind and text of an exception that someone else raised, e.g. 'KeyError: 'gpu0''."""
    try:
        text = str(error).encode(errors="replace").decode()
    except Exception as worse:  # noqa: BLE001 - its text is code of the plugin, too
        text = f"(its text cannot be shown: {type(worse).__name__})"
    return f"{type(error).__name__}: {text}"
