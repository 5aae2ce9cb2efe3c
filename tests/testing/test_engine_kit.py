"""The kit for engines tells right from wrong: each defect breaks its own clause and no other."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from muai_core.testing import clauses_of
from muai_core.testing.fakes.defects import ENGINE_DEFECTS

pytestmark = pytest.mark.alone

RUN = Path(__file__).with_name("fake_engine_run.py")
GOOD = "none"
DEADLINE_S = 150.0

Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def results_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Results]]:
    """The results of all clauses by defect. They mostly wait, so several run at once.

    The others of a crowd may disturb one, so what differs from what is expected is done again,
    alone.
    """
    folder = tmp_path_factory.mktemp("fakes")

    def run(defect: str, again: str = "") -> Results:
        done = subprocess.run(
            [sys.executable, RUN, defect.removeprefix(GOOD), folder / (defect + again)],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, done.stderr
        found: Results = json.loads(done.stdout)
        return found

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1) + 1) as pool:
        futures: dict[str, Future[Results]] = {
            defect: pool.submit(run, defect) for defect in (GOOD, *ENGINE_DEFECTS)
        }

        def found(defect: str) -> Results:
            results = futures[defect].result()
            if broken_of(results) == expected_of(defect):
                return results
            wait(futures.values())
            return run(defect, "-again")

        yield found
        for future in futures.values():
            future.cancel()


def broken_of(results: Results) -> list[tuple[str, str]]:
    """The clauses that were not passed, and what became of them."""
    return [(one["number"], one["outcome"]) for one in results if one["outcome"] != "passed"]


def expected_of(defect: str) -> list[tuple[str, str]]:
    return [] if defect == GOOD else [(ENGINE_DEFECTS[defect], "failed")]


@pytest.mark.timeout(300)
def test_a_good_engine_keeps_every_clause(results_of: Callable[[str], Results]) -> None:
    results = results_of(GOOD)
    assert [one["number"] for one in results] == [one.number for one in clauses_of("engine")]
    assert broken_of(results) == [], results


@pytest.mark.timeout(300)
@pytest.mark.parametrize("defect", ENGINE_DEFECTS)
def test_a_defect_breaks_its_clause_and_no_other(
    defect: str, results_of: Callable[[str], Results]
) -> None:
    results = results_of(defect)
    broken = [one for one in results if one["outcome"] != "passed"]
    words = "\n".join(f"{one['number']} {one['reason']}" for one in broken)
    assert broken_of(results) == expected_of(defect), words
    assert broken[0]["reason"]


def test_there_is_a_defect_for_every_clause() -> None:
    assert list(ENGINE_DEFECTS.values()) == [one.number for one in clauses_of("engine")]
