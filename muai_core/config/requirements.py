"""What a model of the config asks of its engine, beside serving it at all."""

from collections.abc import Iterable

from muai_core.config.loaded import wanted_sizes
from muai_core.config.schema import Config
from muai_core.config.subject import OFFICIAL, missing
from muai_core.plugin.engine import Engine
from muai_core.plugin.loading import Plugins


def lacking(config: Config, name: str, engine: Engine) -> str | None:
    """What `models.<name>` asks for and the engine does not have, in words; None: nothing.

    Called where the engine is not named: a named one judges the sizes itself.
    """
    words = []
    required = not_declared(config, name, engine)
    if required:
        words.append(f"has no {', '.join(required)}, which the model requires")
    sizes = wanted_sizes(config, name, engine.name)
    for size, capability in zip(sizes, ("tensor_parallel", "pipeline_parallel"), strict=True):
        if size is not None and size > 1 and capability not in engine.capabilities:
            words.append(f"has no {capability}, which {capability}_size {size} needs")
    return "; ".join(words) or None


def not_declared(config: Config, name: str, engine: Engine) -> tuple[str, ...]:
    """Capabilities that `models.<name>.requires` lists and the engine does not."""
    return tuple(
        one for one in dict.fromkeys(config.models[name].requires) if one not in engine.capabilities
    )


def who_has(config: Config, name: str, plugins: Plugins) -> str:
    """Which engines have all that the model requires, in words."""
    able = sorted(
        engine.name for engine in plugins.engines.values() if not not_declared(config, name, engine)
    )
    if able:
        return f"{_listed(able)} {'has' if len(able) == 1 else 'have'} it"
    others = not_installed(plugins)
    also = f"; of {_listed(others)}, not installed, that is not known" if others else ""
    return f"no installed engine has it{also}"


def not_installed(plugins: Plugins) -> dict[str, str]:
    """MuAI's own engines that are not there, each with the reason and what to do."""
    return {
        name: missing(plugins, "engine", name) or "not installed"
        for name in OFFICIAL["engine"]
        if name not in plugins.engines
    }


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
