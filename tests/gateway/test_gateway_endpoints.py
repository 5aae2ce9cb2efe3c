"""What a client gets from each endpoint, and what it is told when it asks wrongly."""

import asyncio
import json
import time

import pytest
from aiohttp import web


def shape_of(document):
    """The fields of an OpenAI error, or a failure."""
    assert set(document) == {"error"}
    error = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


async def test_models_lists_every_configured_model_ready_or_not(door):
    door.publish([], state="starting", reason="loading weights")
    status, document, _ = await door.get("/v1/models")
    assert status == 200
    assert document["object"] == "list"
    (model,) = document["data"]
    assert model["id"] == "m"
    assert model["object"] == "model"
    assert model["muai"] == {
        "ready": 0,
        "desired": 1,
        "state": "starting",
        "reason": "loading weights",
    }


async def test_one_model_by_name_even_with_a_slash_in_it(door):
    door.publish([], model="org/model")
    for path in ("/v1/models/org/model", "/v1/models/org%2Fmodel"):
        status, document, _ = await door.get(path)
        assert (status, document["id"]) == (200, "org/model")
    status, document, _ = await door.get("/v1/models/other")
    assert status == 404
    assert shape_of(document)["code"] == "model_not_found"
    assert "org/model" in document["error"]["message"]


async def test_health_tells_live_ready_and_what_the_runtime_adds(open_door, healthy):
    door = await open_door(health=lambda: {"devices": [{"id": "cpu", "health": "ok"}]})
    door.publish([await healthy()])
    status, document, _ = await door.get("/health")
    assert status == 200
    assert document == {
        "live": True,
        "ready": {"m": True},
        "devices": [{"id": "cpu", "health": "ok"}],
    }


def raising():
    raise RuntimeError("gone")


@pytest.mark.parametrize(
    "report",
    [raising, lambda: {"devices": object()}, lambda: {"devices": {1j: 2}}, lambda: None],
    ids=["raises", "no_json", "no_json_key", "no_mapping"],
)
async def test_a_failing_health_report_is_not_live(open_door, healthy, report, caplog):
    door = await open_door(health=report)
    door.publish([await healthy()])
    status, document, _ = await door.get("/health")
    assert (status, document) == (503, {"live": False, "ready": {"m": True}})
    assert "the health report failed" in caplog.text
    assert (await door.post())[0] == 200


async def test_a_slow_health_report_cuts_nobody_off(open_door, healthy, wait_until):
    door = await open_door(health=lambda: time.sleep(0.3) or {})
    engine = await healthy()
    engine.gate.clear()
    door.publish([engine])
    streamed = asyncio.create_task(door.stream())
    await wait_until(lambda: engine.running == 1)
    assert (await door.get("/health"))[0] == 200
    engine.gate.set()
    status, events = await streamed
    assert (status, events[-1]) == (200, "[DONE]")


async def test_the_body_reaches_the_engine_byte_for_byte(door, healthy):
    engine = await healthy()
    door.publish([engine])
    body = b'{ "model" :"m",  "messages":[], "odd":1e400, "x":"\\u00e9" , "unknown":{"a":[1,2]}}'
    engine_url = door.url + "/v1/chat/completions"
    headers = {"Content-Type": "application/json; charset=utf-8"}
    async with door.session.post(engine_url, data=body, headers=headers) as response:
        assert response.status == 200
    assert engine.bodies == [body]


async def test_a_body_just_within_the_limit_reaches_the_engine_whole(door, healthy):
    engine = await healthy()
    door.publish([engine])
    pad = "x" * (10 * 2**20 - 100)
    assert (await door.post(pad=pad))[0] == 200
    assert engine.requests[0][1]["pad"] == pad


async def test_a_replica_on_ipv6(door, healthy):
    async def hello(request):
        return web.json_response({"host": request.headers["Host"]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "::1", 0).start()
    except OSError:
        await runner.cleanup()
        pytest.skip("no IPv6 on this machine")
    authority = f"[::1]:{runner.addresses[0][1]}"
    door.publish([f"http://{authority}"])
    assert (await door.post())[1] == {"host": authority}
    await runner.cleanup()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_plain_answers_come_back_as_the_engine_gave_them(door, healthy, path):
    engine = await healthy()
    door.publish([engine])
    status, document, headers = await door.post(path)
    assert status == 200
    assert document == engine.answer
    assert headers["x-muai-replica"] == "m-0"
    (finished,) = await door.reported()
    assert (finished.model, finished.replica_id, finished.status) == ("m", "m-0", 200)
    assert (finished.outcome, finished.streamed, finished.retries) == ("ok", False, 0)
    assert (finished.prompt_tokens, finished.completion_tokens) == (5, 6)


async def test_authorization_and_hop_by_hop_headers_stay_here(open_door, healthy, monkeypatch):
    monkeypatch.setenv("KEYS", "sesame")
    door = await open_door(api_keys_env="KEYS")
    engine = await healthy()
    door.publish([engine])
    sent = {
        "Authorization": "Bearer sesame",
        "Cookie": "a=b",
        "TE": "trailers",
        "traceparent": "00-aa-bb-01",
        "X-Request-Id": "mine-1",
    }
    status, _, headers = await door.post(headers=sent)
    assert status == 200
    assert headers["x-request-id"] == "mine-1"
    ((seen, _),) = engine.requests
    assert seen["x-request-id"] == "mine-1"
    assert seen["traceparent"] == "00-aa-bb-01"
    assert not {"authorization", "cookie", "te", "connection"} & set(seen)


@pytest.mark.parametrize("given", ["", "x" * 200, "a b", "évil", 'quote"'])
async def test_an_insane_request_id_is_replaced(door, healthy, given):
    engine = await healthy()
    door.publish([engine])
    _, _, first = await door.post(headers={"X-Request-Id": given})
    _, _, second = await door.post(headers={"X-Request-Id": given})
    assert first["x-request-id"] != given
    assert first["x-request-id"] != second["x-request-id"]
    assert engine.requests[0][0]["x-request-id"] == first["x-request-id"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_request"),
        (b'{"a":' * 100_000, 400, "invalid_json"),
        (b"[1]", 400, "invalid_request"),
        (b'"m"', 400, "invalid_request"),
        (b'{"model": 5}', 400, "invalid_request"),
        (b'{"model": "m", "stream": "yes"}', 400, "invalid_request"),
        (b"{}", 404, "model_not_found"),
        (b'{"model": null}', 404, "model_not_found"),
        (b'{"model": ""}', 404, "model_not_found"),
        (b'{"model": "other"}', 404, "model_not_found"),
    ],
)
async def test_bodies_that_cannot_be_routed(door, healthy, body, status, code):
    door.publish([await healthy()])
    url = door.url + "/v1/chat/completions"
    headers = {"Content-Type": "application/json"}
    async with door.session.post(url, data=body, headers=headers) as response:
        error = shape_of(await response.json())
        assert (response.status, error["code"]) == (status, code)
        assert response.headers["x-request-id"]
    if code == "model_not_found":
        assert error["param"] == "model"
        assert "models here: m" in error["message"]
    (finished,) = await door.reported()
    assert (finished.outcome, finished.status) == ("refused", status)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("POST", "/v1/embeddings", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
    ],
)
async def test_unknown_paths_and_methods(door, method, path, status, code):
    async with door.session.request(method, door.url + path) as response:
        assert (response.status, shape_of(await response.json())["code"]) == (status, code)
        if status == 405:
            assert response.headers["Allow"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_other_content_types_are_refused(door, healthy, headers):
    door.publish([await healthy()])
    url = door.url + "/v1/completions"
    async with door.session.post(url, data=b'{"model":"m"}', headers=headers) as response:
        assert response.status == 415
        assert shape_of(await response.json())["code"] == "unsupported_media_type"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_and_not_read(open_door, healthy, chunked):
    door = await open_door(max_body_bytes=1000)
    engine = await healthy()
    door.publish([engine])
    url = door.url + "/v1/chat/completions"
    headers = {"Content-Type": "application/json"}

    async def pieces():
        for _ in range(100):
            yield b" " * 100

    data = pieces() if chunked else b" " * 10_000
    async with door.session.post(url, data=data, headers=headers) as response:
        assert response.status == 413
        assert shape_of(await response.json())["code"] == "body_too_large"
    status, _, _ = await door.post(pad="x" * 800)
    assert status == 200
    assert len(engine.requests) == 1


async def test_a_model_that_is_not_ready_says_why_and_when(door):
    door.publish([], state="recovering", reason="the engine exited", retry_after_s=17.0)
    status, document, headers = await door.post()
    assert status == 503
    assert headers["retry-after"] == "17"
    error = shape_of(document)
    assert error["code"] == "model_not_ready"
    assert "recovering" in error["message"]
    assert "the engine exited" in error["message"]


async def test_more_requests_than_allowed_are_sent_away(open_door, healthy, wait_until):
    door = await open_door(max_concurrent_requests=2)
    engine = await healthy()
    engine.gate.clear()
    door.publish([engine])
    waiting = [asyncio.create_task(door.post()) for _ in range(2)]
    await wait_until(lambda: engine.running == 2)
    status, document, headers = await door.post()
    assert status == 429
    assert headers["retry-after"]
    assert shape_of(document)["code"] == "too_many_requests"
    assert (await door.get("/health"))[0] == 200
    engine.gate.set()
    assert [(await task)[0] for task in waiting] == [200, 200]
    assert (await door.post())[0] == 200


async def test_head_and_whole_urls_are_understood(door):
    door.publish([])
    async with door.session.head(door.url + "/v1/models") as response:
        assert response.status == 200
        assert int(response.headers["Content-Length"]) > 0
        assert await response.read() == b""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.gateway.port)
    writer.write(b"GET http://gateway.example/health?verbose=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
    writer.close()


async def test_keys(open_door, healthy, tmp_path, monkeypatch):
    path = tmp_path / "keys"
    path.write_text("# ours\nalpha\n\n beta \n")
    monkeypatch.setenv("MORE_KEYS", "gamma, delta")
    door = await open_door(
        api_keys_file=str(path),
        api_keys_env="MORE_KEYS",
        health=lambda: {"devices": []},
    )
    door.publish([await healthy()])
    for key in ("alpha", "beta", "gamma", "delta"):
        status, _, _ = await door.post(headers={"Authorization": f"Bearer {key}"})
        assert status == 200
    for value in ("Bearer alph", "Bearer ", "alpha", "Basic alpha", "Bearer # ours"):
        status, document, headers = await door.post(headers={"Authorization": value})
        assert status == 401
        assert shape_of(document)["code"] == "invalid_api_key"
        assert headers["www-authenticate"] == "Bearer"
    assert (await door.get("/v1/models"))[0] == 401
    assert (await door.get("/nowhere"))[0] == 401
    assert (await door.get("/health"))[1] == {"live": True, "ready": True}
    known = {"Authorization": "Bearer alpha"}
    assert (await door.get("/health", known))[1]["ready"] == {"m": True}


async def test_errors_of_the_engine_pass_in_openai_shape(door, healthy):
    engine = await healthy()
    door.publish([engine])
    given = {"error": {"message": "too long", "type": "x", "param": None, "code": "y"}}
    engine.status, engine.answer = 400, given
    assert (await door.post())[:2] == (400, given)
    engine.answer = {"detail": "odd"}
    status, document, headers = await door.post()
    assert status == 400
    assert "odd" in shape_of(document)["message"]
    assert headers["x-muai-replica"] == "m-0"
    assert door.recorder.faults == []


async def test_a_request_ahead_of_its_answer_is_answered_in_order(door, healthy):
    door.publish([await healthy()])
    reader, writer = await asyncio.open_connection("127.0.0.1", door.gateway.port)
    body = json.dumps({"model": "m"}).encode()
    post = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"X-Request-Id: r%d\r\nContent-Length: %d\r\n\r\n%b"
    )
    count = 20
    writer.write(b"".join(post % (index, len(body), body) for index in range(count)))
    seen = []
    for _ in range(count):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        seen.append(head.partition(b"x-request-id: ")[2].split(b"\r\n")[0])
    assert seen == [b"r%d" % index for index in range(count)]
    writer.close()


async def test_an_old_client_gets_a_stream_that_ends_with_the_connection(door, healthy):
    door.publish([await healthy()])
    reader, writer = await asyncio.open_connection("127.0.0.1", door.gateway.port)
    body = json.dumps({"model": "m", "stream": True}).encode()
    writer.write(
        b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    answer = await asyncio.wait_for(reader.read(), 60)
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")
    writer.close()


async def test_a_client_that_asks_may_send_after_100_continue(door, healthy):
    door.publish([await healthy()])
    url = door.url + "/v1/completions"
    async with door.session.post(url, json={"model": "m"}, expect100=True) as response:
        assert response.status == 200


async def test_a_failing_observer_changes_nothing(open_door, healthy):
    class Broken:
        def request_finished(self, request):
            raise RuntimeError

        def replica_faulted(self, replica_id, epoch, kind):
            raise RuntimeError

    door = await open_door(observer=Broken(), retry_wait_s=0.1)
    door.publish(["http://127.0.0.1:9", await healthy()])
    for _ in range(4):
        assert (await door.post())[0] == 200
