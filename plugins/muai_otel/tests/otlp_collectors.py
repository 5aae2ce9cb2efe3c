"""Collectors that speak the real protocol, over gRPC and over HTTP."""

import gzip
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

DEADLINE_S = 30.0
_THREADS = 4
REQUESTS = {
    "metrics": metrics_service.ExportMetricsServiceRequest,
    "traces": trace_service.ExportTraceServiceRequest,
}
RESPONSES = {
    "metrics": metrics_service.ExportMetricsServiceResponse,
    "traces": trace_service.ExportTraceServiceResponse,
}


def wait_for(what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The first true result of the condition."""
    deadline = time.monotonic() + deadline_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {deadline_s:g} s"
        time.sleep(0.02)
    return result


def value_of(any_value: Any) -> Any:
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes_of(item: Any) -> dict[str, Any]:
    return {pair.key: value_of(pair.value) for pair in item.attributes}


class Tls(NamedTuple):
    """PEM files: a certificate for 127.0.0.1 and its key."""

    certificate: Path
    key: Path


class Collector:
    """Keeps what it gets. `answer` may block or raise the status that the client gets."""

    protocol: str
    port: int

    def __init__(self, tls: Tls | None) -> None:
        self._scheme = "https" if tls else "http"
        self.requests: dict[str, list[Any]] = {"metrics": [], "traces": []}
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        #: Called for every request; a number that it returns is the failure to answer with.
        self.answer: Callable[[str], int | None] = lambda signal: None

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def all_metrics(self) -> list[Any]:
        """Every metric of every request, oldest first."""
        return [
            metric
            for request in list(self.requests["metrics"])
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    def metrics(self) -> dict[str, Any]:
        """The newest state of every metric, by name."""
        return {metric.name: metric for metric in self.all_metrics()}

    def points(self, name: str) -> dict[frozenset[tuple[str, Any]], Any]:
        """The newest data point of every series of a metric, by its attributes."""
        return {
            frozenset(attributes_of(point).items()): point
            for metric in self.all_metrics()
            if metric.name == name
            for point in getattr(metric, metric.WhichOneof("data")).data_points
        }

    def spans(self) -> list[Any]:
        return [
            span
            for request in list(self.requests["traces"])
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def stop(self) -> None:
        raise NotImplementedError


class GrpcCollector(Collector):
    protocol = "grpc"

    def __init__(self, port: int = 0, tls: Tls | None = None) -> None:
        super().__init__(tls)
        self._pool = ThreadPoolExecutor(_THREADS)
        # All of them begin here, so that none that begins later is taken for one of the sink's.
        together = threading.Barrier(_THREADS)
        list(self._pool.map(lambda _: together.wait(), range(_THREADS)))
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        metrics = type("Metrics", (metrics_grpc.MetricsServiceServicer,), {})()
        metrics.Export = lambda request, context: self._export("metrics", request, context)
        metrics_grpc.add_MetricsServiceServicer_to_server(metrics, self._server)
        traces = type("Traces", (trace_grpc.TraceServiceServicer,), {})()
        traces.Export = lambda request, context: self._export("traces", request, context)
        trace_grpc.add_TraceServiceServicer_to_server(traces, self._server)
        address = f"127.0.0.1:{port}"
        if tls is None:
            self.port = self._server.add_insecure_port(address)
        else:
            pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
            self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()
        self._pool.shutdown(wait=False)

    def _export(self, signal: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.headers.append({str(key): str(value) for key, value in context.invocation_metadata()})
        self.paths.append(signal)
        failure = self.answer(signal)
        if failure is not None:
            codes = {code.value[0]: code for code in grpc.StatusCode}
            context.abort(codes[failure], "no")
        self.requests[signal].append(request)
        return RESPONSES[signal]()


class HttpCollector(Collector):
    protocol = "http"

    def __init__(self, port: int = 0, tls: Tls | None = None) -> None:
        super().__init__(tls)
        collector = self

        class Receiver(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector._export(self, body)

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", port), Receiver)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self._open: list[BaseHTTPRequestHandler] = []

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for receiver in self._open:
            receiver.close_connection = True
            with_socket = receiver.connection
            try:
                with_socket.shutdown(2)
            except OSError:
                continue

    def _export(self, receiver: BaseHTTPRequestHandler, body: bytes) -> None:
        self._open.append(receiver)
        self.headers.append({key.lower(): value for key, value in receiver.headers.items()})
        self.paths.append(receiver.path)
        signal = receiver.path.rpartition("/")[2]
        failure = self.answer(signal)
        if receiver.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if failure is None:
            self.requests[signal].append(REQUESTS[signal].FromString(body))
        answer = RESPONSES[signal]().SerializeToString()
        receiver.send_response(200 if failure is None else failure)
        receiver.send_header("Content-Type", "application/x-protobuf")
        receiver.send_header("Content-Length", str(len(answer)))
        receiver.end_headers()
        receiver.wfile.write(answer)


COLLECTORS: dict[str, type[GrpcCollector] | type[HttpCollector]] = {
    "grpc": GrpcCollector,
    "http": HttpCollector,
}
