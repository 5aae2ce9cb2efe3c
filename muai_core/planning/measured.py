"""Starts of replicas that were measured: what was predicted for each rank, and what it held."""

from collections.abc import Collection, Iterable, Mapping
from hashlib import blake2b

import msgspec
from msgspec import Struct

from muai_core.model.architecture import ModelDescription
from muai_core.model.deployment import Deployment
from muai_core.model.device import Platform
from muai_core.model.memory import RankMemory
from muai_core.plugin.memory import OverheadTerms

#: Older starts of the same kind count no more.
NEWEST_STARTS = 8


class StartKind(Struct, frozen=True, kw_only=True, order=True):
    """Starts that should need the same memory."""

    engine: str
    platform: Platform
    #: What the devices are called, as in "NVIDIA H100 80GB HBM3".
    device: str
    #: Model, formats, context and engine options in a few characters: `fingerprint`.
    model: str
    #: Whether there is more than one rank in a stage, and more than one stage.
    tensor_parallel: bool = False
    pipeline_parallel: bool = False


class ToldTerms(Struct, frozen=True, kw_only=True):
    """What an engine told of its memory, in bytes: the largest of its ranks. None: not told."""

    weights_bytes: int | None = None
    #: Held at the end of the start.
    kv_cache_bytes: int | None = None
    activation_bytes: int | None = None
    graphs_bytes: int | None = None
    #: Runtime, libraries and communication.
    runtime_bytes: int | None = None


class MeasuredRank(Struct, frozen=True, kw_only=True):
    """One rank of a start. `predicted` None: only the sum `claimed_bytes` was known before."""

    claimed_bytes: int
    predicted: RankMemory | None = None
    #: On its device by the replica's own processes. None: the device source does not show it.
    held_bytes: int | None = None
    device_bytes: int


class MeasuredStart(Struct, frozen=True, kw_only=True):
    """What one start of a replica was predicted to hold, and what it held."""

    kind: StartKind
    #: Unix time.
    measured_at_s: float
    #: With which the prediction was made; None: no profile.
    overhead: OverheadTerms | None = None
    ranks: tuple[MeasuredRank, ...]
    told: ToldTerms = ToldTerms()


def fingerprint(deployment: Deployment, model: ModelDescription | None) -> str:
    """Twelve hexadecimal digits that are the same where the memory should be the same.

    They depend on the model's architecture and size (on its source, where no files describe it), on
    formats, context, concurrency and engine options, and on nothing else.
    """
    subject = (
        deployment.source if model is None else (model.architecture, model.stored_bytes),
        deployment.dtype,
        deployment.kv_cache_dtype,
        deployment.max_model_len,
        deployment.concurrency,
        deployment.engine_options,
    )
    return blake2b(msgspec.json.encode(subject, order="sorted"), digest_size=6).hexdigest()


def newest(starts: Iterable[MeasuredStart], kept: int = NEWEST_STARTS) -> list[MeasuredStart]:
    """The newest starts of each kind, in an order that does not depend on the one given."""
    by_kind: dict[StartKind, list[MeasuredStart]] = {}
    for start in sorted(starts, key=lambda one: (one.measured_at_s, msgspec.json.encode(one))):
        by_kind.setdefault(start.kind, []).append(start)
    return [start for kind in sorted(by_kind) for start in by_kind[kind][-kept:]]


def starts_of(
    starts: Iterable[MeasuredStart],
    *,
    engine: str,
    platform: Platform,
    model: str,
    devices: Collection[str] | None = None,
) -> dict[str, list[MeasuredStart]]:
    """The newest starts of one model, by the name of the device.

    With `devices` exactly those names are there, also those without a start: a mixed fleet is as
    well known as its least known device.
    """
    found: dict[str, list[MeasuredStart]] = {name: [] for name in sorted(devices or ())}
    for start in newest(starts):
        kind = start.kind
        if (kind.engine, kind.platform, kind.model) != (engine, platform, model):
            continue
        if devices is None or kind.device in found:
            found.setdefault(kind.device, []).append(start)
    return found


def told_terms(found: Mapping[str, float]) -> ToldTerms:
    """What an engine told, from the numbers in GiB that the `log_patterns` of its profile found.

    `consumed` is weights and runtime together; `graphs_in_activation` what `activation` counts of
    the graphs although they are told, too.
    """
    told = {term: int(amount_gib * 2**30) for term, amount_gib in found.items()}
    weights, consumed = told.get("weights"), told.get("consumed")
    runtime, activation = told.get("runtime"), told.get("activation")
    if runtime is None and weights is not None and consumed is not None:
        runtime = max(0, consumed - weights)
    if activation is not None and "graphs" in told:
        activation = max(0, activation - told.get("graphs_in_activation", 0))
    return ToldTerms(
        weights_bytes=weights,
        kv_cache_bytes=told.get("kv_cache"),
        activation_bytes=activation,
        graphs_bytes=told.get("graphs"),
        runtime_bytes=runtime,
    )
