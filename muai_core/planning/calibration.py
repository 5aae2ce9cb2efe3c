"""How measured starts correct what an engine's profile says about its overhead.

Weights and KV cache follow from the model's files and are left alone. What lies beside them (the
peak of a forward pass, runtime and libraries, CUDA graphs, communication) is only known to the one
who measured it:

- one start that needed more raises the terms at once, so that it would have fitted;
- a term shrinks only when the newest three or more starts told it, to the largest of them. What the
  device source saw never shrinks anything: an engine may take memory later than at its start.

Either way no rank of the newest starts would have needed more than is claimed for it then, and a
margin on top as far as the device has it; where a prediction held, no more than the prediction.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct, structs

from muai_core.model.architecture import ModelDescription
from muai_core.model.deployment import Deployment
from muai_core.model.memory import RankMemory
from muai_core.planning.measured import MeasuredRank, MeasuredStart, StartKind, ToldTerms
from muai_core.planning.wording import gib
from muai_core.plugin.memory import MemoryProfile, OverheadTerms

#: vLLM leaves as much beside what it measured, because "the memory profiling may slightly
#: underestimate" (v1/worker/gpu_worker.py, redundancy_buffer_memory).
MARGIN_BYTES = 150 * 2**20
#: So many starts must have told a term before it may shrink.
AGREEING_STARTS = 3
#: The peak of a forward pass is not scaled below this: logs round it to 0.01 GiB, or to nothing.
LEAST_ACTIVATION_FACTOR = 0.01
#: What an engine told is as predicted when it differs by no more than this: logs round.
TOLERANCE = 0.01


class Calibration(Struct, frozen=True):
    """A corrected need, and what was corrected by what, in words for people."""

    profile: MemoryProfile | int | None
    notes: tuple[str, ...] = ()


#: Corrects what an engine answered for a deployment; the deployment has one platform.
Calibrate = Callable[[Deployment, ModelDescription | None, MemoryProfile | int | None], Calibration]


def uncalibrated(
    _: Deployment, __: ModelDescription | None, answer: MemoryProfile | int | None
) -> Calibration:
    """For those who know of no starts."""
    return Calibration(answer)


def calibrated(
    answer: MemoryProfile | int | None, starts: dict[str, list[MeasuredStart]]
) -> Calibration:
    """What an engine answered, corrected by `starts_of` the model.

    A profile gets other overhead terms, for all devices the largest. A number is raised to what a
    rank needed. What is not known before stays unknown.
    """
    if answer is None or not any(starts.values()):
        return Calibration(answer)
    if isinstance(answer, int):
        needed = [
            claim_bytes(rank, one) for of in starts.values() for one in of for rank in one.ranks
        ]
        raised = max([answer, *needed])
        return Calibration(raised, _notes(starts, _changes({"memory": (answer, raised)})))
    # A fleet is as well known as the least known kind of device in it.
    may_shrink = all(len(of) >= AGREEING_STARTS for of in starts.values())
    terms = _largest([corrected(answer.overhead, of, may_shrink) for of in starts.values()])
    changes = _changes(
        {
            "runtime": (answer.overhead.runtime_bytes, terms.runtime_bytes),
            "CUDA graphs": (answer.overhead.graph_bytes, terms.graph_bytes),
            "communication within a stage": (
                answer.overhead.tensor_communication_bytes,
                terms.tensor_communication_bytes,
            ),
            "communication between stages": (
                answer.overhead.pipeline_communication_bytes,
                terms.pipeline_communication_bytes,
            ),
        }
    )
    changes += _activation_change(answer.overhead, terms)
    return Calibration(structs.replace(answer, overhead=terms), _notes(starts, changes))


def corrected(
    terms: OverheadTerms, starts: Sequence[MeasuredStart], may_shrink: bool = True
) -> OverheadTerms:
    """The terms that cover these starts of one model on one kind of device."""
    starts = [start for start in starts if start.overhead is not None]
    agreeing = AGREEING_STARTS if may_shrink else len(starts) + 1
    terms = _with_told(terms, starts, agreeing)
    runtime, tensor, pipeline = (
        terms.runtime_bytes,
        terms.tensor_communication_bytes,
        terms.pipeline_communication_bytes,
    )
    # One rank on one device knows of no communication, so it comes first.
    runtime += max([0, *(_missing(terms, one) for one in starts if _stage(one) == (False, False))])
    terms = structs.replace(terms, runtime_bytes=runtime)
    tensor += max([0, *(_missing(terms, one) for one in starts if _stage(one) == (True, False))])
    pipeline += max([0, *(_missing(terms, one) for one in starts if _stage(one) == (False, True))])
    terms = structs.replace(
        terms, tensor_communication_bytes=tensor, pipeline_communication_bytes=pipeline
    )
    tensor += max([0, *(_missing(terms, one) for one in starts if _stage(one) == (True, True))])
    return structs.replace(terms, tensor_communication_bytes=tensor)


def overhead_bytes(terms: OverheadTerms, kind: StartKind) -> int:
    """Runtime, graphs and communication of one rank."""
    return (
        terms.runtime_bytes
        + terms.graph_bytes
        + kind.tensor_parallel * terms.tensor_communication_bytes
        + kind.pipeline_parallel * terms.pipeline_communication_bytes
    )


def needed_bytes(rank: MeasuredRank, start: MeasuredStart) -> int | None:
    """What a rank needed with its KV cache at the planned size; None: nothing was measured.

    The larger of what its device shows and of the sum of what the engine told, with the prediction
    in place of what it did not tell.
    """
    predicted = rank.predicted
    if predicted is None or start.overhead is None:
        return rank.held_bytes
    told = _told(start, start.overhead)
    found = []
    if rank.held_bytes is not None:
        held_cache = _share(told.kv_cache_bytes, start, "kv_cache_bytes", predicted.kv_cache_bytes)
        found.append(rank.held_bytes - held_cache + predicted.kv_cache_bytes)
    terms = (told.weights_bytes, told.activation_bytes, told.graphs_bytes, told.runtime_bytes)
    if any(term is not None for term in terms):
        activation = _share(
            told.activation_bytes, start, "activation_bytes", predicted.activation_bytes
        )
        graphs, runtime = told.graphs_bytes, told.runtime_bytes
        if graphs is None:
            graphs = start.overhead.graph_bytes
        if runtime is None:
            runtime = overhead_bytes(start.overhead, start.kind) - start.overhead.graph_bytes
        weights = _share(told.weights_bytes, start, "weights_bytes", predicted.weights_bytes)
        fixed = max(weights, predicted.weights_bytes) + predicted.kv_cache_bytes
        found.append(fixed + activation + graphs + runtime)
    return max(found, default=None)


def claim_bytes(rank: MeasuredRank, start: MeasuredStart) -> int:
    """What a start like this must claim for the rank; 0: nothing was measured.

    What it needed and a margin, as far as the device has it. A prediction that held is not
    exceeded: an engine that fills what it is given would get more at every start.
    """
    needed = needed_bytes(rank, start)
    if needed is None:
        return 0
    if needed <= rank.claimed_bytes:
        return min(needed + MARGIN_BYTES, rank.claimed_bytes)
    return min(needed + MARGIN_BYTES, max(rank.held_bytes or 0, rank.device_bytes))


def deviations(start: MeasuredStart) -> tuple[str, ...]:
    """In words, where weights or KV cache, which are not corrected, are not as estimated."""
    ranks = [rank.predicted for rank in start.ranks if rank.predicted is not None]
    if not ranks:
        return ()
    words = []
    weights, told = max(rank.weights_bytes for rank in ranks), start.told.weights_bytes
    if told is not None and weights and abs(told - weights) > TOLERANCE * weights:
        percent = 100 * (told - weights) / weights
        words.append(f"weights: {gib(told)} measured, {gib(weights)} estimated ({percent:+.1f} %)")
    cache, told = max(rank.kv_cache_bytes for rank in ranks), start.told.kv_cache_bytes
    # More is no mistake: some engines take all that is left. Nothing at all: taken when needed.
    if told and told < (1 - TOLERANCE) * cache:
        percent = 100 * (told - cache) / cache
        words.append(f"KV cache: {gib(told)} measured, {gib(cache)} planned ({percent:+.1f} %)")
    return tuple(words)


# --- what the engine told ---------------------------------------------------------------------


def _with_told(
    terms: OverheadTerms, starts: Sequence[MeasuredStart], agreeing: int
) -> OverheadTerms:
    graphs = [found for _, one in _tellings(starts) if (found := one.graphs_bytes) is not None]
    factors = _activation_factors(starts)
    terms = structs.replace(
        terms,
        activation_factor=_settled(terms.activation_factor, factors, agreeing),
        graph_bytes=int(_settled(terms.graph_bytes, graphs, agreeing)),
    )
    runtime = int(_settled(terms.runtime_bytes, _runtimes(starts, (False, False)), agreeing))
    # What the ranks of a stage, or the stages, hold for each other comes on top of that.
    tensor, pipeline = (
        int(_settled(before, [max(0, one - runtime) for one in _runtimes(starts, stage)], agreeing))
        for before, stage in (
            (terms.tensor_communication_bytes, (True, False)),
            (terms.pipeline_communication_bytes, (False, True)),
        )
    )
    return structs.replace(
        terms,
        runtime_bytes=runtime,
        tensor_communication_bytes=tensor,
        pipeline_communication_bytes=pipeline,
    )


def _activation_factors(starts: Iterable[MeasuredStart]) -> list[float]:
    """What the formula must be scaled by to give what was told."""
    factors = []
    for start, told in _tellings(starts):
        used, predicted = start.overhead, _most(start, "activation_bytes")
        if used is None or told.activation_bytes is None or not predicted:
            continue
        if used.activation_factor >= LEAST_ACTIVATION_FACTOR:
            factor = used.activation_factor * (told.activation_bytes / predicted)
            factors.append(max(LEAST_ACTIVATION_FACTOR, factor))
    return factors


def _tellings(starts: Iterable[MeasuredStart]) -> Iterator[tuple[MeasuredStart, ToldTerms]]:
    for start in starts:
        if start.overhead is not None:
            yield start, _told(start, start.overhead)


def _told(start: MeasuredStart, used: OverheadTerms) -> ToldTerms:
    """What was told, and the prediction in place of what is close to it."""
    told, of_ranks = start.told, ("weights_bytes", "kv_cache_bytes", "activation_bytes")
    predicted = {field: _most(start, field) for field in of_ranks}
    predicted["graphs_bytes"] = used.graph_bytes
    predicted["runtime_bytes"] = overhead_bytes(used, start.kind) - used.graph_bytes
    close = {
        field: before
        for field, before in predicted.items()
        if (now := getattr(told, field)) is not None and abs(now - before) <= TOLERANCE * before
    }
    return structs.replace(told, **close)


def _settled(before: float, told: Sequence[float], agreeing: int) -> float:
    """Up at once, down when enough starts told it."""
    if len(told) >= agreeing:
        return max(told)
    return max([before, *told])


def _runtimes(starts: Iterable[MeasuredStart], stage: tuple[bool, bool]) -> list[int]:
    return [
        told.runtime_bytes
        for one, told in _tellings(starts)
        if told.runtime_bytes is not None and _stage(one) == stage
    ]


# --- what the device source saw -----------------------------------------------------------------


def _missing(terms: OverheadTerms, start: MeasuredStart) -> int:
    """How much these terms are short of what any rank of the start must claim."""
    missing = 0
    for rank in start.ranks:
        if rank.predicted is None:
            continue
        fixed = rank.predicted.weights_bytes + rank.predicted.kv_cache_bytes
        fixed += _activation_at_least(rank.predicted, terms, start.overhead)
        claimed = fixed + overhead_bytes(terms, start.kind)
        missing = max(missing, claim_bytes(rank, start) - claimed)
    return missing


def _activation_at_least(
    predicted: RankMemory, terms: OverheadTerms, used: OverheadTerms | None
) -> int:
    """What the formula gives with `terms` where it gave `predicted` with `used`, or less."""
    assert used is not None
    layer = min(_ratio(terms, used, "hidden_factor"), _ratio(terms, used, "ffn_factor"))
    layer *= _ratio(terms, used, "batched_tokens")
    if used.activation_factor < LEAST_ACTIVATION_FACTOR:
        return 0
    ratio = min(layer, _ratio(terms, used, "logit_tokens"))
    ratio *= terms.activation_factor / used.activation_factor
    if ratio == 1:
        return predicted.activation_bytes
    # One byte for the rounding of both.
    return max(0, int(predicted.activation_bytes * ratio) - 1)


def _ratio(now: OverheadTerms, then: OverheadTerms, field: str) -> float:
    """At most 1: not all of a sum grows with one of its factors."""
    before: float = getattr(then, field)
    return min(1.0, getattr(now, field) / before) if before else 1.0


def _stage(start: MeasuredStart) -> tuple[bool, bool]:
    return start.kind.tensor_parallel, start.kind.pipeline_parallel


def _most(start: MeasuredStart, field: str) -> int:
    found = [getattr(one.predicted, field) for one in start.ranks if one.predicted is not None]
    return max(found, default=0)


def _share(told: int | None, start: MeasuredStart, field: str, predicted: int) -> int:
    """A rank's part of what was told of the largest one; the prediction, if nothing was told."""
    if told is None:
        return predicted
    most = _most(start, field)
    return told * predicted // most if most else told


def _largest(every: Sequence[OverheadTerms]) -> OverheadTerms:
    fields = OverheadTerms.__struct_fields__
    return OverheadTerms(**{name: max(getattr(one, name) for one in every) for name in fields})


# --- in words -----------------------------------------------------------------------------------


def _notes(starts: dict[str, list[MeasuredStart]], changes: list[str]) -> tuple[str, ...]:
    measured = {name: len(of) for name, of in starts.items() if of}
    count = sum(measured.values())
    by = f"{count} start{'s' if count != 1 else ''} of this model on {', '.join(measured)}"
    told = "; ".join(changes) or "they held what was predicted"
    deviating = [words for of in starts.values() for one in of[-1:] for words in deviations(one)]
    return (f"calibrated by {by}: {told}", *dict.fromkeys(deviating))


def _changes(terms: dict[str, tuple[int, int]]) -> list[str]:
    return [
        f"{name} {gib(now)} instead of {gib(before)}"
        for name, (before, now) in terms.items()
        if now != before
    ]


def _activation_change(before: OverheadTerms, now: OverheadTerms) -> list[str]:
    if now.activation_factor == before.activation_factor:
        return []
    return [f"activation {now.activation_factor:.2f} times the formula"]
