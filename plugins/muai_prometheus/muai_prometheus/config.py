"""The options under `sinks.prometheus`."""

from pydantic import BaseModel, ConfigDict, Field


class PrometheusOptions(BaseModel):
    """Where the metrics are served."""

    model_config = ConfigDict(extra="forbid")

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on. Metrics carry no secrets, but anyone who reaches the "
        "address may read them.",
    )
    port: int = Field(
        default=9090,
        ge=0,
        le=65535,
        description="Port to listen on; 0 lets the system choose a free one.",
    )
    path: str = Field(
        default="/metrics",
        pattern=r"^/[A-Za-z0-9._~/-]*$",
        description="Path under which the metrics are served.",
    )
