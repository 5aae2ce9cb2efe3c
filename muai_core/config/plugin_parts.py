"""The parts of the config that plugins own: validated by their models, placed on their lines."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

from muai_core.config.loaded import optimization_default
from muai_core.config.schema import Config, SinkConfig
from muai_core.config.subject import Subject, missing
from muai_core.config.tree import Path as KeyPath
from muai_core.config.validation import validate
from muai_core.config.wording import choices, keys_of, nearest
from muai_core.plugin.options import Configurable


def check_options(
    subject: Subject,
    kind: str,
    part: Configurable,
    path: KeyPath,
    values: Mapping[str, Any],
    own_keys: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The options at `path` as the plugin's model completes them, its defaults included.

    `own_keys` are keys of the same mapping that belong to the core. Mistakes are reported and
    left out; an options model that raises is a mistake that names the plugin's part.
    """
    try:
        model = part.options_model()
        if model is None:
            for key in values:
                message = f"unknown option; the {kind} {part.name} has none"
                _unknown(subject, (*path, key), message, list(own_keys))
            return {}
        return _validated(subject, model, path, own_keys)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything at all
        reason = f"{type(error).__name__}: {error}"
        subject.report(path, f"the options of the {kind} {part.name} cannot be checked: {reason}")
        return {}


def _validated(
    subject: Subject, model: type[BaseModel], path: KeyPath, own_keys: tuple[str, ...]
) -> dict[str, Any]:
    options, problems, broken = validate(model, subject.tree, path, own_keys)
    subject.problems += problems
    subject.broken |= broken
    if options is None:
        return {}
    values: dict[str, Any] = _plain(subject, path, options.model_dump(mode="python"))
    return values


def _plain(subject: Subject, path: KeyPath, value: Any) -> Any:
    """Plugin options as plain data; what the plugin declared secret is remembered as such."""
    if isinstance(value, dict):
        return {str(key): _plain(subject, (*path, str(key)), child) for key, child in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(subject, (*path, index), child) for index, child in enumerate(value)]
    if isinstance(value, (SecretStr, SecretBytes)):
        subject.secrets.add(path)
        return value.get_secret_value()
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    return to_jsonable_python(value, fallback=str)


def _unknown(subject: Subject, path: KeyPath, message: str, allowed: list[str]) -> None:
    meant = nearest(str(path[-1]), allowed)
    if meant is None:
        subject.report(path, message)
    else:
        subject.report(path, "unknown option", meant)


def complete(subject: Subject) -> Config:
    """The config with every plugin's options validated and completed."""
    config = subject.config
    return config.model_copy(
        update={
            "models": _models(subject),
            "devices": _devices(subject),
            "allocation": _allocation(subject),
            "recovery": _recovery(subject),
            "sinks": _sinks(subject),
        }
    )


def _models(subject: Subject) -> dict[str, Any]:
    models = {}
    for name, model in subject.config.models.items():
        path: KeyPath = ("models", name, "engine_options")
        engine = subject.plugins.engines.get(model.engine)
        update: dict[str, Any] = {}
        if model.engine == "auto" and model.engine_options:
            message = "options belong to one engine, so name it: engine: NAME instead of auto"
            subject.report(path, message)
        elif engine is not None:
            options = check_options(subject, "engine", engine, path, model.engine_options)
            update["engine_options"] = options
            for key in ("tensor_parallel_size", "pipeline_parallel_size"):
                default = optimization_default(subject.config, model.engine, key)
                if getattr(model, key) is None and default is not None:
                    update[key] = default[0]
        models[name] = model.model_copy(update=update)
    return models


def _devices(subject: Subject) -> Any:
    devices = subject.config.devices
    sources = subject.plugins.device_sources
    own = keys_of(type(devices))
    completed: dict[str, Any] = {}
    for name, values in (devices.model_extra or {}).items():
        path: KeyPath = ("devices", name)
        part = sources.get(name)
        if part is None and (reason := missing(subject.plugins, "device source", name)):
            subject.report(path, reason)
        elif part is None:
            allowed = [*own, *sorted(sources)]
            message = f"unknown option or device source; allowed: {choices(allowed)}"
            _unknown(subject, path, message, allowed)
        elif values is not None and not isinstance(values, dict):
            subject.report(path, f"expected a mapping (key: value) with the options of {name}")
        else:
            completed[name] = check_options(subject, "device source", part, path, values or {})
            if devices.sources is not None and name not in devices.sources:
                message = f"{name} does not run: devices.sources does not list it"
                subject.report(path, message, severity="warning")
    for index, name in enumerate(devices.sources or []):
        if subject.check_name(("devices", "sources", index), "device source", name, sources):
            path = ("devices", name)
            if name not in completed and name not in (devices.model_extra or {}):
                completed[name] = check_options(subject, "device source", sources[name], path, {})
    if devices.sources is None:
        for name, part in sources.items():
            if part.on_by_default and name not in (devices.model_extra or {}):
                options = check_options(subject, "device source", part, ("devices", name), {})
                completed.update({name: options} if options else {})
    core = {key: getattr(devices, key) for key in own}
    return type(devices).model_construct(**core, **completed)


def _allocation(subject: Subject) -> Any:
    allocation = subject.config.allocation
    options = _named_part(
        subject,
        ("allocation", "strategy"),
        "allocation strategy",
        subject.plugins.allocation_strategies,
        allocation.options,
    )
    return allocation.model_copy(update={"options": options})


def _recovery(subject: Subject) -> Any:
    recovery = subject.config.recovery
    options = _named_part(
        subject,
        ("recovery", "policy"),
        "recovery policy",
        subject.plugins.recovery_policies,
        recovery.options,
    )
    return recovery.model_copy(update={"options": options})


def _named_part(
    subject: Subject,
    path: KeyPath,
    kind: str,
    parts: Mapping[str, Configurable],
    values: Mapping[str, Any],
) -> dict[str, Any]:
    section = getattr(subject.config, str(path[0]))
    name = getattr(section, str(path[1]))
    if not subject.is_sound(path) or not subject.check_name(path, kind, name, parts):
        return {}
    return check_options(subject, kind, parts[name], (path[0], "options"), values)


def _sinks(subject: Subject) -> dict[str, Any]:
    sinks = subject.plugins.metric_sinks
    sections = dict(subject.config.sinks)
    for name, sink in sinks.items():
        if sink.on_by_default and name not in sections:
            sections[name] = SinkConfig()
    completed = {}
    for name, section in sections.items():
        path: KeyPath = ("sinks", name)
        if subject.check_name(path, "sink", name, sinks):
            values = section.model_extra or {}
            options = check_options(subject, "sink", sinks[name], path, values, ("enabled",))
            completed[name] = type(section).model_construct(enabled=section.enabled, **options)
    return completed
