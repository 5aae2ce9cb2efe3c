"""From a checked config to what the control plane is told: deployments with their engines."""

from collections.abc import Collection, Sequence

from msgspec import Struct, structs

from muai_core.config.errors import ConfigError, Problem
from muai_core.config.estimates import Impossible, Wish, with_memory
from muai_core.config.loaded import LoadedConfig
from muai_core.config.requirements import lacking, not_installed
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
_BEST_FIRST: tuple[Platform, ...] = ("cuda", "simulated", "cpu")


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
    for name, model in loaded.config.models.items():
        if model.engine != "auto":
            is_there = model.engine in loaded.plugins.engines
            choices[name] = (EngineChoice(model.engine, is_there, "named in the config"),)
            if is_there:
                deployments.append(_named(loaded, name, platforms, calibrate))
                continue
        else:
            ranked = _ranked(loaded, name, platforms, calibrate)
            choices[name] = (*_choices(ranked), *_not_there(loaded))
            chosen = next((one.deployment for one in ranked if one.deployment is not None), None)
            if chosen is not None:
                deployments.append(chosen)
                continue
        origin = loaded.origin(("models", name, "engine"))
        if origin.kind == "default":
            origin = loaded.origin(("models", name))
        problems.append(Problem(origin, f"models.{name}.engine", _nobody(choices[name])))
    if problems:
        raise ConfigError(problems)
    return Resolved(
        settings=control_settings(loaded), deployments=tuple(deployments), choices=choices
    )


class _Considered(Struct, frozen=True, kw_only=True):
    """One installed engine and one model. Without a deployment it cannot serve it here."""

    engine: str
    reason: str
    deployment: Deployment | None = None


def _ranked(
    loaded: LoadedConfig, name: str, platforms: Collection[Platform], calibrate: Calibrate
) -> list[_Considered]:
    """All installed engines: the highest priority first, of equals the one on better devices."""
    engines = sorted(
        loaded.plugins.engines.items(),
        key=lambda item: (
            -item[1].auto_priority,
            min(map(_BEST_FIRST.index, _usable(loaded, name, item[1], platforms)), default=9),
            item[0],
        ),
    )
    return [
        _considered(loaded, name, engine_name, engine, platforms, calibrate)
        for engine_name, engine in engines
    ]


def _choices(ranked: Sequence[_Considered]) -> list[EngineChoice]:
    """In words: the first that can serve the model is chosen."""
    found: list[EngineChoice] = []
    chosen: str | None = None
    for one in ranked:
        reason = one.reason
        if one.deployment is not None and chosen is not None:
            reason = f"suits too, but {chosen} ranks higher: {reason}"
        elif one.deployment is not None:
            reason, chosen = f"auto: {reason}", one.engine
        found.append(EngineChoice(one.engine, reason.startswith("auto: "), reason))
    return found


def _not_there(loaded: LoadedConfig) -> list[EngineChoice]:
    missing = not_installed(loaded.plugins)
    return [EngineChoice(name, False, reason) for name, reason in missing.items()]


def _usable(
    loaded: LoadedConfig, name: str, engine: Engine, platforms: Collection[Platform]
) -> list[Platform]:
    """Where the engine could run the model here, best first."""
    wanted = loaded.config.models[name].affinity.platform
    return [one for one in engine.platforms if one in platforms and wanted in (None, one)]


def _considered(
    loaded: LoadedConfig,
    name: str,
    engine_name: str,
    engine: Engine,
    platforms: Collection[Platform],
    calibrate: Calibrate,
) -> _Considered:
    """What `auto` makes of one engine: the first obstacle, or the deployment."""

    def refused(reason: str) -> _Considered:
        return _Considered(engine=engine_name, reason=reason)

    if not loaded.is_enabled(engine_name):
        return refused(f"switched off by optimization.{engine_name}.enabled: false")
    usable = _usable(loaded, name, engine, platforms)
    if not usable:
        wanted = loaded.config.models[name].affinity.platform
        there = ", ".join(sorted(platforms)) or "no devices"
        only = "" if wanted is None else f"; affinity.platform is {wanted}"
        return refused(f"runs on {', '.join(engine.platforms)}; found {there}{only}")
    try:
        without = lacking(loaded.config, name, engine)
        if without is not None:
            return refused(without)
        wish = _wish(loaded, name, engine)
        suitability = engine.suits(wish.deployment)
        if not suitability.suitable:
            return refused(suitability.reason)
        if suitability.only_if_named:
            return refused(f"{suitability.reason}, but only where the config names it")
        complaints = engine.check(wish.deployment)
        if complaints:
            return refused("; ".join(f"{one.field}: {one.message}" for one in complaints))
        deployment = with_memory(wish, platforms, calibrate)
    except Impossible as error:
        return refused(f"{error.complaint.field}: {error.complaint.message}")
    except Exception as error:  # noqa: BLE001 - an engine may raise anything at all
        return refused(f"failed to answer: {type(error).__name__}: {error}")
    reason = f"{suitability.reason}; runs on {usable[0]}"
    return _Considered(
        engine=engine_name,
        reason=reason,
        deployment=structs.replace(deployment, engine_reason=f"auto: {reason}"),
    )


def _wish(loaded: LoadedConfig, name: str, engine: Engine) -> Wish:
    found = loaded.sources.get(name)
    return Wish.of(
        loaded.config,
        name,
        engine,
        source=loaded.source_text(name),
        path=None if found is None else found.path,
    )


def _named(
    loaded: LoadedConfig, name: str, platforms: Collection[Platform], calibrate: Calibrate
) -> Deployment:
    """On the engine that the config names. Raises ConfigError."""
    engine_name = loaded.config.models[name].engine
    wish = _wish(loaded, name, loaded.plugins.engines[engine_name])
    path: KeyPath = ("models", name)
    try:
        return with_memory(wish, platforms, calibrate)
    except Impossible as error:
        path, message = (*path, error.complaint.field), error.complaint.message
    except Exception as error:  # noqa: BLE001 - an engine may raise anything at all
        message = f"engine {engine_name} cannot estimate its memory: {error}"
    raise ConfigError([Problem(loaded.origin(path), dotted(path), message)]) from None


def _nobody(considered: Sequence[EngineChoice]) -> str:
    if not considered:
        return "no engine is installed; see plugins/ in MuAI's repository"
    reasons = "; ".join(f"{choice.engine}: {choice.reason}" for choice in considered)
    return f"no installed engine suits this model: {reasons}"
