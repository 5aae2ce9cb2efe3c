"""What the clauses of the conformance kit are tried on: a part of a plugin, ready to be driven."""

import shutil
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from msgspec import Struct, structs

from muai_core import builtin
from muai_core.cli.output import note
from muai_core.cli.plugin_parts import Part
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, Platform
from muai_core.model.memory import Shape
from muai_core.planning.wording import described
from muai_core.plugin.device_source import DeviceSource
from muai_core.plugin.engine import Engine
from muai_core.plugin.loading import Plugins
from muai_core.testing.clauses import ClauseSkipped, Kind
from muai_core.testing.engine.subject import EngineSubject

#: Kind → module and class, made of the part and `options`.
_SUBJECTS: dict[Kind, tuple[str, str]] = {
    "device source": ("muai_core.testing.device_source", "DeviceSourceSubject"),
    "allocation strategy": ("muai_core.testing.allocation", "AllocationSubject"),
    "recovery policy": ("muai_core.testing.recovery", "RecoverySubject"),
    "metric sink": ("muai_core.testing.metric_sink", "MetricSinkSubject"),
}
MODEL_NAME = "checked"
#: Long prompts and answers to the end stay short, on a CPU, too.
CONTEXT_TOKENS = 512
#: Other formats round, and what is rounded elsewhere may be another token: greedy answers are equal
#: in every shape only in this one.
DTYPE = "float32"
_SHAPES = {Shape(2, 1): "tensor_parallel", Shape(1, 2): "pipeline_parallel"}


class Given(Struct, frozen=True, kw_only=True):
    """What was given for engines: the model to serve, their interpreter, and where logs go."""

    model: str | None = None
    python: str | None = None
    logs: Path | None = None


class _WithoutModel(EngineSubject):
    """An engine of which no replica can be started."""

    def __init__(self, engine: Engine, reason: str, *, folder: Path, python: str) -> None:
        super().__init__(engine, None, folder=folder, python=python)
        self._reason = reason

    @property
    def deployment(self) -> Deployment:
        raise ClauseSkipped(self._reason)


class _Surroundings(Struct, frozen=True):
    """The devices on which an engine is tried; none: the CPU."""

    platform: Platform
    devices: tuple[Device, ...] = ()
    #: Opened; None for the CPU.
    source: DeviceSource | None = None


def make_subject(
    part: Part, options: Mapping[str, Any], given: Given, plugins: Plugins, folder: Path
) -> Any:
    """Close it in the end. Raises click.UsageError when it cannot be made from what was given.

    `options` are those of `options_for`.
    """
    if part.kind == "engine":
        return _engine_subject(part, options, given, plugins, folder)
    module, name = _SUBJECTS[part.kind]
    return getattr(import_module(module), name)(
        part.part, options=dict(options), plugin_module=_hooks_of(part)
    )


def _hooks_of(part: Part) -> str | None:
    """The module with the hooks. None: it is found from the part."""
    return builtin.__name__ if part.plugin.origin == "built-in" else None


def _engine_subject(
    part: Part, options: Mapping[str, Any], given: Given, plugins: Plugins, folder: Path
) -> EngineSubject:
    engine: Engine = part.part
    python = engine.python = _interpreter(given.python)
    if given.model is None:
        return _WithoutModel(
            engine, "it needs a model: give one with --model", folder=folder, python=python
        )
    surroundings = _surroundings(engine, plugins)
    if surroundings is None:
        reason = f"it runs on {', '.join(engine.platforms)}, and there is no such device here"
        return _WithoutModel(engine, reason, folder=folder, python=python)
    deployment = Deployment(
        name=MODEL_NAME,
        source=given.model,
        engine=engine.name,
        platforms=(surroundings.platform,),
        max_model_len=CONTEXT_TOKENS,
        dtype=DTYPE,
        engine_options=dict(options),
    )
    return EngineSubject(
        engine,
        _with_source(engine, deployment),
        folder=folder,
        devices=surroundings.devices,
        device_source=surroundings.source,
        shapes=_shapes(engine, deployment, surroundings),
        python=python,
    )


def _interpreter(python: str | None) -> str:
    if python is None:
        return sys.executable
    found = shutil.which(python)
    if found is None:
        raise click.UsageError(f"--python {python}: there is no such program; give a path to one")
    # Not resolved: the interpreter of a virtual environment is a link to another one.
    return str(Path(found).absolute())


def _with_source(engine: Engine, deployment: Deployment) -> Deployment:
    """With an absolute path where the source is one. Raises click.UsageError when it is nothing."""
    source = deployment.source
    try:
        if Path(source).exists():
            return structs.replace(deployment, source=str(Path(source).absolute()))
    except (OSError, ValueError):
        pass  # It is too long for a path; the engine may know better.
    try:
        suitability = engine.suits(deployment)
    except Exception as error:
        raise click.UsageError(f"--model {source[:80]}: {described(error)}") from error
    if not suitability.suitable:
        raise click.UsageError(
            f"--model {source[:80]}: there is no such path, and the engine {engine.name} says: "
            f"{suitability.reason}"
        )
    return deployment


def _surroundings(engine: Engine, plugins: Plugins) -> _Surroundings | None:
    """The best platform of the engine that is here. None: there is none."""
    for platform in engine.platforms:
        if platform == "cpu":
            return _Surroundings("cpu")
        for source in plugins.device_sources.values():
            if source.on_by_default and (devices := _devices(source, platform)):
                return _Surroundings(platform, devices, source)
    return None


def _devices(source: DeviceSource, platform: Platform) -> tuple[Device, ...]:
    """Those of the platform, the emptiest first. The source stays open if there are any."""
    try:
        model = source.options_model()
        source.open(model().model_dump(mode="python") if model is not None else {})
        inventory = source.observe(time.monotonic())
        used = {one.uuid: one.memory_used_bytes or 0 for one in inventory.readings}
        found = [one for one in inventory.devices if one.platform == platform]
        if not found:
            source.close()
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        note(f"the device source {source.name} cannot be asked: {described(error)}")
        return ()
    return tuple(sorted(found, key=lambda one: (used.get(one.uuid, 0), one.node, one.index)))


def _shapes(
    engine: Engine, deployment: Deployment, surroundings: _Surroundings
) -> tuple[Shape, ...]:
    """Two ranks side by side and one after the other, where it says that it can do that."""
    possible = []
    for shape, capability in _SHAPES.items():
        enough = surroundings.platform == "cpu" or len(surroundings.devices) >= shape.device_count
        if capability not in engine.capabilities or not enough:
            continue
        wanted = structs.replace(
            deployment,
            tensor_parallel_size=shape.tensor_parallel_size,
            pipeline_parallel_size=shape.pipeline_parallel_size,
        )
        try:
            complaints = "; ".join(one.message for one in engine.check(wanted))
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            complaints = described(error)
        if complaints:
            note(f"not tried with {shape}: {complaints}")
        else:
            possible.append(shape)
    return tuple(possible)
