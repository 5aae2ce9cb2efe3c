"""W3C Trace Context, level 1: which headers continue a trace, and what the engine is sent.

The vectors follow the specification and the names of its own test suite (w3c/trace-context).
"""

import random
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from muai_core.gateway import Tracing
from muai_core.gateway.tracing import engine_headers
from muai_core.model.requests import UNTRACED, TraceContext

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"
OUTGOING = re.compile(r"traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-0[01]\r\n")

VALID = {
    "sampled": (GOOD, True),
    "not_sampled": (f"00-{TRACE}-{SPAN}-00", False),
    "unknown_flags_are_ignored": (f"00-{TRACE}-{SPAN}-03", True),
    "all_flags_but_sampled": (f"00-{TRACE}-{SPAN}-fe", False),
    "spaces_around": (f" \t {GOOD} \t", True),
    "version_cc": (f"cc-{TRACE}-{SPAN}-01", True),
    "version_cc_with_more": (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
    "version_cc_with_a_dash": (f"cc-{TRACE}-{SPAN}-01-", True),
    "version_01_not_sampled": (f"01-{TRACE}-{SPAN}-00-x", False),
    "trace_almost_zero": (f"00-{'0' * 31}1-{'0' * 15}1-01", True),
}

INVALID = {
    "empty": "",
    "word": "hello",
    "version_ff": f"ff-{TRACE}-{SPAN}-01",
    "version_in_capitals": f"CC-{TRACE}-{SPAN}-01",
    "version_too_long": f"000-{TRACE}-{SPAN}-01",
    "version_too_short": f"0-{TRACE}-{SPAN}-01",
    "version_illegal": f".0-{TRACE}-{SPAN}-01",
    "version_00_with_more": f"{GOOD}-what-the-future-will-be-like",
    "version_00_with_a_dash": f"{GOOD}-",
    "version_00_with_a_dot": f"{GOOD}.",
    "version_cc_with_a_dot": f"cc-{TRACE}-{SPAN}-01.what-the-future-will-not-be-like",
    "version_cc_too_short": f"cc-{TRACE}-{SPAN}-0",
    "trace_all_zero": f"00-{'0' * 32}-{SPAN}-01",
    "trace_in_capitals": f"00-{TRACE.upper()}-{SPAN}-01",
    "trace_illegal": f"00-.{TRACE[1:]}-{SPAN}-01",
    "trace_too_long": f"00-{TRACE}0-{SPAN}-01",
    "trace_too_short": f"00-{TRACE[1:]}-{SPAN}-01",
    "parent_all_zero": f"00-{TRACE}-{'0' * 16}-01",
    "parent_in_capitals": f"00-{TRACE}-{SPAN.upper()}-01",
    "parent_illegal": f"00-{TRACE}-.{SPAN[1:]}-01",
    "parent_too_long": f"00-{TRACE}-{SPAN}0-01",
    "parent_too_short": f"00-{TRACE}-{SPAN[1:]}-01",
    "flags_illegal": f"00-{TRACE}-{SPAN}-.0",
    "flags_in_capitals": f"00-{TRACE}-{SPAN}-0A",
    "flags_too_long": f"00-{TRACE}-{SPAN}-001",
    "flags_too_short": f"00-{TRACE}-{SPAN}-1",
    "no_flags": f"00-{TRACE}-{SPAN}",
    "underscores": GOOD.replace("-", "_"),
    "space_inside": f"00- {TRACE}-{SPAN}-01",
    "sign_in_the_number": f"00-{TRACE}-{SPAN}-+1",
    "line_end": f"{GOOD}\n",
    "two_joined": f"{GOOD},{GOOD}",
    "two_of_the_future_joined": f"cc-{TRACE}-{SPAN}-01-x,cc-{TRACE}-{SPAN}-01-x",
}


def begun(parent: str | None, state: str | None = None, ratio: float = 1.0) -> TraceContext:
    headers = {}
    if parent is not None:
        headers[b"traceparent"] = parent.encode("latin-1")
    if state is not None:
        headers[b"tracestate"] = state.encode("latin-1")
    return Tracing(ratio, lambda record: None).begin(headers)


@pytest.mark.parametrize(("parent", "sampled"), VALID.values(), ids=VALID)
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_valid_parent_is_continued(parent: str, sampled: bool, ratio: float) -> None:
    trace = begun(parent, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", ratio)
    _, trace_id, parent_id, *_ = parent.strip().split("-")
    assert (trace.trace_id, trace.parent_span_id) == (trace_id, parent_id)
    assert trace.sampled is sampled, "the client's decision counts, whatever our ratio"
    assert trace.span_id != parent_id
    assert trace.state == "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"


@pytest.mark.parametrize("parent", [*INVALID.values(), None], ids=[*INVALID, "missing"])
def test_an_invalid_parent_begins_a_new_trace_without_state(parent: str | None) -> None:
    trace = begun(parent, "rojo=1")
    assert trace.parent_span_id is None
    assert trace.trace_id not in ("0" * 32, TRACE)
    assert trace.state == ""
    assert trace.sampled


def test_what_the_engine_is_sent() -> None:
    trace = TraceContext(TRACE, SPAN, None, True, "rojo=1,congo=2")
    assert engine_headers(trace) == (
        f"traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: rojo=1,congo=2\r\n".encode()
    )
    trace = TraceContext(TRACE, SPAN, None, False)
    assert engine_headers(trace) == f"traceparent: 00-{TRACE}-{SPAN}-00\r\n".encode()


@given(st.binary(max_size=80), st.binary(max_size=40))
@example(GOOD.encode(), b"a=b")
@example(b"\xff" * 55, b"\xff")
def test_whatever_the_headers_hold_what_goes_out_is_valid(parent: bytes, state: bytes) -> None:
    headers = {b"traceparent": parent, b"tracestate": state}
    trace = Tracing(0.5, lambda record: None).begin(headers)
    line, rest = engine_headers(trace).split(b"\r\n", 1)
    match = OUTGOING.fullmatch(line.decode() + "\r\n")
    assert match is not None
    assert match.groups() == (trace.trace_id, trace.span_id)
    assert set(match[1]) != {"0"}
    assert set(match[2]) != {"0"}
    if trace.parent_span_id is None or not state:
        assert rest == b""
    else:
        assert rest == b"tracestate: " + state + b"\r\n"


@given(st.text("0123456789abcdef-fF,. \t", max_size=70))
def test_only_headers_in_the_form_of_the_specification_are_continued(parent: str) -> None:
    version = parent.strip(" \t")[:2]
    fits = re.match(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?=-|$)", parent.strip())
    if begun(parent).parent_span_id is not None:
        assert fits is not None
        assert version != "ff"


def test_ids_differ_between_requests_and_between_gateways() -> None:
    many = [begun(None) for _ in range(50)]
    one = Tracing(1.0, lambda record: None)
    many += [one.begin({}) for _ in range(1000)]
    assert len({trace.trace_id for trace in many}) == len(many)
    assert len({trace.span_id for trace in many}) == len(many)


def test_ids_of_zeros_are_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random.Random, "getrandbits", lambda self, bits: 0)
    trace = begun(None)
    assert (trace.trace_id, trace.span_id) == ("0" * 31 + "1", "0" * 15 + "1")


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.25, 0.5, 1.0])
def test_new_traces_are_sampled_as_opentelemetry_does(ratio: float) -> None:
    sampling = pytest.importorskip(
        "opentelemetry.sdk.trace.sampling", reason="compares with the OpenTelemetry SDK"
    )
    theirs = sampling.TraceIdRatioBased(ratio)
    tracing = Tracing(ratio, lambda record: None)
    for _ in range(500):
        trace = tracing.begin({})
        result = theirs.should_sample(None, int(trace.trace_id, 16), "x")
        assert trace.sampled == result.decision.is_sampled()


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_ratio_has_to_be_one(ratio: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        Tracing(ratio, lambda record: None)


def test_the_mark_of_untraced_requests_is_no_valid_context() -> None:
    assert begun(f"00-{UNTRACED.trace_id}-{UNTRACED.span_id}-01").parent_span_id is None
    assert not UNTRACED.sampled
