"""`python fake_engine_run.py DEFECT FOLDER`: all clauses on a fake engine; results as JSON."""

import sys
from pathlib import Path

import msgspec

from muai_core.model.memory import Shape
from muai_core.testing import run_clauses
from muai_core.testing.engine import EngineSubject, Limits
from muai_core.testing.fakes.engine import FakeDevices, FakeEngine, fake_deployment, make_model

LIMITS = Limits(start_s=60, answer_s=60, stop_grace_s=2, rank_loss_s=3, memory_back_s=1)


def main(defect: str, folder: Path) -> None:
    held = folder / "held"
    held.mkdir(parents=True)
    devices = FakeDevices(held)
    modules = ("slow_to_import", "hooks_raise")
    module = f"muai_core.testing.fakes.{defect}" if defect in modules else None
    subject = EngineSubject(
        FakeEngine(defect, held),
        fake_deployment(make_model(folder / "model")),
        folder=folder,
        devices=devices.devices(),
        device_source=devices,
        shapes=(Shape(2, 1), Shape(1, 2)),
        plugin_module=module,
        limits=LIMITS,
    )
    try:
        results = run_clauses("engine", subject)
    finally:
        subject.close()
    print(msgspec.json.encode(results).decode())


main(sys.argv[1], Path(sys.argv[2]))
