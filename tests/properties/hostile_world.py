"""What the control plane's small hostile world is made of: devices, wishes and bad events."""

from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import structs

from muai_core.control import events as ev
from muai_core.model.deployment import Affinity, Deployment
from muai_core.model.device import Device, Inventory
from muai_core.model.health import Finding, Health

GIB = 1024**3
TOTAL = 80 * GIB
NAMES = ("chat", "embed", "code")

DEVICES = tuple(
    Device(
        uuid=f"gpu{i}",
        node=f"n{i // 4}",
        index=i % 4,
        kind="gpu",
        platform="cuda" if i < 6 else "cpu",
        name="GPU",
        memory_total_bytes=TOTAL,
        island=f"i{i // 2}",
    )
    for i in range(7)
)

OUTCOMES: dict[type[ev.ReplicaFact], dict[str, Any]] = {
    ev.ReplicaSpawned: {"pid": 100},
    ev.ReplicaProgressed: {"stage": "load"},
    ev.ReplicaReady: {"endpoint": "http://127.0.0.1:2"},
    ev.ReplicaStartFailed: {"cause": "late news"},
    ev.ReplicaExited: {"cause": "late news"},
    ev.ReplicaComplained: {"line": "CUDA error: an illegal memory access was encountered"},
    ev.ReplicaDrained: {},
    ev.ReplicaReleased: {},
}

wishes = st.builds(
    Deployment,
    name=st.sampled_from(NAMES),
    source=st.sampled_from(["one", "two"]),
    engine=st.just("simulated"),
    replicas=st.sampled_from([1, 2, 3, 0]),
    tensor_parallel_size=st.sampled_from([1, 1, 2]),
    pipeline_parallel_size=st.sampled_from([1, 1, 2]),
    platforms=st.sampled_from([("cuda",), ("cuda", "cpu"), ("cpu", "cuda")]),
    affinity=st.sampled_from([Affinity(), Affinity(nodes=("n0",)), Affinity(devices=("1", "2"))]),
    memory_bytes_per_device=st.sampled_from([None, 10 * GIB, 30 * GIB, 70 * GIB]),
)
FINDINGS = [
    Finding(kind="xid", code=79, severity=Health.FAILED, reason="XID 79", clears="repaired"),
    Finding(kind="xid", code=94, severity=Health.SUSPECT, reason="XID 94", clears="checked"),
    Finding(kind="xid", code=43, severity=Health.HEALTHY, reason="XID 43"),
    Finding(kind="xid", code=31, severity=Health.HEALTHY, reason="XID 31", repeat_limit=2),
]
fleets = st.lists(wishes, min_size=1, max_size=3, unique_by=lambda wish: wish.name)
readings = st.builds(
    lambda health, foreign: (health, foreign),
    st.sampled_from([Health.HEALTHY] * 5 + [Health.DEGRADED, Health.FAILED, Health.UNKNOWN]),
    st.sampled_from([None, None, 0, 20 * GIB, 500 * GIB]),
)
some_devices = st.dictionaries(st.sampled_from(range(7)), readings, min_size=3)
names = st.one_of(
    st.sampled_from([f"{name}.{i}" for name in NAMES for i in range(3)]),
    st.sampled_from(["", "chat", "chat.", ".0", "chat.x", "chat.-1", "chat." + "9" * 5000]),
)
epochs = st.integers(-1, 6) | st.sampled_from([2**62, -(2**62)])


def hostile_events() -> st.SearchStrategy[ev.Event]:
    """Anything that decodes as an event, about replicas and devices that may or may not exist."""
    about = {"replica_id": names, "epoch": epochs}
    text = st.sampled_from(["", "x", "cause"])
    gpus = st.sampled_from([*(device.uuid for device in DEVICES), "gpu99", ""])
    return st.one_of(
        st.builds(
            ev.DeviceFaulted,
            source=st.sampled_from(["gpus", "other", ""]),
            uuid=st.none() | gpus,
            observed_at_s=st.sampled_from([-1e12, -1.0, 1e12]),
            finding=st.sampled_from(FINDINGS),
        ),
        st.builds(
            ev.DeviceChecked,
            uuid=gpus,
            check=epochs,
            finding=st.none() | st.sampled_from(FINDINGS),
            inconclusive=st.none() | text,
        ),
        st.builds(ev.DeviceReinstated, uuid=gpus),
        st.builds(
            ev.ReplicaComplained,
            **about,
            line=st.sampled_from(
                ["", "CUDA error: unknown error", "CUDA error: misaligned address"]
            ),
        ),
        st.builds(ev.ReplicaSpawned, **about, pid=st.integers(-2, 9)),
        st.builds(ev.ReplicaProgressed, **about, stage=text),
        st.builds(ev.ReplicaReady, **about, endpoint=text),
        st.builds(ev.ReplicaStartFailed, **about, cause=text),
        st.builds(ev.ReplicaExited, **about, cause=text),
        st.builds(ev.ReplicaDrained, **about),
        st.builds(ev.ReplicaReleased, **about),
        st.builds(ev.DeviceSourceFailed, source=text, reason=text),
        st.builds(
            ev.ReplicasObserved,
            observed_at_s=st.sampled_from([-1.0, 0.0, 5.0, 1e12]),
            sightings=st.lists(st.builds(ev.ReplicaSighting, names, epochs), max_size=3).map(tuple),
        ),
        st.builds(
            lambda inventory: ev.DevicesObserved(inventory=inventory),
            st.sampled_from(
                [
                    _inventory("gpus", 1e12, DEVICES[0]),
                    _inventory("gpus", 1e11, DEVICES[0], DEVICES[0]),
                    _inventory("other", 0.0, DEVICES[0]),
                    _inventory("other", 0.0, structs.replace(DEVICES[0], memory_total_bytes=-1)),
                ]
            ),
        ),
        st.builds(
            ev.DeploymentsDesired,
            deployments=st.sampled_from(
                [
                    (_wish("chat", replicas=-1),),
                    (_wish("chat", replicas=10**9),),
                    (_wish("chat"), _wish("chat")),
                    (_wish("chat", tensor_parallel_size=0),),
                    (_wish("chat", memory_bytes_per_device=-1),),
                ]
            ),
        ),
    )


def outcome(kind: type[ev.ReplicaFact], key: tuple[str, int]) -> ev.ReplicaFact:
    about = {"event": kind.__name__, "replica_id": key[0], "epoch": key[1]}
    return msgspec.convert({**about, **OUTCOMES[kind]}, kind)


def _inventory(source: str, observed_at_s: float, *devices: Device) -> Inventory:
    return Inventory(source=source, observed_at_s=observed_at_s, devices=devices)


def _wish(name: str, **changes: Any) -> Deployment:
    return Deployment(name=name, source="one", engine="simulated", platforms=("cuda",), **changes)
