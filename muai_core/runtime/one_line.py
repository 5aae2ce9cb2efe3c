"""What engines and plugins say, fit for one line of a terminal, a log or a status."""


def one_line(text: str, limit_characters: int = 200) -> str:
    """The text without line breaks, control characters and lone surrogates, cut at the limit."""
    # A text of megabytes must not cost time in proportion.
    start = text[: 10 * limit_characters]
    line = " ".join("".join(c if c.isprintable() else " " for c in start).split())
    if len(line) <= limit_characters:
        return line
    return line[: limit_characters - 1] + "…"
