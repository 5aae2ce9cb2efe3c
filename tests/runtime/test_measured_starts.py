"""Measured starts: what logs and devices tell, what is kept on disk, and how it comes back."""

import asyncio
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from muai_core.control import events as ev
from muai_core.control.actions import StartReplica
from muai_core.control.lifecycle import ReplicaState
from muai_core.control.state import ControlSettings, Replica, State
from muai_core.engine_server.memory_line import MEMORY_LINE_PATTERNS, memory_line
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceProcess, DeviceReading, Inventory
from muai_core.model.memory import MemoryNeeds, ShardedMemory
from muai_core.model.placement import Placement
from muai_core.planning.log_patterns import VLLM_CPU_LOG_PATTERNS, VLLM_LOG_PATTERNS
from muai_core.planning.measured import (
    NEWEST_STARTS,
    MeasuredRank,
    MeasuredStart,
    StartKind,
    ToldTerms,
    told_terms,
)
from muai_core.plugin.memory import MemoryProfile, OverheadTerms
from muai_core.runtime.measured_starts import FILE_NAME, MeasuredStarts, MemoryBasis
from muai_core.runtime.memory_terms import read_terms
from muai_core.runtime.start_memory import StartMemory

GIB = 2**30
DEADLINE_S = 20.0

# --- what logs tell -------------------------------------------------------------------------------

#: As vLLM 0.33 writes it with two tensor-parallel ranks (`_FORMAT` in vllm/logger.py).
VLLM_LOG = """\
(EngineCore pid=310) INFO 11-23 21:04:11 [core.py:114] Initializing a V1 LLM engine (v0.33.0)
(Worker_TP0 pid=402) INFO 11-23 21:04:40 [gpu_model_runner.py:5149] Model loading took 7.52 GiB \
memory and 4.281940 seconds
(Worker_TP1 pid=403) INFO 11-23 21:04:41 [gpu_model_runner.py:5149] Model loading took 7.48 GiB \
memory and 4.310022 seconds
(Worker_TP0 pid=402) INFO 11-23 21:05:02 [gpu_model_runner.py:6474] Estimated CUDA graph memory: \
0.38 GiB total
(Worker_TP0 pid=402) INFO 11-23 21:05:02 [gpu_worker.py:759] Available KV cache memory: 60.71 GiB
(Worker_TP1 pid=403) INFO 11-23 21:05:02 [gpu_worker.py:759] Available KV cache memory: 60.75 GiB
(Worker_TP0 pid=402) INFO 11-23 21:05:02 [gpu_worker.py:770] CUDA graph memory profiling is \
enabled (default since v0.21.0). The current --gpu-memory-utilization=0.9200 is equivalent to \
--gpu-memory-utilization=0.9152 without CUDA graph memory profiling. To maintain the same \
effective KV cache size as before, increase --gpu-memory-utilization to 0.9248. To disable, set \
VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=0.
(EngineCore pid=310) INFO 11-23 21:05:03 [kv_cache_utils.py:2327] GPU KV cache size: 994,672 \
tokens, Maximum concurrency for 8,192 tokens per request: 121.42x
(Worker_TP0 pid=402) INFO 11-23 21:05:21 [gpu_model_runner.py:6581] Graph capturing finished in 17 \
secs, took 0.41 GiB
(Worker_TP0 pid=402) INFO 11-23 21:05:21 [gpu_worker.py:971] CUDA graph pool memory: 0.41 GiB \
(actual), 0.38 GiB (estimated), difference: 0.03 GiB (7.3%).
(Worker_TP0 pid=402) INFO 11-23 21:05:21 [gpu_worker.py:1035] Free memory on device (78.66/79.18 \
GiB) on startup. Desired GPU memory utilization is (0.92, 72.85 GiB). Actual usage is 9.93 GiB for \
consumed memory (weights + non-torch), 2.17 GiB for peak activation, and 0.41 GiB for CUDAGraph \
memory. Replace gpu_memory_utilization config with `--kv-cache-memory=64634585088` (60.2 GiB) to \
fit into requested memory, or `--kv-cache-memory=70872989696` (66.0 GiB) to fully utilize gpu \
memory. Current kv cache memory in use is 60.71 GiB.
(APIServer pid=201) INFO 11-23 21:05:22 [api_server.py:1912] Starting vLLM API server 0
"""

#: The same model with `--kv-cache-memory-bytes`.
VLLM_LOG_FIXED_CACHE = """\
(EngineCore pid=31) INFO 11-23 21:14:40 [model_runner.py:424] Model loading took 14.99 GiB memory \
and 3.1 seconds
(EngineCore pid=31) INFO 11-23 21:15:02 [gpu_worker.py:670] Initial free memory 78.66 GiB, \
reserved 8.0 GiB memory for KV Cache as specified by kv_cache_memory_bytes config and skipped \
memory profiling. This does not respect the gpu_memory_utilization config.
(EngineCore pid=31) INFO 11-23 21:15:21 [model_runner.py:1127] Graph capturing finished in 5 secs, \
took 0.53 GiB
"""


def told(tmp_path: Path, text: str, patterns: tuple[tuple[str, str], ...]) -> ToldTerms:
    path = tmp_path / "log"
    path.write_text(text, encoding="utf-8")
    return told_terms(read_terms(path, patterns))


def gib(amount: float) -> int:
    return int(amount * GIB)


def test_vllm_tells_all_terms_and_the_largest_rank_counts(tmp_path: Path) -> None:
    assert told(tmp_path, VLLM_LOG, VLLM_LOG_PATTERNS) == ToldTerms(
        weights_bytes=gib(7.52),
        kv_cache_bytes=gib(60.75),
        # Without the graphs that vLLM counts with it.
        activation_bytes=gib(2.17) - gib(0.38),
        graphs_bytes=gib(0.41),
        # Consumed, without the weights.
        runtime_bytes=gib(9.93) - gib(7.52),
    )


def test_vllm_with_a_fixed_cache_tells_weights_cache_and_graphs(tmp_path: Path) -> None:
    assert told(tmp_path, VLLM_LOG_FIXED_CACHE, VLLM_LOG_PATTERNS) == ToldTerms(
        weights_bytes=gib(14.99), kv_cache_bytes=8 * GIB, graphs_bytes=gib(0.53)
    )


def test_vllm_on_a_cpu_tells_its_cache(tmp_path: Path) -> None:
    # The first is from a start of vLLM 0.32; the second is what it writes without the option.
    fixed = (
        "(Worker pid=7732) INFO 11-23 22:29:22 [cpu_worker.py:260] Explicitly set (0.06/23.54) GiB "
        "for KV cache on node 0.\n"
    )
    line = (
        "(Worker pid=9) INFO 11-23 21:14:40 [cpu_worker.py:260] Auto set (3.52/62.79) GiB for "
        "KV cache on node 0, with 4.0 GiB requested memory for the worker. 0.48 GiB memory was "
        "consumed by non-kv usages.\n"
    )
    assert told(tmp_path, fixed, VLLM_CPU_LOG_PATTERNS) == ToldTerms(kv_cache_bytes=gib(0.06))
    assert told(tmp_path, line, VLLM_CPU_LOG_PATTERNS) == ToldTerms(kv_cache_bytes=gib(3.52))


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["weights", "kv_cache", "activation", "graphs", "runtime"]),
        st.integers(0, 2000 * GIB),
        min_size=1,
    )
)
def test_the_line_of_our_own_engines_comes_back_to_the_kib(
    tmp_path_factory: pytest.TempPathFactory, terms: dict[str, int]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_text(f"2026-11-23 21:14:40,123 INFO {memory_line(terms)}\n", encoding="utf-8")
    found = told_terms(read_terms(path, MEMORY_LINE_PATTERNS))
    for term, amount in terms.items():
        assert getattr(found, f"{term}_bytes") == pytest.approx(amount, abs=1024)


PATTERN = (("weights", r"weights (\S+) GiB"),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "weights nan GiB\nweights 1e999 GiB\nweights -3 GiB\nweights 99999999 GiB\n",
        "weights  GiB\nweights lots GiB\n",
        "\x00\x1b[31m\xff",
    ],
)
def test_numbers_that_are_none_tell_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(text.encode("latin-1"))
    assert read_terms(path, PATTERN) == {}
    assert read_terms(tmp_path / "none", PATTERN) == {}
    assert read_terms(tmp_path, PATTERN) == {}


def test_a_broken_pattern_costs_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    path.write_text("weights 3 GiB\n")
    patterns = (("graphs", "("), ("runtime", "weights"), *PATTERN)
    assert read_terms(path, patterns) == {"weights": 3.0}
    assert "the pattern for graphs" in caplog.text


def test_a_log_is_read_up_to_its_limit_and_long_lines_up_to_theirs(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 3_000_000 + b"\nbar 10%\rweights 3 GiB\r\n" + b"weights 9 GiB " * 1000)
    assert read_terms(path, PATTERN) == {"weights": 9.0}
    assert read_terms(path, PATTERN, limit_bytes=3_000_100) == {"weights": 9.0}
    assert read_terms(path, PATTERN, limit_bytes=3_000_025) == {"weights": 3.0}
    assert read_terms(path, PATTERN, limit_bytes=2_000_000) == {}


# --- what is kept ---------------------------------------------------------------------------------


def start(
    number: int, model: str = "0123456789ab", held_bytes: int | None = 3 * GIB
) -> MeasuredStart:
    return MeasuredStart(
        kind=StartKind(engine="e", platform="simulated", device="H100", model=model),
        measured_at_s=float(number),
        overhead=OverheadTerms(runtime_bytes=GIB),
        ranks=(MeasuredRank(claimed_bytes=GIB, held_bytes=held_bytes, device_bytes=80 * GIB),),
        told=ToldTerms(weights_bytes=GIB),
    )


def load(state_dir: Path) -> tuple[MeasuredStarts, list[str]]:
    lines: list[str] = []
    return MeasuredStarts.load(state_dir, lines.append), lines


def test_starts_survive_and_the_newest_of_each_kind_are_kept(tmp_path: Path) -> None:
    measured, lines = load(tmp_path)
    assert (measured.starts, lines) == ((), [])
    every = [start(number, model) for number in range(12) for model in ("a", "b")]
    for one in every:
        measured.add(one)
    measured.save()
    again, lines = load(tmp_path)
    assert lines == []
    assert set(again.starts) == set(every[-2 * NEWEST_STARTS :])
    assert {path.name for path in tmp_path.iterdir()} == {FILE_NAME}
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_the_file_stays_small_whatever_is_started(tmp_path: Path) -> None:
    measured, _ = load(tmp_path)
    measured.add(*(start(number, f"{number:012x}") for number in range(3000)))
    assert len(measured.starts) == 1000
    assert measured.starts[-1].measured_at_s == 2999


BROKEN = {
    "empty": b"",
    "no JSON": b"\xff\xfe{{{",
    "another document": b'{"format": "2", "starts": []}',
    "a list": b"[]",
    "deeply nested": b'{"starts": ' + b"[" * 100_000,
    "wrong types": b'{"starts": [{"kind": 3}]}',
    "a negative number": msgspec.json.encode({"starts": [start(0, held_bytes=-1)]}),
    "an absurd number": msgspec.json.encode({"starts": [start(0, held_bytes=2**60)]}),
    "no ranks": msgspec.json.encode({"starts": [structs.replace(start(0), ranks=())]}),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_told_in_one_line_put_aside_and_started_afresh(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    untouched: list[str] = []
    assert MeasuredStarts.load(tmp_path, untouched.append, keep_broken=False).starts == ()
    assert path.read_bytes() == content
    measured, lines = load(tmp_path)
    assert measured.starts == ()
    assert len(lines) == len(untouched) == 1
    assert str(path) in lines[0]
    assert "\n" not in lines[0]
    assert len(lines[0]) < 600
    assert (tmp_path / f"{FILE_NAME}.broken").read_bytes() == content
    measured.add(start(1))
    measured.save()
    assert load(tmp_path)[0].starts == (start(1),)


def test_a_file_that_is_cut_anywhere_is_broken_or_whole(tmp_path: Path) -> None:
    measured, _ = load(tmp_path)
    measured.add(start(1))
    measured.save()
    whole = (tmp_path / FILE_NAME).read_bytes()
    for length in range(len(whole) - 1):
        (tmp_path / FILE_NAME).write_bytes(whole[:length])
        cut, lines = load(tmp_path)
        assert (cut.starts, len(lines)) == ((), 1)


def test_a_directory_that_cannot_be_written_costs_the_file_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).mkdir()
    measured, lines = load(tmp_path / "missing")
    assert lines == []
    measured.add(start(1))
    measured.save()
    assert "cannot keep what starts needed" in caplog.text
    _, lines = load(tmp_path)
    assert len(lines) == 1


def test_the_calibrator_remembers_how_each_estimate_was_made(tmp_path: Path) -> None:
    deployment = Deployment(name="m", source="x", engine="e", platforms=("simulated",))
    measured, _ = load(tmp_path)
    first = measured.calibrator({"simulated": ["H100"]})
    assert first(deployment, None, 2 * GIB).profile == 2 * GIB
    basis = first.bases["m"]
    assert (basis.engine, basis.platform, basis.overhead) == ("e", "simulated", None)
    measured.add(start(1, basis.model))
    assert measured.calibrator({"simulated": ["H100"]})(deployment, None, 2 * GIB).profile > 3 * GIB
    assert measured.calibrator()(deployment, None, 2 * GIB).profile > 3 * GIB
    assert measured.calibrator({"simulated": ["L40S"]})(deployment, None, 2 * GIB).profile == (
        2 * GIB
    )
    profile = MemoryProfile(log_patterns=PATTERN)
    assert first(deployment, None, profile).profile == profile
    assert first.bases["m"].log_patterns == PATTERN
    first(deployment, None, None)
    assert first.bases == {}


# --- what devices show ----------------------------------------------------------------------------

UUIDS = ("GPU-0", "GPU-1")


def gpu(uuid: str) -> Device:
    return Device(
        uuid=uuid,
        node="n",
        index=int(uuid[-1]),
        kind="gpu",
        platform="simulated",
        name="H100",
        memory_total_bytes=80 * GIB,
    )


class Processes:
    """A replica with two processes."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def pids(self, replica_id: str, epoch: int) -> Collection[int]:
        return {10, 11} if replica_id == "m.0" else ()

    def log_path(self, replica_id: str, epoch: int) -> Path:
        return self.log


NEEDS = MemoryNeeds(
    sharded=(
        ShardedMemory(
            tensor_parallel_size=1,
            pipeline_parallel_sizes=(2,),
            layer_weights_bytes=(GIB, GIB),
            first_stage_weights_bytes=0,
            last_stage_weights_bytes=0,
            layer_kv_cache_bytes=(GIB, GIB),
            layer_kv_bytes_per_token=(1, 1),
            activation_bytes=GIB,
            last_stage_activation_bytes=GIB,
            overhead_bytes=2 * GIB,
        ),
    ),
    context_tokens=1,
    concurrency=1,
)
RANK_BYTES = 5 * GIB


class Story:
    """A replica on two devices, followed step by step."""

    def __init__(self, tmp_path: Path, needs: MemoryNeeds | None = NEEDS) -> None:
        self.lines: list[str] = []
        self.starts = MeasuredStarts.load(tmp_path, self.lines.append)
        self.log = tmp_path / "log"
        self.log.write_text(f"{memory_line({'weights': GIB, 'kv_cache': GIB})}\n")
        basis = MemoryBasis(
            engine="e",
            platform="simulated",
            model="0123456789ab",
            overhead=OverheadTerms(runtime_bytes=GIB, graph_bytes=GIB),
            log_patterns=MEMORY_LINE_PATTERNS,
        )
        self.memory = StartMemory(
            Processes(self.log), self.starts, {"m": basis}, self.lines.append, settled_after_s=1.0
        )
        self.replica = Replica(
            id="m.0",
            deployment="m",
            generation=1,
            number=0,
            since_s=0.0,
            epoch=1,
            placement=Placement(tuple((uuid,) for uuid in UUIDS), (RANK_BYTES, RANK_BYTES)),
        )
        self.deployment = Deployment(
            name="m", source="x", engine="e", platforms=("simulated",), memory=needs
        )

    def step(self, *events: ev.Event, now_s: float = 0.0, actions: tuple[Any, ...] = ()) -> None:
        replicas = {} if self.replica.state is ReplicaState.GONE else {"m.0": self.replica}
        state = State(settings=ControlSettings(), replicas=replicas)
        self.memory.follow(state, events, actions, now_s)

    def start(self, epoch: int = 1) -> None:
        assert self.replica.placement is not None
        self.replica = structs.replace(self.replica, epoch=epoch, state=ReplicaState.STARTING)
        order = StartReplica(
            replica_id="m.0",
            epoch=epoch,
            deadline_at_s=99.0,
            deployment=self.deployment,
            placement=self.replica.placement,
            devices=tuple(map(gpu, UUIDS)),
        )
        self.step(actions=(order,))

    def ready(self, now_s: float) -> None:
        self.replica = structs.replace(self.replica, state=ReplicaState.READY)
        event = ev.ReplicaReady(replica_id="m.0", epoch=self.replica.epoch, endpoint="http://x")
        self.step(event, now_s=now_s)

    def seen(self, at_s: float, *held: int | None, sampled_at_s: float | None = None) -> None:
        """Both devices are read; `held` of each is split over the replica's two processes."""
        readings = tuple(
            DeviceReading(
                uuid=uuid,
                sampled_at_s=sampled_at_s,
                processes=()
                if one is None
                else (
                    DeviceProcess(10, one - 1),
                    DeviceProcess(11, 1),
                    DeviceProcess(99, 7 * GIB),
                ),
            )
            for uuid, one in zip(UUIDS, held, strict=True)
        )
        inventory = Inventory(source="s", observed_at_s=at_s, devices=(), readings=readings)
        self.step(ev.DevicesObserved(inventory=inventory), now_s=at_s)

    def totals(self, measured: bool = True) -> dict[str, float]:
        return {
            row.point.labels[2]: row.point.value
            for row in self.memory.rows()
            if row.measured == measured and row.point.labels[3] == "total"
        }

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.01)


async def test_what_a_ready_replica_holds_is_shown_kept_and_told(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.start()
    assert story.totals() == {}
    assert story.totals(measured=False) == dict.fromkeys(UUIDS, RANK_BYTES)
    story.ready(10.0)
    story.seen(10.5, 6 * GIB, 4 * GIB)
    assert story.totals() == {}
    story.seen(10.7, 7 * GIB, 4 * GIB)
    story.seen(11.5, 8 * GIB, 4 * GIB)
    await story.until(story.totals)
    assert story.totals() == {"GPU-0": 8 * GIB, "GPU-1": 4 * GIB}
    kinds = {
        (row.measured, row.point.labels[3]): row.point.value
        for row in story.memory.rows()
        if row.point.labels[2] == "GPU-0"
    }
    assert kinds == {
        (False, "total"): RANK_BYTES,
        (False, "weights"): GIB,
        (False, "kv_cache"): GIB,
        (False, "activation"): GIB,
        (False, "graphs"): GIB,
        (False, "runtime"): GIB,
        (True, "total"): 8 * GIB,
        (True, "weights"): GIB,
        (True, "kv_cache"): GIB,
    }
    await story.until(lambda: (tmp_path / FILE_NAME).exists())
    (kept,) = load(tmp_path)[0].starts
    assert kept.kind == StartKind(
        engine="e",
        platform="simulated",
        device="H100",
        model="0123456789ab",
        pipeline_parallel=True,
    )
    assert [rank.held_bytes for rank in kept.ranks] == [8 * GIB, 4 * GIB]
    assert kept.told == ToldTerms(weights_bytes=GIB, kv_cache_bytes=GIB)
    assert story.lines == [
        "m.0: needs 8.00 GiB of H100, 5.00 GiB were claimed; the next estimate counts with it"
    ]
    await story.memory.close()


async def test_two_readings_that_agree_are_enough(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.start()
    story.ready(10.0)
    story.seen(10.1, 4 * GIB, 4 * GIB)
    story.seen(10.2, 4 * GIB, 4 * GIB)
    await story.until(story.totals)
    assert story.lines == []
    await story.memory.close()


async def test_readings_from_before_it_was_ready_prove_nothing(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.start()
    story.seen(9.0, GIB, GIB)
    story.ready(10.0)
    story.seen(9.9, GIB, GIB)
    # A source that gets no answer repeats its last sample.
    story.seen(30.0, GIB, GIB, sampled_at_s=9.9)
    story.seen(31.0, GIB, GIB, sampled_at_s=9.9)
    story.seen(32.0, 2 * GIB, 2 * GIB)
    await story.until(story.totals)
    assert story.totals() == dict.fromkeys(UUIDS, 2 * GIB)
    await story.memory.close()


async def test_devices_that_show_no_processes_leave_what_the_engine_told(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.start()
    story.ready(10.0)
    story.seen(12.0, None, None)
    await story.until(lambda: (tmp_path / FILE_NAME).exists())
    assert story.totals() == {}
    (kept,) = load(tmp_path)[0].starts
    assert [rank.held_bytes for rank in kept.ranks] == [None, None]
    assert kept.told.weights_bytes == GIB
    await story.memory.close()


async def test_the_numbers_go_with_the_replica(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.start()
    story.ready(10.0)
    story.seen(12.0, 4 * GIB, 4 * GIB)
    await story.until(story.totals)
    story.replica = structs.replace(story.replica, state=ReplicaState.RELEASING)
    story.step(ev.ReplicaExited(replica_id="m.0", epoch=1, cause="gone"))
    assert story.totals() == {}
    assert story.totals(measured=False) == dict.fromkeys(UUIDS, RANK_BYTES)
    placement = story.replica.placement
    story.replica = structs.replace(story.replica, state=ReplicaState.BACKOFF, placement=None)
    story.step(ev.ReplicaReleased(replica_id="m.0", epoch=1))
    assert story.memory.rows() == []
    story.replica = structs.replace(story.replica, placement=placement)
    story.start(epoch=2)
    assert story.totals(measured=False) == dict.fromkeys(UUIDS, RANK_BYTES)
    assert story.memory.of("m.0", 1) is None
    story.replica = structs.replace(story.replica, state=ReplicaState.GONE)
    story.step(ev.ReplicaReleased(replica_id="m.0", epoch=2))
    assert story.memory.rows() == []
    await story.memory.close()


async def test_an_incarnation_that_ends_before_it_was_measured_is_not_kept(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.start()
    story.ready(10.0)
    story.replica = structs.replace(story.replica, state=ReplicaState.RELEASING)
    story.step(ev.ReplicaExited(replica_id="m.0", epoch=1, cause="gone"))
    story.seen(12.0, 4 * GIB, 4 * GIB)
    story.seen(13.0, 4 * GIB, 4 * GIB)
    await story.memory.close()
    assert not (tmp_path / FILE_NAME).exists()


async def test_a_sum_that_was_not_estimated_by_kind_is_measured_as_a_sum(tmp_path: Path) -> None:
    story = Story(tmp_path, needs=None)
    story.start()
    story.ready(10.0)
    story.seen(12.0, 4 * GIB, 4 * GIB)
    await story.until(lambda: (tmp_path / FILE_NAME).exists())
    document = json.loads((tmp_path / FILE_NAME).read_bytes())
    assert [rank["predicted"] for rank in document["starts"][0]["ranks"]] == [None, None]
    await story.memory.close()
