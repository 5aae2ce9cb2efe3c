"""The effective config for people and scripts: every value with its origin, no secret shown."""

import json
import math
import re
from typing import Any

from muai_core.config.errors import Origin, printable
from muai_core.config.loaded import LoadedConfig, effective
from muai_core.config.tree import Path, dotted, leaves
from muai_core.config.wording import masked
from muai_core.config.yaml_text import core_schema

COMMENT_COLUMN = 56

_PLAIN = re.compile(r"[A-Za-z/~][A-Za-z0-9_/.@+-]*(:[A-Za-z0-9_/.@+-]+)*")


def render_yaml(loaded: LoadedConfig) -> str:
    """The effective config as YAML; the comment behind a value says where it was given."""
    lines = [f"# effective configuration of {printable(loaded.file)}"]
    for key, value in shown(loaded, effective(loaded), ()).items():
        _render(loaded, (key,), value, lines)
    return "\n".join(lines) + "\n"


def render_json(loaded: LoadedConfig) -> dict[str, Any]:
    """Keys: file, config (the effective values), provenance (path → kind, name, line)."""
    data = shown(loaded, effective(loaded), ())
    return {
        "file": loaded.file,
        "config": data,
        "provenance": {
            dotted(path): _origin_json(loaded.origin(path)) for path, _value in leaves(data)
        },
    }


def shown(loaded: LoadedConfig, value: Any, path: Path) -> Any:
    """`value` with secrets replaced by `***`."""
    if isinstance(value, dict):
        return {key: shown(loaded, child, (*path, key)) for key, child in value.items()}
    if isinstance(value, list):
        return [shown(loaded, child, (*path, index)) for index, child in enumerate(value)]
    if path in loaded.secrets:
        return "***"
    return masked(value, path)


def _render(loaded: LoadedConfig, path: Path, value: Any, lines: list[str]) -> None:
    indent = "  " * (len(path) - 1)
    key = yaml_scalar(str(path[-1]))
    if isinstance(value, dict) and value:
        lines.append(f"{indent}{key}:")
        for name, child in value.items():
            _render(loaded, (*path, name), child, lines)
        return
    text = f"{indent}{key}: {_flow(value)}"
    lines.append(f"{text:<{COMMENT_COLUMN}}  # {printable(str(loaded.origin(path)))}")


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        members = (f"{yaml_scalar(key)}: {_flow(child)}" for key, child in value.items())
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return yaml_scalar(value)


def yaml_scalar(value: Any) -> str:
    """`value` as YAML that every reader, 1.1 or 1.2, understands alike."""
    if value is None or isinstance(value, (bool, int)):
        return json.dumps(value)
    if isinstance(value, float):
        return _float(value)
    text = str(value)
    plain = _PLAIN.fullmatch(text) and isinstance(core_schema(text), str)
    if plain and text.lower() not in ("y", "n", "yes", "no", "on", "off"):
        return text
    return printable(json.dumps(text, ensure_ascii=False))


def _float(value: float) -> str:
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else str(value).replace("inf", ".inf")
    mantissa, exponent, power = repr(value).partition("e")
    # YAML 1.1 reads 1e+20 as text.
    return mantissa + ("" if "." in mantissa else ".0") + exponent + power


def _origin_json(origin: Origin) -> dict[str, Any]:
    return {"kind": origin.kind, "name": origin.name, "line": origin.line or None}
