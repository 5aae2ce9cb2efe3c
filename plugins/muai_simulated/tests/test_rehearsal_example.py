"""examples/rehearsal.yaml does what its comments say."""

from pathlib import Path

import pytest

from muai_core import builtin
from muai_core.config import load_config
from muai_core.runtime.dry_run import dry_run

EXAMPLE = Path(__file__).parents[3] / "examples" / "rehearsal.yaml"


def test_the_example_fits_its_box_and_leaves_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where no state file of a rehearsal can be lying around.
    monkeypatch.chdir(Path(__file__).parent)
    run = dry_run(load_config(EXAMPLE, environ={}, load_plugins=builtin.load), print)
    index_of = {uuid: record.device.index for uuid, record in run.state.devices.items()}
    placed: dict[str, list[list[int]]] = {}
    for replica in run.state.replicas.values():
        assert replica.placement is not None, replica
        indices = [index_of[uuid] for uuid in replica.placement.devices]
        placed.setdefault(replica.deployment, []).append(indices)
    assert placed == {
        "llama-70b": [[2, 3, 4, 5]],
        "qwen-32b": [[0, 1]],
        "llama-8b": [[7], [7]],
    }
