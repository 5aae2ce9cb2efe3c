"""Requests in traces: what the engine sees, and the record of every way a request can end."""

import asyncio
import json
import time

import pytest

from muai_core.model.requests import UNTRACED

DEADLINE_S = 60.0
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
USAGE = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}


async def traced(door, wait_until, count=1):
    await wait_until(lambda: len(door.recorder.traced) >= count)
    return door.recorder.traced


async def post_raw(door, *header_lines):
    """A request with header lines as given, which no client library would send."""
    body = b'{"model": "m", "messages": []}'
    reader, writer = await asyncio.open_connection("127.0.0.1", door.gateway.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        + b"".join(line + b"\r\n" for line in header_lines)
        + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    answer = await asyncio.wait_for(reader.read(), DEADLINE_S)
    writer.close()
    return answer


async def test_the_engine_continues_under_the_gateways_span(open_door, healthy, wait_until):
    door = await open_door(trace_ratio=0.0)
    engine = await healthy()
    door.publish([engine])
    _, _, answered = await door.post(headers={"Traceparent": PARENT, "Tracestate": "rojo=1"})
    (record,) = await traced(door, wait_until)
    trace = record.trace
    assert (trace.trace_id, trace.parent_span_id, trace.state) == (TRACE, SPAN, "rojo=1")
    seen = engine.requests[0][0]
    assert seen["traceparent"] == f"00-{TRACE}-{trace.span_id}-01"
    assert seen["tracestate"] == "rojo=1"
    assert not {"traceparent", "tracestate", "traceresponse"} & set(answered)


async def test_a_new_trace_reaches_the_engine(open_door, healthy, wait_until):
    door = await open_door(trace_ratio=1.0)
    engine = await healthy()
    door.publish([engine])
    await door.post(headers={"traceparent": "nonsense", "tracestate": "rojo=1"})
    (record,) = await traced(door, wait_until)
    seen = engine.requests[0][0]
    assert seen["traceparent"] == f"00-{record.trace.trace_id}-{record.trace.span_id}-01"
    assert "tracestate" not in seen


async def test_what_is_not_sampled_is_passed_on_but_not_told(open_door, healthy):
    door = await open_door(trace_ratio=0.0)
    engine = await healthy()
    door.publish([engine])
    await door.post()
    await door.post(headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    records = await door.reported(2)
    assert door.recorder.traced == []
    for record, (seen, _) in zip(records, engine.requests, strict=True):
        trace = record.trace
        assert seen["traceparent"] == f"00-{trace.trace_id}-{trace.span_id}-00"
    assert records[1].trace.parent_span_id == SPAN


async def test_headers_pass_as_they_come_while_nobody_traces(door, healthy):
    engine = await healthy()
    door.publish([engine])
    await door.post(headers={"traceparent": "whatever", "tracestate": "rojo=1"})
    await door.post()
    records = await door.reported(2)
    first, second = (seen for seen, _ in engine.requests)
    assert (first["traceparent"], first["tracestate"]) == ("whatever", "rojo=1")
    assert not {"traceparent", "tracestate"} & set(second)
    assert [record.trace for record in records] == [UNTRACED, UNTRACED]


async def test_several_states_are_one_and_several_parents_none(open_door, healthy, wait_until):
    door = await open_door(trace_ratio=1.0)
    engine = await healthy()
    door.publish([engine])
    parent = b"traceparent: " + PARENT.encode()
    await post_raw(door, b"tracestate: a=1", parent, b"TraceState: b=2,c=3")
    await post_raw(door, parent, b"tracestate: a=1", parent)
    one, two = await traced(door, wait_until, 2)
    assert (one.trace.parent_span_id, one.trace.state) == (SPAN, "a=1,b=2,c=3")
    assert (two.trace.parent_span_id, two.trace.state) == (None, "")
    assert two.trace.trace_id != TRACE
    assert engine.requests[0][0]["tracestate"] == "a=1,b=2,c=3"


async def test_every_try_has_the_same_span(open_door, healthy, wait_until):
    door = await open_door(trace_ratio=1.0, retries=1)
    first, second = await healthy(), await healthy()
    first.status = second.status = 503
    door.publish([first, second])
    status, _, _ = await door.post()
    assert status == 503
    (record,) = await traced(door, wait_until)
    sent = [seen["traceparent"] for engine in (first, second) for seen, _ in engine.requests]
    assert sent == [f"00-{record.trace.trace_id}-{record.trace.span_id}-01"] * 2
    assert (record.outcome, record.status, record.retries) == ("failed", 503, 1)
    assert record.error is None, "the engine made that answer"


async def test_the_record_of_a_plain_answer(open_door, healthy, wait_until):
    door = await open_door(trace_ratio=1.0)
    engine = await healthy()
    door.publish([engine])
    before_ns = time.time_ns()
    await door.post("/v1/completions", headers={"x-request-id": "mine-1"})
    (record,) = await traced(door, wait_until)
    assert before_ns - 1_000_000 <= record.started_unix_ns <= time.time_ns()
    assert 0 < record.queue_s < record.duration_s
    assert record.first_token_s is None
    assert (record.operation, record.path) == ("text_completion", "/v1/completions")
    assert (record.model, record.engine, record.replica_id) == ("m", "fake", "m-0")
    assert (record.endpoint, record.request_id) == (engine.url, "mine-1")
    assert (record.status, record.outcome, record.error) == (200, "ok", None)
    assert (record.streamed, record.events, record.retries) == (False, 0, 0)
    assert (record.prompt_tokens, record.completion_tokens) == (5, 6)


async def test_the_record_of_a_stream(open_door, healthy, wait_until):
    door = await open_door(trace_ratio=1.0)
    engine = await healthy()
    door.publish([engine])
    await door.stream()
    (record,) = await traced(door, wait_until)
    assert record.operation == "chat"
    assert record.queue_s <= record.first_token_s <= record.duration_s
    assert (record.streamed, record.events, record.outcome) == (True, 6, "ok")
    assert (record.prompt_tokens, record.completion_tokens) == (None, None)


def chunks(*usages, merged=False):
    """A stream whose events carry these usages, and the writes it comes in."""
    events = [
        b"data: " + json.dumps({"choices": [], "text": 'say "prompt_tokens": 1', **usage}).encode()
        for usage in usages
    ]
    events = [event + b"\n\n" for event in [*events, b"data: [DONE]"]]
    return [b"".join(events)] if merged else events


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize(
    ("usages", "expected"),
    [
        ([{}, {"usage": None}, {"usage": USAGE}], (5, 6)),
        ([{"usage": USAGE | {"completion_tokens": 1}}, {"usage": USAGE}, {}], (5, 6)),
        ([{}, {"usage": USAGE | {"prompt_tokens": -1}}], (None, None)),
        ([{}, {"usage": "prompt_tokens"}], (None, None)),
        ([{}, {"usage": {"completion_tokens": 6, "prompt_tokens": None}}], (None, 6)),
        ([{}, {}], (None, None)),
    ],
)
async def test_tokens_of_a_stream_come_from_its_usage(door, scripted, merged, usages, expected):
    async def script(reader, writer):
        writer.write(STREAM_HEAD)
        for piece in chunks(*usages, merged=merged):
            writer.write(piece)
            await writer.drain()
        writer.close()

    door.publish([await scripted(script)])
    status, events = await door.stream(stream_options={"include_usage": True})
    assert (status, events[-1]) == (200, "[DONE]")
    (record,) = await door.reported()
    assert (record.prompt_tokens, record.completion_tokens) == expected
    assert (record.outcome, record.events) == ("ok", len(usages))


@pytest.mark.parametrize(
    "options", [None, {}, {"include_usage": False}, {"include_usage": "yes"}, "x", [1], 7]
)
async def test_stream_options_are_for_the_engine_to_judge(door, healthy, options):
    engine = await healthy()
    door.publish([engine])
    status, events = await door.stream(stream_options=options)
    assert (status, events[-1]) == (200, "[DONE]")
    assert engine.requests[0][1]["stream_options"] == options


async def test_requests_that_are_refused(open_door, wait_until):
    door = await open_door(trace_ratio=1.0)
    door.publish([])
    await door.post()
    await door.post(model="other")
    await door.session.get(door.url + "/v1/chat/completions")
    one, two = await traced(door, wait_until, 2)
    assert (one.outcome, one.status, one.error) == ("refused", 503, "model_not_ready")
    assert (one.model, one.queue_s) == ("m", None)
    assert (one.engine, one.replica_id, one.endpoint) == (None, None, None)
    assert (two.outcome, two.status, two.error) == ("refused", 404, "model_not_found")
    assert two.model is None


async def test_requests_without_a_generation_are_not_traced(open_door, healthy):
    door = await open_door(trace_ratio=1.0)
    door.publish([await healthy()])
    await door.get("/v1/models", headers={"traceparent": PARENT})
    await door.get("/health")
    await door.get("/v1/chat/completions")
    records = await door.reported(3)
    assert {record.trace for record in records} == {UNTRACED}
    assert [record.operation for record in records] == ["", "", "chat"]
    assert door.recorder.traced == []


async def test_a_request_that_no_replica_answers(open_door, scripted, wait_until):
    async def reset(reader, writer):
        writer.transport.abort()

    door = await open_door(trace_ratio=1.0, retry_wait_s=0.01)
    door.publish([await scripted(reset), await scripted(reset)])
    await door.post()
    (record,) = await traced(door, wait_until)
    assert (record.outcome, record.status, record.error) == ("failed", 502, "replica_failed")
    assert record.retries >= 1
    assert record.replica_id in ("m-0", "m-1")
    assert record.queue_s is not None


async def test_a_replica_that_takes_no_connection_was_handed_nothing(open_door, wait_until):
    door = await open_door(trace_ratio=1.0, retry_wait_s=0.01)
    door.publish(["http://127.0.0.1:9"])
    await door.post()
    (record,) = await traced(door, wait_until)
    assert (record.outcome, record.replica_id, record.queue_s) == ("failed", "m-0", None)


async def test_a_stream_that_breaks(open_door, scripted, wait_until):
    async def cut(reader, writer):
        writer.write(STREAM_HEAD + b'data: {"x": 1}\n\n')
        await writer.drain()
        writer.transport.abort()

    door = await open_door(trace_ratio=1.0)
    door.publish([await scripted(cut)])
    await door.stream()
    (record,) = await traced(door, wait_until)
    assert (record.outcome, record.status) == ("failed", 200)
    assert (record.error, record.events) == ("stream_interrupted", 1)


async def test_a_client_that_leaves(open_door, healthy, wait_until):
    door = await open_door(trace_ratio=1.0)
    engine = await healthy()
    engine.gate.clear()
    door.publish([engine])
    asking = asyncio.create_task(door.post())
    await asyncio.wait_for(engine.began.wait(), DEADLINE_S)
    asking.cancel()
    (record,) = await traced(door, wait_until)
    assert (record.outcome, record.status, record.error) == ("cancelled", 499, None)
    assert record.replica_id == "m-0"


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_gateway_that_stops(open_door, healthy, wait_until, streamed):
    door = await open_door(trace_ratio=1.0)
    engine = await healthy()
    engine.gate.clear()
    door.publish([engine])
    asking = asyncio.create_task(door.stream() if streamed else door.post())
    await wait_until(lambda: engine.running == 1 and (not streamed or engine.began.is_set()))
    await door.gateway.stop(drain_s=0.0)
    await asking
    (record,) = await traced(door, wait_until)
    assert (record.outcome, record.error) == ("failed", "gateway_stopped")


async def test_a_mistake_in_the_gateway_is_told_as_one(open_door, wait_until, monkeypatch):
    door = await open_door(trace_ratio=1.0)
    door.publish(["http://127.0.0.1:9"])
    monkeypatch.setattr("muai_core.gateway.router.Router.choose", lambda *_: 1 / 0)
    status, document, _ = await door.post()
    assert (status, document["error"]["code"]) == (500, "internal_error")
    (record,) = await traced(door, wait_until)
    assert (record.status, record.error) == (500, "internal_error")
    assert record.outcome != "ok"


async def test_whoever_listens_cannot_break_the_gateway(open_door, healthy):
    door = await open_door(trace_ratio=1.0)
    door.publish([await healthy()])
    door.recorder.traced = None
    door.gateway._tracing.tell = lambda record: 1 / 0
    assert (await door.post())[0] == 200
    assert (await door.post())[0] == 200
    assert len(await door.reported(2)) == 2
