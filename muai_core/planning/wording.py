"""Numbers, exceptions and foreign texts in words, the same everywhere."""

GIB = 1024**3


def gib(memory_bytes: int) -> str:
    """Bytes as GiB with two digits, e.g. '79.22 GiB'; small amounts as MiB."""
    if abs(memory_bytes) < GIB // 10:
        return f"{memory_bytes / 1024**2:.0f} MiB"
    return f"{memory_bytes / GIB:.2f} GiB"


def described(error: BaseException) -> str:
    """Kind and text of an exception that someone else raised, in one line, e.g. 'KeyError: 'a''."""
    try:
        text = one_line(str(error), 500)
    except Exception as worse:  # noqa: BLE001 - its text is code of the plugin, too
        text = f"(its text cannot be shown: {type(worse).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(text: str, limit_characters: int = 200) -> str:
    """What an engine or a plugin says, without line breaks and control characters, cut short."""
    # A text of megabytes must not cost time in proportion.
    start = text[: 10 * limit_characters]
    line = " ".join("".join(c if c.isprintable() else " " for c in start).split())
    if len(line) <= limit_characters:
        return line
    return line[: limit_characters - 1] + "…"
