"""Text out of tokens: whole characters only, and nothing of a stop string. Pure, no I/O."""

from collections.abc import Callable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_HELD_TOKENS = 64
"""No character spans this many tokens: what is still unreadable then is not text, so let it go."""


class Detokenizer:
    """Decodes a growing token list into text that never has to be taken back.

    A tokenizer may spread one character over several tokens, and may treat the start of a
    sequence specially (leading spaces). So the unread tokens are decoded together with the last
    piece already emitted, and the difference is new; a trailing replacement character means that
    the character is not complete yet.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []
        self._context_text = ""
        self._unread: list[int] = []

    def push(self, token_ids: Sequence[int]) -> str:
        """Adds tokens; returns the text that is certain now, perhaps none."""
        self._unread.extend(token_ids)
        text = self._new_text()
        if not text or (text.endswith(REPLACEMENT) and len(self._unread) < MAX_HELD_TOKENS):
            return ""
        self._advance()
        return text

    def finish(self) -> str:
        """The rest, with a replacement character where a character stayed incomplete."""
        text = self._new_text()
        self._advance()
        return text

    def _new_text(self) -> str:
        if not self._unread:
            return ""
        text = self._decode([*self._context, *self._unread])
        return text[len(self._context_text) :]

    def _advance(self) -> None:
        self._context, self._unread = self._unread, []
        self._context_text = self._decode(self._context) if self._context else ""


class StopBuffer:
    """Passes text through up to the first stop string, however the text is cut into pieces.

    Of several stop strings the one that is complete first wins; of two that end at the same
    character, the longer. Text that could be the beginning of a stop string is held back.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        if any(not s for s in stop):
            raise ValueError("a stop string must not be empty")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Adds text; returns what may be shown now. After a stop string it returns nothing."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [(at + len(s), at) for s in self._stop if (at := text.find(s)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = self._longest_beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held

    def _longest_beginning(self, text: str) -> int:
        longest = min(max((len(s) for s in self._stop), default=0) - 1, len(text))
        for length in range(longest, 0, -1):
            tail = text[len(text) - length :]
            if any(s.startswith(tail) for s in self._stop):
                return length
        return 0


class TextStream:
    """Tokens in, showable text out: a `Detokenizer` followed by a `StopBuffer`."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(decode)
        self._stop = StopBuffer(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been seen; generation should end then."""
        return self._stop.stopped

    def push(self, token_ids: Sequence[int]) -> str:
        """Adds tokens; returns the text to show now."""
        return self._stop.push(self._detokenizer.push(token_ids))

    def finish(self) -> str:
        """The rest of the text when generation ended without a stop string."""
        return self._stop.push(self._detokenizer.finish()) + self._stop.finish()
