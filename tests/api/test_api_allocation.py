"""GPUManager.allocate_gpus: which GPUs a program gets, and why it gets none."""

from typing import Any

import pytest
from msgspec import structs

from muai_core.api import AllocationError, GPUManager
from muai_core.model.health import Finding, Health

GIB = 1024**3


def unwell(severity: Health, reason: str) -> Finding:
    return Finding(kind="test", severity=severity, reason=reason, advice="look", clears="at_once")


def test_stages_are_neighbours_in_rank_order(manager: GPUManager) -> None:
    allocation = manager.allocate_gpus(tensor_parallel=2, pipeline_parallel=2)
    assert allocation.stages == [[0, 1], [2, 3]]
    assert allocation.device_ids == [0, 1, 2, 3]
    assert allocation.uuids == ("GPU-0", "GPU-1", "GPU-2", "GPU-3")
    assert allocation.memory_bytes == (80 * GIB,) * 4
    assert "node box" in allocation.reason


def test_whole_gpus_are_taken_when_no_memory_is_named(manager: GPUManager) -> None:
    first = manager.allocate_gpus(tensor_parallel=2)
    second = manager.allocate_gpus(tensor_parallel=2)
    assert sorted(first.device_ids + second.device_ids) == [0, 1, 2, 3]
    with pytest.raises(AllocationError) as caught:
        manager.allocate_gpus()
    assert set(caught.value.reasons) == {0, 1, 2, 3}
    assert "allocation-1 is on this one" in caught.value.reasons[first.device_ids[0]]
    assert "GPU 3: " in str(caught.value)


def test_what_is_released_can_be_taken_again(manager: GPUManager) -> None:
    allocation = manager.allocate_gpus(tensor_parallel=4)
    manager.release(allocation)
    assert manager.allocate_gpus(tensor_parallel=4).device_ids == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="allocation-1 was released before"):
        manager.release(allocation)


def test_an_allocation_is_a_context_manager(manager: GPUManager) -> None:
    for _ in range(3):
        with manager.allocate_gpus(tensor_parallel=4) as allocation:
            assert len(allocation.device_ids) == 4


def test_load_is_spread(manager: GPUManager) -> None:
    taken = [manager.allocate_gpus(memory_bytes_per_gpu=10 * GIB).device_ids for _ in range(8)]
    assert sorted(device_id for ids in taken for device_id in ids) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_memory_is_never_promised_twice(manager: GPUManager) -> None:
    for _ in range(8):
        manager.allocate_gpus(memory_bytes_per_gpu=40 * GIB)
    with pytest.raises(AllocationError, match=r"needs 40\.00 GiB"):
        manager.allocate_gpus(memory_bytes_per_gpu=40 * GIB)


def test_foreign_memory_is_not_given_away(manager: GPUManager, box: Any) -> None:
    for number in range(3):
        box.reads(number, memory_used_bytes=50 * GIB, memory_foreign_bytes=50 * GIB)
    assert manager.allocate_gpus(memory_bytes_per_gpu=40 * GIB).device_ids == [3]


def test_memory_that_the_owner_of_a_claim_uses_is_not_counted_twice(
    manager: GPUManager, box: Any
) -> None:
    box.reads(0, memory_used_bytes=10 * GIB, memory_foreign_bytes=10 * GIB)
    for _ in range(4):
        manager.allocate_gpus(memory_bytes_per_gpu=30 * GIB)
    # The program loads what it claimed: for the source it is a process like any other.
    for number, before in enumerate((10, 0, 0, 0)):
        used = (before + 30) * GIB
        box.reads(number, memory_used_bytes=used, memory_foreign_bytes=used)
    again = [manager.allocate_gpus(memory_bytes_per_gpu=40 * GIB).device_ids for _ in range(4)]
    assert sorted(ids[0] for ids in again) == [0, 1, 2, 3]
    with pytest.raises(AllocationError):
        manager.allocate_gpus(memory_bytes_per_gpu=15 * GIB)


@pytest.mark.parametrize("severity", [Health.FAILED, Health.SUSPECT])
def test_unwell_gpus_are_refused_with_the_reason(
    manager: GPUManager, box: Any, severity: Health
) -> None:
    box.reads(1, findings=(unwell(severity, "it smells of burning"),))
    allocation = manager.allocate_gpus(tensor_parallel=2)
    assert allocation.device_ids == [0, 2]
    manager.release(allocation)
    with pytest.raises(AllocationError) as caught:
        manager.allocate_gpus(tensor_parallel=2, pipeline_parallel=2)
    assert "tensor_parallel=2, pipeline_parallel=2: needs 4 devices" in caught.value.summary
    assert caught.value.reasons[1].endswith("it smells of burning; look")


def test_healthy_gpus_come_before_degraded_ones(manager: GPUManager, box: Any) -> None:
    for number in (0, 1):
        box.reads(number, findings=(unwell(Health.DEGRADED, "a row waits to be remapped"),))
    assert manager.allocate_gpus(tensor_parallel=2).device_ids == [2, 3]
    assert manager.allocate_gpus(tensor_parallel=2).device_ids == [0, 1]


def test_tensor_parallel_ranks_share_an_island(make_box: Any) -> None:
    box = make_box(4)
    for number, island in enumerate(("a", "b", "a", "b")):
        box.devices[number] = structs.replace(box.devices[number], island=island)
    with GPUManager(sources=[box]) as manager:
        allocation = manager.allocate_gpus(tensor_parallel=2, pipeline_parallel=2)
    assert allocation.stages == [[0, 2], [1, 3]]


def test_without_a_gpu_it_says_so(make_box: Any) -> None:
    box = make_box(0)
    box.absence = "no NVIDIA driver is installed"
    with (
        GPUManager(sources=[box]) as manager,
        pytest.raises(AllocationError, match="no GPU was found; no NVIDIA driver is installed"),
    ):
        manager.allocate_gpus()


@pytest.mark.parametrize(
    "wrong", [{"tensor_parallel": 0}, {"pipeline_parallel": -1}, {"memory_bytes_per_gpu": 0}]
)
def test_numbers_below_one_are_refused(manager: GPUManager, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        manager.allocate_gpus(**wrong)
