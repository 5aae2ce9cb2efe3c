"""A config that has passed every check, with the origin of each value."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from muai_core.config.errors import Origin, Problem
from muai_core.config.schema import Config, ModelConfig
from muai_core.config.sources import ResolvedSource, resolve_path
from muai_core.config.tree import Node
from muai_core.config.tree import Path as KeyPath
from muai_core.model.deployment import Affinity, Deployment
from muai_core.plugin.engine import Engine
from muai_core.plugin.loading import Plugins

DEFAULT = Origin("default", "default")
GIB = 1024**3

#: (engine, key of the model) → key of the engine's section in `optimization`
_OPTIMIZATION_KEYS = {
    ("vllm", "tensor_parallel_size"): "tensor_parallel_size",
    ("deepspeed", "tensor_parallel_size"): "tensor_parallel",
    ("deepspeed", "pipeline_parallel_size"): "pipeline_parallel",
}


class LoadedConfig(Struct, frozen=True, kw_only=True):
    """What `load_config` returns; nothing in it needs checking again."""

    #: The file as the user named it, and the folder that relative paths start at.
    file: str
    folder: Path
    #: The config with defaults, overrides, engine defaults and the plugins' own defaults.
    config: Config
    plugins: Plugins
    warnings: tuple[Problem, ...]
    #: Where each given value stands; a path that is missing has its default.
    provenance: dict[KeyPath, Origin]
    #: model → its weights, for sources that are a path or a package's file.
    sources: dict[str, ResolvedSource]
    #: Paths whose values a plugin declared secret.
    secrets: frozenset[KeyPath] = frozenset()

    def origin(self, path: KeyPath) -> Origin:
        """Where the value at `path` was given."""
        return self.provenance.get(path, DEFAULT)

    def is_enabled(self, engine: str) -> bool:
        """False when `optimization.<engine>.enabled` forbids the engine."""
        return engine_enabled(self.config, engine)

    def sink_options(self) -> dict[str, dict[str, Any]]:
        """The metric sinks that are on, with their validated options."""
        on = {name: section for name, section in self.config.sinks.items() if section.enabled}
        return {name: dict(section.model_extra or {}) for name, section in on.items()}

    def device_source_options(self) -> dict[str, dict[str, Any]]:
        """The device sources that are on, with their validated options."""
        options = self.config.devices.model_extra or {}
        return {name: dict(options.get(name, {})) for name in device_sources_on(self)}

    def deployment(self, name: str, engine_name: str, engine: Engine) -> Deployment:
        """The model `name` as it would be served by an engine, memory need from the config only."""
        return draft_deployment(
            self.config, name, engine_name, engine, source=self.source_text(name)
        )

    def path(self, text: str) -> Path:
        """A path of the config as an absolute one: from the file's folder, `~` written out."""
        return resolve_path(text, self.folder)

    def source_text(self, name: str) -> str:
        """The model's source with a path made absolute."""
        found = self.sources.get(name)
        return str(found.path) if found else self.config.models[name].source

    def python_for(self, engine: str) -> str | None:
        """The interpreter that `engines.<engine>.python` names, absolute; None for our own."""
        section = self.config.engines.get(engine)
        if section is None or section.python is None:
            return None
        return str(self.path(section.python))


def engine_enabled(config: Config, engine: str) -> bool:
    """False when `optimization.<engine>.enabled` forbids the engine."""
    if engine not in type(config.optimization).model_fields:
        return True
    return bool(getattr(config.optimization, engine).enabled)


def optimization_default(config: Config, engine: str, key: str) -> tuple[int, KeyPath] | None:
    """The engine's default for a model's `key`, and where in `optimization` it stands."""
    own_key = _OPTIMIZATION_KEYS.get((engine, key))
    if own_key is None:
        return None
    value = getattr(getattr(config.optimization, engine), own_key)
    return None if value is None else (value, ("optimization", engine, own_key))


def device_sources_on(loaded: LoadedConfig) -> list[str]:
    """Names of the device sources to run, in the config's order or the plugins'."""
    devices = loaded.config.devices
    if devices.sources is not None:
        return list(dict.fromkeys(devices.sources))
    configured = devices.model_extra or {}
    known = loaded.plugins.device_sources
    return [name for name in known if name in configured or known[name].on_by_default]


def draft_deployment(
    config: Config, name: str, engine_name: str, engine: Engine, *, source: str
) -> Deployment:
    """The deployment that `models.<name>` describes; sizes left open become the engine's default.

    `memory_bytes_per_device` is what the config claims (GiB to bytes) or None.
    """
    model = config.models[name]
    sizes = wanted_sizes(config, name, engine_name)
    memory_bytes = None if model.memory_gib is None else int(model.memory_gib * GIB)
    return Deployment(
        name=name,
        source=source,
        engine=engine_name,
        replicas=model.replicas,
        tensor_parallel_size=sizes[0] or 1,
        pipeline_parallel_size=sizes[1] or 1,
        platforms=engine.platforms,
        affinity=Affinity(
            devices=tuple(model.affinity.devices),
            nodes=tuple(model.affinity.nodes),
            platform=model.affinity.platform,
        ),
        max_model_len=model.max_model_len,
        dtype=model.dtype,
        kv_cache_dtype=model.kv_cache_dtype,
        concurrency=model.concurrency,
        memory_bytes_per_device=memory_bytes,
        engine_options=dict(model.engine_options),
    )


def wanted_sizes(config: Config, name: str, engine: str) -> tuple[int | None, int | None]:
    """Tensor- and pipeline-parallel size of a model on an engine; None: the planner chooses."""
    model = config.models[name]
    tensor = _size(config, model, engine, "tensor_parallel_size")
    pipeline = _size(config, model, engine, "pipeline_parallel_size")
    if isinstance(tensor, int) and pipeline is None:
        pipeline = 1
    elif isinstance(pipeline, int) and tensor is None:
        tensor = 1
    return _number(tensor), _number(pipeline)


def _size(
    config: Config, model: ModelConfig, engine: str, key: str
) -> int | Literal["auto"] | None:
    own: int | Literal["auto"] | None = getattr(model, key)
    if own is not None:
        return own
    default = optimization_default(config, engine, key)
    return default[0] if default else None


def _number(size: int | Literal["auto"] | None) -> int | None:
    return None if size == "auto" else size


def origins(tree: Node) -> dict[KeyPath, Origin]:
    """The origin of every given value: leaves, and the mappings and lists above them."""
    found: dict[KeyPath, Origin] = {}
    _collect(tree, (), found)
    return found


def _collect(node: Node, path: KeyPath, found: dict[KeyPath, Origin]) -> None:
    found[path] = node.origin
    members: Sequence[tuple[str | int, Node]] = ()
    if isinstance(node.value, dict):
        members = list(node.value.items())
    elif isinstance(node.value, list):
        members = list(enumerate(node.value))
    for key, child in members:
        _collect(child, (*path, key), found)


def effective(loaded: LoadedConfig) -> dict[str, Any]:
    """The whole config as plain data, sections in the schema's order."""
    data: dict[str, Any] = loaded.config.model_dump(mode="python")
    return data
