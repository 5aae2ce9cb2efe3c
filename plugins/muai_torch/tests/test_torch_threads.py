"""The tuner finds the faster number of threads, stays there, and notices when it changes."""

import pytest
from muai_torch.threads import ThreadTuner


def run(tuner: ThreadTuner, seconds: dict[int, float], passes: int) -> list[int]:
    used = []
    for _ in range(passes):
        used.append(tuner.threads)
        tuner.observe(seconds[tuner.threads])
    return used


IDLE = {1: 0.062, 2: 0.042, 4: 0.030}
BUSY = {1: 0.062, 2: 0.8, 4: 2.0}


@pytest.mark.parametrize(("seconds", "best"), [(IDLE, 4), (BUSY, 1)])
def test_settles_on_the_fastest(seconds: dict[int, float], best: int) -> None:
    tuner = ThreadTuner(4)
    run(tuner, seconds, 200)
    used = run(tuner, seconds, 1000)
    assert used.count(best) > 970


def test_leaves_a_collapse_within_a_few_passes() -> None:
    tuner = ThreadTuner(2)
    run(tuner, IDLE, 500)
    used = run(tuner, BUSY, 12)
    assert used[-1] == 1
    assert used.count(2) <= 6


def test_comes_back_when_the_machine_is_idle_again() -> None:
    tuner = ThreadTuner(2)
    run(tuner, BUSY, 3000)
    used = run(tuner, IDLE, 3000)
    assert set(used[-100:]) == {2}


def test_one_core_is_one_thread() -> None:
    assert set(run(ThreadTuner(1), {1: 0.1}, 100)) == {1}


def test_odd_numbers_of_cores_are_reached() -> None:
    tuner = ThreadTuner(6)
    assert tuner.threads == 6
    run(tuner, {1: 1.0, 2: 0.5, 4: 0.2, 6: 0.3}, 200)
    assert run(tuner, {1: 1.0, 2: 0.5, 4: 0.2, 6: 0.3}, 100).count(4) > 90
