"""Routing by least outstanding, and counts that are right whatever happens."""

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from muai_core.gateway.router import Router
from muai_core.model.routing import ModelStatus, Route, RoutingTable


def table(version, keys, model="m"):
    routes = tuple(
        Route(
            model=model,
            replica_id=replica_id,
            epoch=epoch,
            endpoint="http://127.0.0.1:1",
            engine="fake",
        )
        for replica_id, epoch in keys
    )
    status = ModelStatus(name=model, desired=1, ready=len(routes), state="ready")
    return RoutingTable(version, (status,), routes)


KEYS = st.lists(
    st.tuples(st.sampled_from(("a", "b", "c")), st.integers(1, 3)), unique=True, max_size=4
)


class RouterMachine(RuleBasedStateMachine):
    """Requests come, end, and fail while tables change; a plain dict keeps the books."""

    leases = Bundle("leases")

    def __init__(self):
        super().__init__()
        self.router = Router()
        self.version = 0
        self.routed = []
        self.counted = {}
        self.now_s = 0.0

    @rule(keys=KEYS)
    def publish(self, keys):
        self.version += 1
        self.router.publish(table(self.version, keys))
        self.routed = keys

    @rule(keys=KEYS)
    def publish_an_old_table(self, keys):
        if self.version > 0:
            self.router.publish(table(self.version - 1, keys))

    @rule(target=leases, tried=KEYS)
    def ask(self, tried):
        lease = self.router.choose("m", self.now_s, set(tried))
        possible = [key for key in self.routed if key not in tried]
        if not possible:
            assert lease is None
            return None
        assert lease.slot.key in possible
        least = min(self.counted.get(key, 0) for key in possible)
        assert self.counted.get(lease.slot.key, 0) == least
        self.counted[lease.slot.key] = least + 1
        return lease

    @rule(lease=consumes(leases), times=st.integers(1, 3))
    def release(self, lease, times):
        if lease is None:
            return
        for _ in range(times):
            lease.release()
        self.counted[lease.slot.key] -= 1

    @invariant()
    def counts_agree(self):
        loads = {(load.replica_id, load.epoch): load for load in self.router.loads()}
        assert all(load.outstanding >= 0 for load in loads.values())
        busy = {key: count for key, count in self.counted.items() if count}
        assert {key: load.outstanding for key, load in loads.items() if load.outstanding} == busy
        assert set(loads) == set(self.routed) | set(busy)
        assert {key for key, load in loads.items() if load.routed} == set(self.routed)


def test_counts_stay_right_whatever_happens():
    run_state_machine_as_test(RouterMachine)


def test_ties_go_around():
    router = Router()
    router.publish(table(1, [("a", 1), ("b", 1), ("c", 1)]))
    chosen = []
    for _ in range(9):
        with router.choose("m", 0.0) as lease:
            chosen.append(lease.slot.key[0])
    assert sorted(chosen) == list("aaabbbccc")


def test_suspects_come_last_and_only_for_a_while():
    router = Router()
    router.publish(table(1, [("a", 1), ("b", 1)]))
    suspect = router.choose("m", 0.0).slot
    suspect.suspect_until_s = 1.0
    others = {router.choose("m", 0.5).slot.key for _ in range(5)}
    assert suspect.key not in others
    assert router.choose("m", 0.5, others).slot is suspect
    assert router.choose("m", 1.5).slot is suspect


def test_a_bad_endpoint_leaves_the_table_as_it_was():
    router = Router()
    router.publish(table(1, [("a", 1)]))
    bad = Route(model="m", replica_id="z", epoch=1, endpoint="localhost", engine="fake")
    with pytest.raises(ValueError, match="route of z"):
        router.publish(RoutingTable(2, (), (bad,)))
    assert router.table.version == 1
    assert router.choose("m", 0.0) is not None


async def test_drained_when_out_of_the_table_and_idle():
    router = Router()
    router.publish(table(1, [("a", 1), ("b", 1)]))
    first, second = router.choose("m", 0.0), router.choose("m", 0.0)
    waits = {
        lease.slot.key: asyncio.ensure_future(router.drained(*lease.slot.key))
        for lease in (first, second)
    }
    await asyncio.sleep(0)
    second.release()
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits.values())
    router.publish(table(2, []))
    await asyncio.wait_for(waits[second.slot.key], 60)
    assert not waits[first.slot.key].done()
    first.release()
    await asyncio.wait_for(waits[first.slot.key], 60)
    await asyncio.wait_for(router.drained("never", 1), 60)
    assert router.loads() == []


async def test_a_drained_replica_under_real_requests(door, healthy, wait_until):
    old, new = await healthy(), await healthy()
    old.gate.clear()
    door.publish([old])
    asking = asyncio.create_task(door.post())
    streaming = asyncio.create_task(door.stream())
    await wait_until(lambda: old.running == 2)
    door.publish([new], epochs=[2])
    drained = asyncio.create_task(door.gateway.drained("m-0", 1))
    assert (await door.post())[0] == 200
    assert len(new.requests) == 1
    assert not drained.done()
    old.gate.set()
    assert (await asking)[0] == 200
    assert (await streaming)[1][-1] == "[DONE]"
    await asyncio.wait_for(drained, 60)


async def test_requests_go_where_fewest_are_outstanding(door, healthy, wait_until):
    busy, idle = await healthy(), await healthy()
    busy.gate.clear()
    door.publish([busy])
    stuck = [asyncio.create_task(door.post()) for _ in range(3)]
    await wait_until(lambda: busy.running == 3)
    door.publish([busy, idle])
    for _ in range(10):
        assert (await door.post())[0] == 200
    assert len(idle.requests) == 10
    busy.gate.set()
    await asyncio.gather(*stuck)
    for _ in range(10):
        await door.post()
    assert len(busy.requests) == 8
