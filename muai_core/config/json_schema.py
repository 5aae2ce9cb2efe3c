"""The JSON schema of the config file, with the parts of the installed plugins, for editors."""

from collections.abc import Iterable, Mapping
from typing import Any

from muai_core.config.schema import Config
from muai_core.plugin.loading import Plugins
from muai_core.plugin.options import Configurable

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def json_schema(plugins: Plugins) -> Schema:
    """A schema of draft 2020-12; names and options are those of the plugins that are loaded.

    An options model that raises leaves its options unchecked by the schema.
    """
    schema = Config.model_json_schema()
    schema = {"$schema": DIALECT, **schema, "title": "MuAI configuration", "required": ["models"]}
    schema["properties"]["models"].update({"minProperties": 1, "additionalProperties": False})
    definitions: Schema = schema["$defs"]
    options = _Options(definitions)
    model = definitions["ModelConfig"]
    model["properties"]["engine"]["enum"] = ["auto", *sorted(plugins.engines)]
    options.choose(model, "engine", "engine_options", plugins.engines)
    schema["properties"]["engines"]["propertyNames"] = _one_of(plugins.engines)
    for name, key, parts in (
        ("AllocationConfig", "strategy", plugins.allocation_strategies),
        ("RecoveryConfig", "policy", plugins.recovery_policies),
    ):
        definitions[name]["properties"][key].update(_one_of(parts))
        options.choose(definitions[name], key, "options", parts)
    devices = definitions["DevicesConfig"]
    devices["additionalProperties"] = False
    devices["properties"]["sources"]["anyOf"][0]["items"] = _one_of(plugins.device_sources)
    for name, source in sorted(plugins.device_sources.items()):
        devices["properties"][name] = _or_nothing(options.of("device source", source))
    _sinks(options, schema, plugins)
    return schema


class _Options:
    """Puts the schemas of plugins' options models beside the core's definitions."""

    def __init__(self, definitions: Schema) -> None:
        self.definitions = definitions

    def of(self, kind: str, part: Configurable) -> Schema:
        """The schema of one part's options; definitions it brings get names of their own."""
        prefix = f"{kind} {part.name} "
        try:
            model = part.options_model()
            if model is None:
                return {"type": "object", "maxProperties": 0}
            own = model.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
        except Exception:  # noqa: BLE001 - a plugin may raise anything at all
            return {"type": "object"}
        for name, definition in own.pop("$defs", {}).items():
            self.definitions[prefix + name] = definition
        return own

    def choose(
        self, definition: Schema, key: str, section: str, parts: Mapping[str, Configurable]
    ) -> None:
        """`section` of `definition` has the schema of the part that `key` names."""
        default = definition["properties"][key].get("default")
        rules: list[Schema] = []
        for name, part in sorted(parts.items()):
            condition: Schema = {"properties": {key: {"const": name}}}
            if name != default:
                # Without this the condition also holds where the key is left out.
                condition["required"] = [key]
            rules.append({"if": condition, "then": {"properties": {section: self.of(key, part)}}})
        if rules:
            definition["allOf"] = rules


def _one_of(names: Iterable[str]) -> Schema:
    listed = sorted(names)
    return {"enum": listed} if listed else {"not": {}}


def _sinks(options: _Options, schema: Schema, plugins: Plugins) -> None:
    enabled = options.definitions.pop("SinkConfig")["properties"]["enabled"]
    properties = {}
    for name, sink in sorted(plugins.metric_sinks.items()):
        own = options.of("sink", sink)
        own.pop("maxProperties", None)
        own["properties"] = {"enabled": enabled, **own.get("properties", {})}
        own.setdefault("additionalProperties", False)
        properties[name] = _or_nothing(own)
    schema["properties"]["sinks"] = {
        "type": "object",
        "description": schema["properties"]["sinks"]["description"],
        "properties": properties,
        "additionalProperties": False,
    }


def _or_nothing(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}
