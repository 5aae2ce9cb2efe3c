"""Streamed text is the same text, whole characters only, and never holds a stop string."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muai_core.engine_server.stop import Detokenizer, StopBuffer, TextStream


def decode_bytes(tokens: Sequence[int]) -> str:
    """A byte-level tokenizer: every token is one byte of UTF-8."""
    return bytes(tokens).decode(errors="replace")


def decode_words(tokens: Sequence[int]) -> str:
    """A tokenizer that drops the leading space of a sequence, as SentencePiece ones do."""
    return "".join(f" w{token}" for token in tokens).removeprefix(" ")


def pieces(tokens: Sequence[int], cuts: list[int]) -> list[list[int]]:
    edges = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    return [list(tokens[a:b]) for a, b in itertools.pairwise(edges)]


texts = st.text(alphabet=st.sampled_from("ab \n<é中😀👩\u200d"), max_size=40)
cuts = st.lists(st.integers(0, 160), max_size=30)
stops = st.lists(st.text(alphabet="ab<é😀", min_size=1, max_size=4), max_size=3)


@given(texts, cuts)
def test_streamed_text_equals_decoded_text(text: str, cuts: list[int]) -> None:
    detokenizer = Detokenizer(decode_bytes)
    parts = [detokenizer.push(piece) for piece in pieces(text.encode(), cuts)]
    assert all("\ufffd" not in part for part in parts)
    assert "".join(parts) + detokenizer.finish() == text


@given(st.binary(max_size=60), cuts)
def test_broken_bytes_are_shown_as_a_plain_decode_shows_them(data: bytes, cuts: list[int]) -> None:
    detokenizer = Detokenizer(decode_bytes)
    parts = [detokenizer.push(piece) for piece in pieces(data, cuts)]
    assert "".join(parts) + detokenizer.finish() == data.decode(errors="replace")


@given(st.lists(st.integers(0, 99), max_size=20), cuts)
def test_leading_space_is_dropped_once(tokens: list[int], cuts: list[int]) -> None:
    detokenizer = Detokenizer(decode_words)
    parts = [detokenizer.push(piece) for piece in pieces(tokens, cuts)]
    assert "".join(parts) + detokenizer.finish() == decode_words(tokens)


def test_endless_unreadable_bytes_are_let_go() -> None:
    detokenizer = Detokenizer(decode_bytes)
    shown = [detokenizer.push([0xFF]) for _ in range(200)]
    assert "".join(shown) == "\ufffd" * 192


def cut_at_first_stop(text: str, stop: list[str]) -> str:
    """The definition: read character by character, end at the first complete stop string."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stop if text[:end].endswith(s)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


@given(texts, stops, cuts)
def test_stop_strings_end_the_text_wherever_it_is_cut(
    text: str, stop: list[str], cuts: list[int]
) -> None:
    stream = TextStream(decode_bytes, stop)
    parts = [stream.push(piece) for piece in pieces(text.encode(), cuts)]
    shown = "".join(parts) + stream.finish()
    assert shown == cut_at_first_stop(text, stop)
    assert stream.stopped == any(s in text for s in stop)
    assert not any(s in shown for s in stop)


def test_text_before_a_possible_stop_string_is_not_held_back() -> None:
    buffer = StopBuffer(["</s>"])
    assert buffer.push("hello </") == "hello "
    assert buffer.push("b>") == "</b>"


def test_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopBuffer([""])
