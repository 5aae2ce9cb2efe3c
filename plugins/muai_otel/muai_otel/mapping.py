"""How MuAI's metrics are called in OpenTelemetry, as data.

`CONVENTIONS` lists the metrics that OpenTelemetry's semantic conventions have a name for: hardware
(https://opentelemetry.io/docs/specs/semconv/hardware/) and generative AI
(https://github.com/open-telemetry/semantic-conventions-genai), both in status "development".
All others keep their name: see `own_form`.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from muai_core.model.metrics import MetricFamily, MetricKind

Instrument = Literal["gauge", "updowncounter", "counter", "histogram"]

#: The label that names a GPU; its series get what `gpu_info` tells of it.
GPU_LABEL = "gpu_id"
GPU_INFO = "gpu_info"

#: Label of `gpu_info` → attribute of every series of that GPU.
IDENTITY: Mapping[str, str] = {
    "uuid": "hw.id",
    "name": "hw.model",
    "vendor": "hw.vendor",
    "driver_version": "hw.driver_version",
    "parent_uuid": "hw.parent",
    "node": "muai.node",
}


class Attribute(Struct, frozen=True):
    """What becomes of one label: the attribute's name, and its value in OpenTelemetry's words.

    A value that `words` does not know is put into `form`.
    """

    name: str
    words: Mapping[str, str] = {}
    form: str = "{}"

    def value(self, label: str) -> str:
        return self.words.get(label) or self.form.format(label)


class Form(Struct, frozen=True, kw_only=True):
    """One metric in OpenTelemetry."""

    name: str
    #: As UCUM writes it; empty: a plain number.
    unit: str
    instrument: Instrument
    #: None: as MuAI describes it.
    description: str | None = None
    #: Label → attribute; a label that is not here keeps its name.
    attributes: Mapping[str, Attribute] = {}
    #: The same for every series.
    constants: Mapping[str, str] = {}
    #: OpenTelemetry's value for one of ours.
    scale: float = 1.0
    #: No convention knows the metric; it keeps its name and all of its labels.
    is_own: bool = False

    @property
    def whole(self) -> bool:
        """Whether values are whole numbers: bytes, errors, counts, states."""
        counts = self.instrument == "updowncounter" or (
            self.instrument == "counter" and not self.unit
        )
        return counts or self.unit in ("By", "{error}")


_COUNTED_BY_MUAI = frozenset({"gpu_xid_errors"})

_TRANSFERRED = Attribute(
    "network.io.direction",
    {"rx": "receive", "tx": "transmit"},
)
_LIMIT = Attribute(
    "hw.limit_type",
    {"slowdown": "throttled", "shutdown": "high.critical", "gpu_max": "max"},
)
_STATE = Attribute("hw.state", {"healthy": "ok", "suspect": "predicted_failure"})
_MODEL = Attribute("gen_ai.request.model")
#: The conventions require an operation; these metrics count chats and text completions together.
_ANY_OPERATION = {"gen_ai.operation.name": "inference"}
#: Who answers is MuAI, whatever engine is behind it.
PROVIDER = {"gen_ai.provider.name": "muai"}


def _errors(**attributes: Attribute) -> Form:
    return Form(
        name="hw.errors",
        unit="{error}",
        instrument="counter",
        description="Number of errors encountered by the component.",
        attributes=attributes,
        constants={} if attributes else {"error.type": "pcie_replay"},
    )


def _server_histogram(name: str) -> Form:
    return Form(
        name=f"gen_ai.server.{name}",
        unit="s",
        instrument="histogram",
        attributes={"model": _MODEL},
        constants={**PROVIDER, **_ANY_OPERATION},
    )


_UTILIZATION = "hw.gpu.utilization"
_TEMPERATURE = "hw.temperature"

#: Name here → form there. Where two yield the same series, the one that comes first is sent.
CONVENTIONS: Mapping[str, Form] = {
    "gpu_memory_used_bytes": Form(
        name="hw.gpu.memory.usage", unit="By", instrument="updowncounter"
    ),
    "gpu_memory_total_bytes": Form(
        name="hw.gpu.memory.limit", unit="By", instrument="updowncounter"
    ),
    "gpu_utilization_ratio": Form(
        name=_UTILIZATION,
        unit="1",
        instrument="gauge",
        attributes={"task": Attribute("hw.gpu.task")},
    ),
    "gpu_utilization_percent": Form(
        name=_UTILIZATION,
        unit="1",
        instrument="gauge",
        constants={"hw.gpu.task": "general"},
        scale=0.01,
    ),
    "gpu_temperature_celsius": Form(
        name=_TEMPERATURE,
        unit="Cel",
        instrument="gauge",
        constants={"hw.sensor_location": "gpu"},
    ),
    "gpu_temperature_sensor_celsius": Form(
        name=_TEMPERATURE,
        unit="Cel",
        instrument="gauge",
        attributes={"sensor": Attribute("hw.sensor_location")},
    ),
    "gpu_temperature_limit_celsius": Form(
        name="hw.temperature.limit", unit="Cel", instrument="gauge", attributes={"limit": _LIMIT}
    ),
    "gpu_power_watts": Form(name="hw.power", unit="W", instrument="gauge"),
    "gpu_energy_joules": Form(name="hw.energy", unit="J", instrument="counter"),
    "gpu_pcie_io_bytes": Form(
        name="hw.gpu.io", unit="By", instrument="counter", attributes={"direction": _TRANSFERRED}
    ),
    "gpu_ecc_errors": _errors(
        error_type=Attribute("error.type"), location=Attribute("muai.error.location")
    ),
    "gpu_xid_errors": _errors(xid=Attribute("error.type", form="xid_{}")),
    "gpu_nvlink_errors": _errors(kind=Attribute("error.type", form="nvlink_{}")),
    "gpu_pcie_replays": _errors(),
    "gpu_health_state": Form(
        name="hw.status",
        unit="1",
        instrument="updowncounter",
        attributes={"state": _STATE},
    ),
    "muai_request_duration_seconds": _server_histogram("request.duration"),
    "muai_time_to_first_token_seconds": _server_histogram("time_to_first_token"),
    "muai_time_per_output_token_seconds": _server_histogram("time_per_output_token"),
}

#: How our names end, and the unit that says the same.
UNITS: Mapping[str, str] = {
    "_bytes_per_second": "By/s",
    "_bytes": "By",
    "_seconds": "s",
    "_ratio": "1",
    "_percent": "%",
    "_celsius": "Cel",
    "_watts": "W",
    "_joules": "J",
    "_hertz": "Hz",
}
_NAMESPACES = ("muai_", "gpu_")
_INSTRUMENTS: Mapping[MetricKind, Instrument] = {
    "gauge": "gauge",
    "counter": "counter",
    "histogram": "histogram",
}


def form_of(family: MetricFamily) -> Form:
    """The metric in OpenTelemetry: by its conventions where they know it, else its own form."""
    return CONVENTIONS.get(family.name) or own_form(family.name, family.kind)


def counted_by_device(name: str) -> bool:
    """Whether the device counts, since a time that we do not know: its first value is not zero."""
    return name.startswith("gpu_") and name not in _COUNTED_BY_MUAI


def own_form(name: str, kind: MetricKind) -> Form:
    """`muai_controller_uptime_seconds` becomes `muai.controller_uptime` with the unit `s`.

    OpenTelemetry's translation to Prometheus makes the same name of it again. Labels stay. Names
    of engines may have colons, as `vllm:num_requests_running`: OpenTelemetry separates with dots.
    """
    unit = ""
    for ending, its_unit in UNITS.items():
        if name.endswith(ending):
            name, unit = name.removesuffix(ending), its_unit
            break
    for namespace in _NAMESPACES:
        if name.startswith(namespace):
            name = f"{namespace.removesuffix('_')}.{name.removeprefix(namespace)}"
    name = name.replace(":", ".")
    return Form(name=name, unit=unit, instrument=_INSTRUMENTS[kind], is_own=True)
