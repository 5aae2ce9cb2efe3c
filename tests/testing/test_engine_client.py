"""What the kit's client takes for a stream, and what it refuses as unreadable for clients."""

import pytest

from muai_core.testing import ClauseFailure
from muai_core.testing.engine.client import read_samples, read_stream

HEAD = b'data: {"choices": [{"index": 0, "text": "A", "finish_reason": null}]}\n\n'
LAST = b'data: {"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n'


def test_a_stream_is_put_together() -> None:
    answer = read_stream(HEAD + b": a comment\n\n" + LAST + USAGE + b"data: [DONE]\n\n")
    assert (answer.text, answer.pieces, answer.finish_reason) == ("Ab", ("A", "b"), "stop")
    assert answer.usage == {"total_tokens": 3}
    assert answer.done
    assert not read_stream(HEAD + LAST).done
    assert not read_stream(b"").done


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (HEAD + b'data: {"choices": [{"text": "\xf0\x9f"}]}\n\n', "not UTF-8"),
        (HEAD + b'data: {"choices": [{"te\n\n', "broken"),
        (HEAD + b'data: {"error": {"message": "gone"}}\n\n', "broken"),
        (HEAD + b"data: [1]\n\n", "broken"),
    ],
)
def test_a_broken_stream_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(ClauseFailure, match=words):
        read_stream(raw)


def test_samples_of_a_series_are_added_up() -> None:
    text = '# TYPE a gauge\na{x="1"} 2\na{x="2"} 3\nb_total 4.5\n'
    assert read_samples(text) == {"a": 5.0, "b_total": 4.5}
    with pytest.raises(ClauseFailure, match="line 1"):
        read_samples("<html>\n")
