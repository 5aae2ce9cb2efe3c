"""What measured starts do to a profile's overhead: laws, and the rule in single cases."""

import random
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from muai_core.model.deployment import Deployment
from muai_core.model.memory import RankMemory
from muai_core.planning.calibration import (
    AGREEING_STARTS,
    MARGIN_BYTES,
    Calibration,
    calibrated,
    claim_bytes,
    needed_bytes,
    overhead_bytes,
)
from muai_core.planning.measured import (
    NEWEST_STARTS,
    MeasuredRank,
    MeasuredStart,
    StartKind,
    ToldTerms,
    fingerprint,
    newest,
    starts_of,
)
from muai_core.plugin.memory import MemoryProfile, OverheadTerms

GIB = 2**30
DEVICE_BYTES = 80 * GIB
H100 = "NVIDIA H100 80GB HBM3"
#: A small model, for the activation formula.
HIDDEN, FFN, VOCABULARY, VALUE_BYTES, EXPERTS_PER_TOKEN = 4096, 14336, 128_256, 2, 2

BASE = OverheadTerms(
    runtime_bytes=600 * 2**20,
    graph_bytes=500 * 2**20,
    tensor_communication_bytes=400 * 2**20,
    pipeline_communication_bytes=100 * 2**20,
)


def activation_bytes(terms: OverheadTerms, tensor: int) -> int:
    """The formula in the docstring of `OverheadTerms`."""
    passed = terms.hidden_factor * HIDDEN + terms.ffn_factor * FFN / tensor
    # A mixture copies each token for every expert that sees it, whatever the factors are.
    passed += EXPERTS_PER_TOKEN * HIDDEN
    return ceil(
        terms.activation_factor
        * max(
            terms.batched_tokens * passed * VALUE_BYTES,
            terms.logit_tokens * VOCABULARY / tensor * 4,
        )
    )


def kind(tensor: int = 1, stages: int = 1, device: str = H100) -> StartKind:
    return StartKind(
        engine="vllm",
        platform="cuda",
        device=device,
        model="0123456789ab",
        tensor_parallel=tensor > 1,
        pipeline_parallel=stages > 1,
    )


def predicted(terms: OverheadTerms, tensor: int, stages: int) -> RankMemory:
    return RankMemory(
        weights_bytes=16 * GIB // (tensor * stages),
        kv_cache_bytes=8 * GIB // (tensor * stages),
        activation_bytes=activation_bytes(terms, tensor),
        overhead_bytes=overhead_bytes(terms, kind(tensor, stages)),
    )


def start(
    held: tuple[int | None, ...] = (None,),
    *,
    tensor: int = 1,
    stages: int = 1,
    terms: OverheadTerms = BASE,
    at_s: float = 0.0,
    device: str = H100,
    **told: int,
) -> MeasuredStart:
    """A start with one rank for each entry of `held`."""
    rank = predicted(terms, tensor, stages)
    return MeasuredStart(
        kind=kind(tensor, stages, device),
        measured_at_s=at_s,
        overhead=terms,
        ranks=tuple(
            MeasuredRank(
                claimed_bytes=rank.total_bytes,
                predicted=rank,
                held_bytes=one,
                device_bytes=DEVICE_BYTES,
            )
            for one in held
        ),
        told=ToldTerms(**told),
    )


def correct(terms: OverheadTerms, *starts: MeasuredStart) -> OverheadTerms:
    answer = calibrated(MemoryProfile(overhead=terms), by_device(starts)).profile
    assert isinstance(answer, MemoryProfile)
    return answer.overhead


def by_device(starts: tuple[MeasuredStart, ...] | list[MeasuredStart]) -> dict[str, list]:
    return starts_of(starts, engine="vllm", platform="cuda", model="0123456789ab")


def total(terms: OverheadTerms, tensor: int = 1, stages: int = 1) -> int:
    return predicted(terms, tensor, stages).total_bytes


# --- laws -----------------------------------------------------------------------------------------

amounts = st.integers(0, DEVICE_BYTES)
small = st.integers(0, 6 * GIB)
shapes = st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)])
terms_strategy = st.builds(
    OverheadTerms,
    activation_factor=st.floats(0, 4),
    hidden_factor=st.floats(0, 20),
    ffn_factor=st.floats(0, 8),
    logit_tokens=st.integers(0, 2048),
    batched_tokens=st.sampled_from([2048, 8192]),
    runtime_bytes=small,
    graph_bytes=small,
    tensor_communication_bytes=small,
    pipeline_communication_bytes=small,
)


@st.composite
def measured_starts(
    draw: st.DrawFn, shape: tuple[int, int] | None = None, most: int = 6
) -> list[MeasuredStart]:
    found = []
    for number in range(draw(st.integers(1, most))):
        tensor, stages = shape or draw(shapes)
        told = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "weights_bytes": amounts,
                    "kv_cache_bytes": small,
                    "activation_bytes": small,
                    "graphs_bytes": small,
                    "runtime_bytes": small,
                },
            )
        )
        found.append(
            start(
                tuple(draw(st.lists(st.none() | amounts, min_size=1, max_size=tensor * stages))),
                tensor=tensor,
                stages=stages,
                terms=draw(st.just(BASE) | terms_strategy),
                at_s=float(number),
                **told,
            )
        )
    return found


@settings(max_examples=300, deadline=None)
@given(terms_strategy, measured_starts())
def test_never_predicts_less_than_was_measured(
    terms: OverheadTerms, starts: list[MeasuredStart]
) -> None:
    now = correct(terms, *starts)
    for one in starts:
        shape = one.kind.tensor_parallel + 1, one.kind.pipeline_parallel + 1
        for rank in one.ranks:
            needed = needed_bytes(rank, one)
            if needed is None:
                continue
            # The device has no more; a rank that held more than that has shown otherwise.
            most = max(DEVICE_BYTES, rank.held_bytes or 0, rank.claimed_bytes)
            assert total(now, *shape) >= min(needed, most)
            if rank.held_bytes is not None and one.told.kv_cache_bytes is None:
                assert total(now, *shape) >= rank.held_bytes


@settings(max_examples=200, deadline=None)
@given(terms_strategy, measured_starts())
def test_a_second_correction_by_the_same_starts_changes_nothing(
    terms: OverheadTerms, starts: list[MeasuredStart]
) -> None:
    once = correct(terms, *starts)
    assert correct(once, *starts) == once


@settings(max_examples=200, deadline=None)
@given(terms_strategy, measured_starts(), st.randoms(use_true_random=False))
def test_the_order_of_the_starts_does_not_matter(
    terms: OverheadTerms, starts: list[MeasuredStart], chance: random.Random
) -> None:
    shuffled = list(starts)
    chance.shuffle(shuffled)
    assert correct(terms, *shuffled) == correct(terms, *starts)
    assert newest(shuffled) == newest(starts)


@settings(max_examples=300, deadline=None)
@given(terms_strategy, shapes.flatmap(lambda shape: measured_starts(shape=shape)), st.data())
def test_a_larger_measurement_never_lowers_the_prediction(
    terms: OverheadTerms, starts: list[MeasuredStart], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(starts) - 1))
    chosen, more = starts[place], data.draw(st.integers(0, 8 * GIB))
    told = {
        name: value + more
        for name in ("activation_bytes", "graphs_bytes", "runtime_bytes")
        if (value := getattr(chosen.told, name)) is not None
    }
    larger = structs.replace(
        chosen,
        told=structs.replace(chosen.told, **told),
        ranks=tuple(
            structs.replace(
                rank, held_bytes=None if rank.held_bytes is None else rank.held_bytes + more
            )
            for rank in chosen.ranks
        ),
    )
    shape = chosen.kind.tensor_parallel + 1, chosen.kind.pipeline_parallel + 1
    before = total(correct(terms, *starts), *shape)
    after = total(correct(terms, *starts[:place], larger, *starts[place + 1 :]), *shape)
    # Each term is a whole number of bytes.
    assert after >= before - 16


@settings(max_examples=200, deadline=None)
@given(terms_strategy, measured_starts())
def test_what_a_rank_held_claims_no_more_than_its_device_has(
    terms: OverheadTerms, starts: list[MeasuredStart]
) -> None:
    for one in starts:
        for rank in one.ranks:
            most = max(DEVICE_BYTES, rank.held_bytes or 0, rank.claimed_bytes)
            assert claim_bytes(rank, one) <= most


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60 * GIB), st.lists(amounts, min_size=1, max_size=5))
def test_a_number_is_raised_to_what_was_held_and_never_lowered(
    answer: int, held: list[int]
) -> None:
    starts = [
        MeasuredStart(
            kind=kind(),
            measured_at_s=float(number),
            ranks=(MeasuredRank(claimed_bytes=answer, held_bytes=one, device_bytes=DEVICE_BYTES),),
        )
        for number, one in enumerate(held)
    ]
    found = calibrated(answer, by_device(starts)).profile
    assert isinstance(found, int)
    assert found >= max(answer, *held)
    assert calibrated(found, by_device(starts)).profile == found


# --- single cases --------------------------------------------------------------------------------


def test_one_start_that_held_more_raises_the_claim_by_the_excess_and_a_margin() -> None:
    excess = 3 * GIB
    now = correct(BASE, start((total(BASE) + excess,)))
    assert total(now) == total(BASE) + excess + MARGIN_BYTES
    assert now.runtime_bytes == BASE.runtime_bytes + excess + MARGIN_BYTES


def test_the_margin_ends_where_the_device_ends() -> None:
    assert total(correct(BASE, start((DEVICE_BYTES - 1,)))) == DEVICE_BYTES
    # With the cache that is still to come it would be more than the device has.
    assert total(correct(BASE, start((DEVICE_BYTES - 1,), kv_cache_bytes=0))) == DEVICE_BYTES


def test_a_start_that_held_less_changes_nothing() -> None:
    lower = [start((20 * GIB,), at_s=float(number)) for number in range(NEWEST_STARTS)]
    assert correct(BASE, *lower) == BASE


def test_what_is_filled_to_the_brim_does_not_grow_from_start_to_start() -> None:
    """An engine that takes what it is given holds its claim exactly."""
    terms = correct(BASE, start((total(BASE) + GIB,)))
    starts = [start((total(BASE) + GIB,))]
    for number in range(5):
        starts.append(start((total(terms),), terms=terms, at_s=1.0 + number))
        assert correct(BASE, *starts) == terms


def test_told_terms_shrink_only_when_three_starts_told_them() -> None:
    told = {"runtime_bytes": 200 * 2**20, "graphs_bytes": 100 * 2**20}
    starts = [start(at_s=float(number), **told) for number in range(AGREEING_STARTS)]
    assert correct(BASE, *starts[:-1]) == BASE
    now = correct(BASE, *starts)
    assert now.graph_bytes == 100 * 2**20
    assert now.runtime_bytes == 200 * 2**20 + MARGIN_BYTES
    assert total(now) < total(BASE)


def test_a_term_that_one_of_three_starts_told_larger_stays_large() -> None:
    told = [100 * 2**20, 100 * 2**20, 450 * 2**20]
    starts = [start(at_s=float(i), graphs_bytes=graphs) for i, graphs in enumerate(told)]
    assert correct(BASE, *starts).graph_bytes == 450 * 2**20


def test_the_activation_formula_is_scaled_to_what_was_told() -> None:
    twice = 2 * activation_bytes(BASE, 1)
    now = correct(BASE, start(activation_bytes=twice))
    assert activation_bytes(now, 1) == pytest.approx(twice, abs=2)
    assert activation_bytes(now, 4) == pytest.approx(2 * activation_bytes(BASE, 4), abs=2)


def test_what_a_log_rounds_is_as_predicted() -> None:
    rank = predicted(BASE, 1, 1)
    one = start(
        (rank.total_bytes,),
        weights_bytes=rank.weights_bytes + 5 * 2**20,
        kv_cache_bytes=rank.kv_cache_bytes - 5 * 2**20,
        activation_bytes=rank.activation_bytes + 5 * 2**20,
        graphs_bytes=BASE.graph_bytes + 5 * 2**20,
        runtime_bytes=BASE.runtime_bytes + 5 * 2**20,
    )
    assert correct(BASE, one) == BASE


def test_what_ranks_of_a_stage_hold_for_each_other_is_communication() -> None:
    held = total(BASE, 2) + GIB
    now = correct(BASE, start((held, held), tensor=2))
    assert now.runtime_bytes == BASE.runtime_bytes
    assert now.tensor_communication_bytes == (BASE.tensor_communication_bytes + GIB + MARGIN_BYTES)
    assert total(now) == total(BASE)


def test_a_kv_cache_that_takes_all_that_is_left_is_no_overhead() -> None:
    """vLLM with a share of the device: what it holds beyond the plan is cache."""
    filled = 40 * GIB
    held = total(BASE) - 8 * GIB + filled
    assert correct(BASE, start((held,), kv_cache_bytes=filled)) == BASE


def test_a_kv_cache_that_is_taken_later_is_still_planned_for() -> None:
    """Held before any of the 8 GiB of cache: all of the excess is overhead."""
    held = total(BASE) - 8 * GIB + GIB
    now = correct(BASE, start((held,), kv_cache_bytes=0))
    assert total(now) == total(BASE) + GIB + MARGIN_BYTES


def test_older_starts_fall_out() -> None:
    many = [start((total(BASE) + GIB,), at_s=0.0)]
    many += [start((total(BASE),), at_s=1.0 + number) for number in range(NEWEST_STARTS)]
    assert correct(BASE, *many) == BASE


def test_other_models_engines_and_devices_do_not_count() -> None:
    measured = [start((70 * GIB,))]
    everywhere = {"engine": "vllm", "platform": "cuda", "model": "0123456789ab"}
    assert starts_of(measured, **everywhere) == {H100: measured}
    assert starts_of(measured, **everywhere | {"engine": "deepspeed"}) == {}
    assert starts_of(measured, **everywhere | {"model": "ba9876543210"}) == {}
    assert starts_of(measured, **everywhere, devices=["NVIDIA L40S"]) == {"NVIDIA L40S": []}


def test_a_device_that_was_never_measured_keeps_a_mixed_fleet_from_shrinking() -> None:
    starts = [start(at_s=float(i), graphs_bytes=2**20) for i in range(AGREEING_STARTS)]
    mixed = starts_of(
        starts,
        engine="vllm",
        platform="cuda",
        model="0123456789ab",
        devices=[H100, "NVIDIA L40S"],
    )
    found = calibrated(MemoryProfile(overhead=BASE), mixed).profile
    assert isinstance(found, MemoryProfile)
    assert found.overhead == BASE


def test_what_is_unknown_stays_unknown_and_without_starts_nothing_is_said() -> None:
    assert calibrated(None, by_device([start((GIB,))])) == Calibration(None)
    assert calibrated(GIB, {}) == Calibration(GIB)
    profile = MemoryProfile(overhead=BASE)
    assert calibrated(profile, {}) == Calibration(profile)


def test_notes_say_by_how_many_starts_what_was_corrected() -> None:
    starts = [start((total(BASE) + GIB,)), start((total(BASE),), at_s=1.0)]
    notes = calibrated(MemoryProfile(overhead=BASE), by_device(starts)).notes
    assert notes == (
        f"calibrated by 2 starts of this model on {H100}: runtime 1.73 GiB instead of 0.59 GiB",
    )
    held = calibrated(MemoryProfile(overhead=BASE), by_device(starts[1:])).notes
    assert held == (f"calibrated by 1 start of this model on {H100}: they held what was predicted",)


def test_weights_and_cache_that_differ_are_told_and_what_is_missing_is_overhead() -> None:
    one = start(weights_bytes=17 * GIB, kv_cache_bytes=6 * GIB)
    answer = calibrated(MemoryProfile(overhead=BASE), by_device([one]))
    assert isinstance(answer.profile, MemoryProfile)
    assert answer.profile.overhead.runtime_bytes == BASE.runtime_bytes + GIB + MARGIN_BYTES
    assert answer.notes[1:] == (
        "weights: 17.00 GiB measured, 16.00 GiB estimated (+6.2 %)",
        "KV cache: 6.00 GiB measured, 8.00 GiB planned (-25.0 %)",
    )
    close = start(weights_bytes=16 * GIB + GIB // 10, kv_cache_bytes=20 * GIB)
    answer = calibrated(MemoryProfile(overhead=BASE), by_device([close]))
    assert answer.profile == MemoryProfile(overhead=BASE)
    assert len(answer.notes) == 1


def test_a_fingerprint_changes_with_what_changes_the_memory_only() -> None:
    plain = Deployment(name="a", source="/m", engine="vllm", platforms=("cuda",))
    same = structs.replace(plain, name="b", replicas=3, generation=2, tensor_parallel_size=2)
    assert fingerprint(plain, None) == fingerprint(same, None)
    others = [
        structs.replace(plain, source="/n"),
        structs.replace(plain, dtype="float16"),
        structs.replace(plain, kv_cache_dtype="fp8"),
        structs.replace(plain, max_model_len=4096),
        structs.replace(plain, concurrency=2),
        structs.replace(plain, engine_options={"max_num_seqs": 8}),
    ]
    found = {fingerprint(one, None) for one in [plain, *others]}
    assert len(found) == len(others) + 1
