"""From a checked config to what the control plane is told: deployments with their engines."""

from collections.abc import Collection

from msgspec import Struct, structs

from muai_core.config.errors import ConfigError, Problem
from muai_core.config.estimates import Impossible, Wish, with_memory
from muai_core.config.loaded import LoadedConfig
from muai_core.config.tree import Path as KeyPath
from muai_core.config.tree import dotted
from muai_core.control.state import ControlSettings, HealthSettings
from muai_core.model.deployment import Deployment
from muai_core.model.device import Platform
from muai_core.planning.calibration import Calibrate, uncalibrated
from muai_core.plugin.engine import Engine

GIB = 1024**3
#: The plane's own deadline for a start lies this far behind the supervisor's, which knows more.
_START_MARGIN_S = 10.0


class EngineChoice(Struct, frozen=True):
    """An engine that was considered for a model, and why it was taken or not."""

    engine: str
    chosen: bool
    reason: str


class Resolved(Struct, frozen=True, kw_only=True):
    """What the config asks of the control plane."""

    settings: ControlSettings
    deployments: tuple[Deployment, ...]
    #: model → the engines considered, best first.
    choices: dict[str, tuple[EngineChoice, ...]]


def control_settings(loaded: LoadedConfig) -> ControlSettings:
    """The control plane's part of the config."""
    config = loaded.config
    recovery = config.recovery
    start_s = recovery.spawn_deadline_s + recovery.load_deadline_s + recovery.ready_deadline_s
    return ControlSettings(
        strategy=config.allocation.strategy,
        policy=recovery.policy,
        strategy_options=dict(config.allocation.options),
        policy_options=dict(recovery.options),
        health=HealthSettings(**config.devices.health.model_dump()),
        memory_reserve_bytes=int(config.devices.memory_reserve_gib * GIB),
        backoff_initial_s=recovery.backoff_initial_s,
        backoff_max_s=recovery.backoff_max_s,
        stable_after_s=recovery.stable_after_s,
        start_deadline_s=start_s + _START_MARGIN_S,
        drain_s=recovery.drain_s,
        stop_grace_s=recovery.stop_grace_s,
    )


def resolve(
    loaded: LoadedConfig,
    platforms: Collection[Platform],
    calibrate: Calibrate = uncalibrated,
) -> Resolved:
    """Choose the engines and work out the memory needs. Reads model files' headers.

    `platforms` are those of the devices that were found: an engine that runs on none of them is
    not chosen by `auto`. `calibrate` corrects what the engines say of their memory. Raises
    ConfigError for models that no engine suits.
    """
    deployments: list[Deployment] = []
    choices: dict[str, tuple[EngineChoice, ...]] = {}
    problems: list[Problem] = []
    for name in loaded.config.models:
        considered = _consider(loaded, name, platforms)
        choices[name] = tuple(considered)
        chosen = next((choice for choice in considered if choice.chosen), None)
        if chosen is None:
            origin = loaded.origin(("models", name, "engine"))
            if origin.kind == "default":
                origin = loaded.origin(("models", name))
            problems.append(Problem(origin, f"models.{name}.engine", _nobody(considered)))
            continue
        deployments.append(_with_memory(loaded, name, chosen, platforms, calibrate))
    if problems:
        raise ConfigError(problems)
    return Resolved(
        settings=control_settings(loaded), deployments=tuple(deployments), choices=choices
    )


def _consider(
    loaded: LoadedConfig, name: str, platforms: Collection[Platform]
) -> list[EngineChoice]:
    wanted = loaded.config.models[name].engine
    engines = loaded.plugins.engines
    if wanted != "auto":
        return [EngineChoice(wanted, wanted in engines, "named in the config")]
    by_priority = sorted(engines.items(), key=lambda item: (-item[1].auto_priority, item[0]))
    considered: list[EngineChoice] = []
    taken = False
    for engine_name, engine in by_priority:
        refusal, reason = _suits(loaded, name, engine_name, engine, platforms)
        if refusal is None and taken:
            refusal = "suits too, but has a lower priority"
        considered.append(EngineChoice(engine_name, refusal is None, refusal or f"auto: {reason}"))
        taken = taken or refusal is None
    return considered


def _suits(
    loaded: LoadedConfig,
    name: str,
    engine_name: str,
    engine: Engine,
    platforms: Collection[Platform],
) -> tuple[str | None, str]:
    """Why `engine` is refused, or None; and what it says for itself."""
    if not loaded.is_enabled(engine_name):
        return f"switched off by optimization.{engine_name}.enabled: false", ""
    usable = [platform for platform in engine.platforms if platform in platforms]
    if not usable:
        there = ", ".join(sorted(platforms)) or "no devices"
        return f"runs on {', '.join(engine.platforms)}; found {there}", ""
    draft = loaded.deployment(name, engine_name, engine)
    try:
        suitability = engine.suits(draft)
        complaints = engine.check(draft) if suitability.suitable else ()
    except Exception as error:  # noqa: BLE001 - an engine may raise anything at all
        return f"failed to answer: {type(error).__name__}: {error}", ""
    if not suitability.suitable:
        return suitability.reason, ""
    if suitability.only_if_named:
        return f"{suitability.reason}, but only where the config names it", ""
    if complaints:
        return "; ".join(f"{complaint.field}: {complaint.message}" for complaint in complaints), ""
    return None, f"{suitability.reason}; runs on {usable[0]}"


def _with_memory(
    loaded: LoadedConfig,
    name: str,
    choice: EngineChoice,
    platforms: Collection[Platform],
    calibrate: Calibrate,
) -> Deployment:
    found = loaded.sources.get(name)
    engine = loaded.plugins.engines[choice.engine]
    wish = Wish.of(
        loaded.config,
        name,
        engine,
        source=loaded.source_text(name),
        path=None if found is None else found.path,
    )
    path: KeyPath = ("models", name)
    try:
        return structs.replace(with_memory(wish, platforms, calibrate), engine_reason=choice.reason)
    except Impossible as error:
        path, message = (*path, error.complaint.field), error.complaint.message
    except Exception as error:  # noqa: BLE001 - an engine may raise anything at all
        message = f"engine {choice.engine} cannot estimate its memory: {error}"
    raise ConfigError([Problem(loaded.origin(path), dotted(path), message)]) from None


def _nobody(considered: list[EngineChoice]) -> str:
    if not considered:
        return "no engine is installed; see plugins/ in MuAI's repository"
    reasons = "; ".join(f"{choice.engine}: {choice.reason}" for choice in considered)
    return f"no installed engine suits this model: {reasons}"
