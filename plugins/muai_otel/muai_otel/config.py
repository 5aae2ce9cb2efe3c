"""The options under `sinks.otel`. What is left out comes from OTEL_* variables, see `settings`."""

from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class OtelOptions(BaseModel):
    """Where metrics and traces go, and what is sent. Secrets have no place here: `headers_file`."""

    model_config = ConfigDict(extra="forbid")

    protocol: Literal["grpc", "http"] | None = Field(
        default=None,
        description="OTLP over gRPC, or over HTTP with protobuf. "
        "Default: OTEL_EXPORTER_OTLP_PROTOCOL, else grpc.",
    )
    endpoint: str | None = Field(
        default=None,
        description="The collector's URL; http:// is plain text, https:// is TLS. Over HTTP, "
        "/v1/metrics and /v1/traces are added. Default: OTEL_EXPORTER_OTLP_ENDPOINT, "
        "else http://127.0.0.1:4317 for grpc and http://127.0.0.1:4318 for http.",
    )
    headers_file: str | None = Field(
        default=None,
        description="A file with headers for the collector, `name: value` on each line, for "
        "example an API key. Default: OTEL_EXPORTER_OTLP_HEADERS.",
    )
    certificate_file: str | None = Field(
        default=None,
        description="PEM file with the certificates to trust. "
        "Default: OTEL_EXPORTER_OTLP_CERTIFICATE, else the system's.",
    )
    client_certificate_file: str | None = Field(
        default=None,
        description="PEM file with our own certificate, where the collector asks for one. "
        "Default: OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE.",
    )
    client_key_file: str | None = Field(
        default=None,
        description="PEM file with the key of that certificate. "
        "Default: OTEL_EXPORTER_OTLP_CLIENT_KEY.",
    )
    compression: Literal["gzip", "none"] | None = Field(
        default=None,
        description="Default: OTEL_EXPORTER_OTLP_COMPRESSION, else none.",
    )
    timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=60,
        description="Seconds that the collector has to take one batch, repeated tries included.",
    )
    metrics: bool = Field(default=True, description="Send metrics.")
    export_interval_s: float | None = Field(
        default=None,
        ge=1,
        le=3600,
        description="Seconds between two batches of metrics. "
        "Default: OTEL_METRIC_EXPORT_INTERVAL (in milliseconds), else 10.",
    )
    traces: bool = Field(default=True, description="Send one span for every sampled request.")
    sample_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the requests without a trace of their client's that is sampled. "
        "Where the client sent one, its own decision counts.",
    )
    max_queued_spans: int = Field(
        default=2048,
        ge=1,
        le=1_000_000,
        description="Spans that wait for the collector; beyond it the oldest are dropped.",
    )
    service_name: str | None = Field(
        default=None,
        min_length=1,
        description="Default: OTEL_SERVICE_NAME, else service.name in OTEL_RESOURCE_ATTRIBUTES, "
        "else muai.",
    )
    resource_attributes: dict[str, str] = Field(
        default={},
        description="Further attributes of everything that is sent, for example "
        "deployment.environment.name. They add to OTEL_RESOURCE_ATTRIBUTES and win over it.",
    )

    @field_validator("endpoint")
    @classmethod
    def _is_base_url(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a URL such as http://127.0.0.1:4317")
        if parts.username or parts.password:
            raise ValueError(
                "no user or password here; write an authorization header "
                "into the file that headers_file names"
            )
        if parts.path.rstrip("/").endswith(("/v1/metrics", "/v1/traces")):
            raise ValueError("leave /v1/metrics and /v1/traces away; they are added")
        return endpoint

    @model_validator(mode="after")
    def _sends_something(self) -> Self:
        if not (self.metrics or self.traces):
            raise ValueError(
                "metrics and traces are both off; remove the sink, or set its enabled to false"
            )
        if (self.client_key_file is None) != (self.client_certificate_file is None):
            raise ValueError("client_certificate_file and client_key_file belong together")
        return self
