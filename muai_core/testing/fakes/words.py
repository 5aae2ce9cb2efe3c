"""The language of the fake engine: bytes as tokens, and text that follows from the prompt. Pure."""

import hashlib
from collections.abc import Iterator, Sequence

END = 256
_WORDS = (
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jetty",
    "kelp", "larch", "maple", "north", "ocean", "pebble", "quartz", "river", "stone", "tidal",
    "upland", "vale", "water", "yarrow", "zephyr", "anchor", "beacon", "coast", "dune", "estuary",
    "foam", "gull",
)  # fmt: skip
_FOREIGN = "Größe 🙂 日本語 мир "


def encode(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


def decode(token_ids: Sequence[int]) -> str:
    return bytes(token for token in token_ids if token < END).decode("utf-8", errors="replace")


def continuation(prompt: Sequence[int], salt: str) -> Iterator[int]:
    """Tokens without end; the same for the same prompt and salt."""
    text = bytes(token for token in prompt if token < END)
    if not text.isascii():
        while True:
            yield from _FOREIGN.encode()
    chain = hashlib.blake2b(salt.encode() + b"\0" + text, digest_size=8)
    while True:
        word = _WORDS[chain.digest()[0] % len(_WORDS)]
        yield from f" {word}".encode()
        chain.update(word.encode())
