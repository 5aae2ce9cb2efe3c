"""What the engines themselves say about the models they are to serve."""

from collections.abc import Mapping

from msgspec import Struct

from muai_core.config.estimates import Impossible, Wish, with_memory
from muai_core.config.loaded import engine_enabled, optimization_default
from muai_core.config.requirements import lacking, not_declared, who_has
from muai_core.config.schema import Config
from muai_core.config.sources import ResolvedSource
from muai_core.config.subject import Subject
from muai_core.config.tree import Path as KeyPath
from muai_core.plugin.engine import Complaint, Engine


class Opinion(Struct, frozen=True):
    """What one engine says about one model: a refusal of the whole, or complaints about fields."""

    engine: str
    refusal: str | None = None
    complaints: tuple[Complaint, ...] = ()


def check_deployments(
    subject: Subject, config: Config, sources: Mapping[str, ResolvedSource]
) -> None:
    """Asks about every model that is sound so far; which devices there are plays no part yet."""
    for name, model in config.models.items():
        if any(cut[:2] == ("models", name) for cut in subject.broken):
            continue
        found = sources.get(name)
        if model.engine == "auto":
            _check_auto(subject, config, name, found)
        elif (engine := subject.plugins.engines.get(model.engine)) is not None:
            without = not_declared(config, name, engine)
            if without:
                message = f"the engine {engine.name} has no {', '.join(without)}"
                who = who_has(config, name, subject.plugins)
                subject.report(("models", name, "requires"), f"{message}; {who}")
            opinion = _ask(config, name, engine, found)
            if opinion.refusal is not None:
                message = f"the engine {engine.name} cannot serve this: {opinion.refusal}"
                subject.report(("models", name, "engine"), message)
            _report_complaints(subject, name, opinion)


def _check_auto(subject: Subject, config: Config, name: str, found: ResolvedSource | None) -> None:
    engines = [
        engine for engine in subject.plugins.engines.values() if engine_enabled(config, engine.name)
    ]
    engines.sort(key=lambda engine: (-engine.auto_priority, engine.name))
    opinions: list[Opinion] = []
    for engine in engines:
        opinions.append(_ask(config, name, engine, found, named=False))
        if opinions[-1].refusal is None and not opinions[-1].complaints:
            return
    path: KeyPath = ("models", name, "engine")
    willing = next((opinion for opinion in opinions if opinion.refusal is None), None)
    if willing is not None:
        _report_complaints(subject, name, willing)
    elif opinions:
        reasons = "; ".join(f"{opinion.engine}: {opinion.refusal}" for opinion in opinions)
        subject.report(path, f"no installed engine can serve this: {reasons}")
    else:
        how = "in MuAI's repository: pip install ./plugins/muai_transformers"
        message = f"no engine is installed and enabled; {how}"
        subject.report(path, message)


def _ask(
    config: Config,
    name: str,
    engine: Engine,
    found: ResolvedSource | None,
    *,
    named: bool = True,
) -> Opinion:
    path = None if found is None else found.path
    source = config.models[name].source if path is None else str(path)
    try:
        if not named and (reason := lacking(config, name, engine)) is not None:
            return Opinion(engine.name, reason)
        wish = Wish.of(config, name, engine, source=source, path=path)
        suitability = engine.suits(wish.deployment)
        if not suitability.suitable or (suitability.only_if_named and not named):
            return Opinion(engine.name, suitability.reason)
        complaints = tuple(engine.check(wish.deployment))
        if not complaints:
            with_memory(wish)
        return Opinion(engine.name, None, complaints)
    except Impossible as error:
        return Opinion(engine.name, None, (error.complaint,))
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything at all
        return Opinion(engine.name, f"it failed to answer ({type(error).__name__}: {error})")


def _report_complaints(subject: Subject, name: str, opinion: Opinion) -> None:
    for complaint in opinion.complaints:
        path: KeyPath = ("models", name, *complaint.field.split("."))
        default = optimization_default(subject.config, opinion.engine, complaint.field)
        if subject.tree.find(path) is None and default is not None:
            subject.report(default[1], f"for models.{name}: {complaint.message}")
        else:
            subject.report(path, complaint.message)
