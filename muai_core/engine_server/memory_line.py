"""One line in which our own engines tell what they hold when they are ready, and how to read it."""

from collections.abc import Mapping

_TERMS = ("weights", "kv_cache", "activation", "graphs", "runtime")

#: For `MemoryProfile.log_patterns`.
MEMORY_LINE_PATTERNS: tuple[tuple[str, str], ...] = tuple(
    (term, rf"\bmemory:.* {term} (\d+\.\d+) GiB") for term in _TERMS
)


def memory_line(terms: Mapping[str, int]) -> str:
    """As in "memory: weights 14.957520 GiB, kv_cache 0.000000 GiB", from bytes by term.

    Terms are those of `MemoryProfile.log_patterns`; six digits are one KiB. `kv_cache` is what is
    held by then, not what it may grow to.
    """
    return "memory: " + ", ".join(
        f"{term} {terms[term] / 2**30:.6f} GiB" for term in _TERMS if term in terms
    )
