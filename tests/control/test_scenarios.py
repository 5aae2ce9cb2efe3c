"""Every file in tests/scenarios is a story: events in, actions out, told by its comments.

`00_how_to_read.txt` explains the form. After a wanted change of behaviour, write the files anew
with `MUAI_TEST_UPDATE_SCENARIOS=1 pytest tests/control/test_scenarios.py` and read the difference.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muai_core import (
    AllocationStrategy,
    GiveUp,
    Placement,
    PlacementRequest,
    RecoveryPolicy,
    ReplicaLoss,
    RestartAfter,
    Unplaceable,
)
from muai_core.control.invariants import violations
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.control.transcript import Transcript, event_text, parse_event
from muai_core.planning.balanced import Balanced

FOLDER = Path(__file__).parent.parent / "scenarios"
FILES = sorted(FOLDER.glob("*.txt"))
EVENT = "  event     "


class Raising(AllocationStrategy):
    name = "raising"

    def place(self, request: PlacementRequest, fleet: Any) -> Placement:
        raise KeyError("gpu9")


class Nonsense(AllocationStrategy):
    """Wrong in a different way for each deployment."""

    name = "nonsense"

    def place(self, request: PlacementRequest, fleet: Any) -> Any:
        uuid = fleet.devices[0].uuid
        return {
            "unknown-device": Placement((("gpu9",),), (1,)),
            "wrong-shape": Placement(((uuid, uuid),), (1, 1)),
            "too-much": Placement(((uuid,),), (10**15,)),
            "too-little": Placement(((uuid,),), (1,)),
            "float-claim": Placement(((uuid,),), (1.5,)),  # type: ignore[arg-type]
            "no-claims": Placement(((uuid,),), ()),
            "no-tuples": Placement(None, None),  # type: ignore[arg-type]
            "no-placement": "gpu0",
            "bad-refusal": Unplaceable(object()),  # type: ignore[arg-type]
        }[request.deployment.name]


class RaisingPolicy(RecoveryPolicy):
    name = "raising"

    def decide(self, loss: ReplicaLoss, *settings: Any) -> RestartAfter:
        raise RuntimeError("no idea")


class GivesUpAtTwo(RecoveryPolicy):
    name = "gives-up-at-two"

    def decide(self, loss: ReplicaLoss, *settings: Any) -> RestartAfter | GiveUp:
        if loss.failures == 1:
            return RestartAfter(1.0, "once more")
        return GiveUp("two failures are enough")


STRATEGIES = {strategy.name: strategy for strategy in (Balanced(), Raising(), Nonsense())}
POLICIES = {policy.name: policy for policy in (Ladder(), RaisingPolicy(), GivesUpAtTwo())}


class Scenario:
    """A scenario file: what it sets up, its steps, and its text as it should be."""

    def __init__(self, text: str) -> None:
        self.settings: dict[str, str] = {}
        self.names = {"strategy": "balanced", "policy": "ladder"}
        self.lines = text.splitlines()
        for line in self.lines:
            word, _, rest = line.partition(" ")
            if word == "settings":
                self.settings |= dict(item.split("=") for item in rest.split())
            elif word in self.names:
                self.names[word] = rest

    def plane(self) -> ControlPlane:
        options: dict[str, Any] = {**self.settings, **self.names}
        health = [name for name in options if name.startswith("health.")]
        options["health"] = {name.removeprefix("health."): options.pop(name) for name in health}
        settings = msgspec.convert(options, ControlSettings, strict=False)
        return ControlPlane(
            settings, STRATEGIES[self.names["strategy"]], POLICIES[self.names["policy"]]
        )

    def steps(self) -> Iterator[tuple[list[str], float | None, list[str]]]:
        """Blocks of lines, without what the plane answers; a step's time; its event lines."""
        block: list[str] = []
        at: float | None = None
        for line in [*self.lines, None]:
            if line is None or line.startswith("at "):
                yield block, at, [b.removeprefix(EVENT) for b in block if b.startswith(EVENT)]
                block = [] if line is None else [line]
                at = None if line is None else float(line.removeprefix("at "))
            elif not re.match(r"  (ignored|rejected|action|now) ", line):
                block.append(line)


def rewritten(scenario: Scenario) -> str:
    """The scenario's text with what the plane really answers. Checks what must always hold."""
    plane = scenario.plane()
    transcript = Transcript(plane)
    out: list[str] = []
    for block, at, events in scenario.steps():
        if at is None:
            out += block
            continue
        parsed = [parse_event(line) for line in events]
        assert [event_text(event) for event in parsed] == events
        before = _essence(plane)
        answers = transcript.step(at, parsed)[len(parsed) :]
        assert violations(plane.state) == []
        if parsed and [a.split()[0] for a in answers].count("rejected") == len(parsed):
            assert _essence(plane) == before
            assert len(answers) == len(parsed)
        kept = len(block)
        while not block[kept - 1].strip() or block[kept - 1].startswith("#"):
            kept -= 1
        out += [*block[:kept], *answers, *block[kept:]]
    return "\n".join(out) + "\n"


def _essence(plane: ControlPlane) -> Any:
    """The state without the clock and the counters."""
    state = msgspec.json.decode(plane.snapshot())
    for name in ("now_s", "applied", "stale", "rejected"):
        del state[name]
    return state


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_the_plane_answers_as_the_story_says(path: Path) -> None:
    text = path.read_text()
    answered = rewritten(Scenario(text))
    if os.environ.get("MUAI_TEST_UPDATE_SCENARIOS"):
        path.write_text(answered)
        return
    assert answered == text


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_plane_restored_after_any_step_goes_on_identically(path: Path) -> None:
    scenario = Scenario(path.read_text())
    plane = scenario.plane()
    strategy, policy = plane._turn.strategy, plane._turn.policy
    for _, at, events in scenario.steps():
        if at is None:
            continue
        twin = ControlPlane.restore(plane.snapshot(), strategy, policy)
        assert twin.next_wakeup() == plane.next_wakeup()
        parsed = [parse_event(line) for line in events]
        assert twin.step(at, parsed) == plane.step(at, parsed)
        assert twin.snapshot() == plane.snapshot()
