"""Environment variables and `--set` on top of the file."""

import re
from collections.abc import Mapping, Sequence

from muai_core.config.errors import ConfigError, Origin, Problem
from muai_core.config.tree import Node, dotted
from muai_core.config.yaml_text import parse_yaml

ENV_PREFIX = "MUAI__"
OPTIMIZATION_PREFIX = "MUAI_OPT_"
OPTIMIZATION_VARIABLES: dict[str, tuple[str, ...]] = {
    "MUAI_OPT_VLLM_TENSOR_PARALLEL": ("optimization", "vllm", "tensor_parallel_size"),
    "MUAI_OPT_DEEPSPEED_TENSOR_PARALLEL": ("optimization", "deepspeed", "tensor_parallel"),
    "MUAI_OPT_DEEPSPEED_PIPELINE_PARALLEL": ("optimization", "deepspeed", "pipeline_parallel"),
}
VALUE_CHARACTERS_MAX = 65_536

_PATH_PART = re.compile(r'"([^"]*)"|([^."]+)')


class _OverrideError(ValueError):
    """The path of an override leads nowhere; the text is the message for the user."""


def apply_environment(tree: Node, environ: Mapping[str, str]) -> list[Problem]:
    """Puts the variables of MuAI into `tree`; an empty variable counts as not set.

    The fixed `MUAI_OPT_` names go first, so `MUAI__OPTIMIZATION__...` wins over them.
    """
    problems: list[Problem] = []
    for name in sorted(environ):
        if not name.startswith(OPTIMIZATION_PREFIX) or not environ[name]:
            continue
        path = OPTIMIZATION_VARIABLES.get(name)
        if path is None:
            message = f"unknown variable; allowed: {', '.join(OPTIMIZATION_VARIABLES)}"
            problems.append(Problem(Origin("env", name), "", message))
        else:
            problems += _apply(tree, list(path), environ[name], Origin("env", name))
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or not environ[name]:
            continue
        origin = Origin("env", name)
        try:
            keys = _match_keys(tree, name)
        except _OverrideError as error:
            problems.append(Problem(origin, "", str(error)))
        else:
            problems += _apply(tree, keys, environ[name], origin)
    return problems


def apply_settings(tree: Node, settings: Sequence[str]) -> list[Problem]:
    """Puts every `section.key=value` into `tree`, in order, so that the last one wins."""
    problems: list[Problem] = []
    for setting in settings:
        path_text, separator, value = setting.partition("=")
        origin = Origin("set", path_text.strip() or "''")
        keys = _split_path(tree, path_text.strip())
        if not separator:
            # The whole text is the origin's name here, so a value in it could be a secret's.
            problems.append(Problem(origin, "", "expected section.key=value, found no ="))
        elif not keys:
            problems.append(Problem(origin, "", "expected section.key=value, found no such path"))
        else:
            problems += _apply(tree, keys, value, origin)
    return problems


def _apply(tree: Node, keys: list[str], text: str, origin: Origin) -> list[Problem]:
    if len(text) > VALUE_CHARACTERS_MAX:
        message = f"the value has {len(text):,} characters; {VALUE_CHARACTERS_MAX:,} are allowed"
        return [Problem(origin, dotted(keys), message)]
    try:
        value = parse_yaml(text, lambda _line: origin, tuple(keys))
    except ConfigError as error:
        return list(error.problems)
    try:
        _set(tree, keys, value, origin)
    except _OverrideError as error:
        return [Problem(origin, dotted(keys), str(error))]
    return []


def _set(tree: Node, keys: Sequence[str], value: Node, origin: Origin) -> None:
    node = tree
    for depth, key in enumerate(keys):
        if node.value is None:
            node.value = {}
        if not isinstance(node.value, dict):
            what = "a list; set the whole list" if isinstance(node.value, list) else "no mapping"
            raise _OverrideError(f"{dotted(keys[:depth])} is {what}")
        if depth == len(keys) - 1:
            node.value[key] = value
        else:
            node = node.value.setdefault(key, Node({}, origin))


def _match_keys(tree: Node, name: str) -> list[str]:
    """The path that a variable means: each part by an existing key, else in lower case."""
    parts = name.removeprefix(ENV_PREFIX).split("__")
    if not all(parts):
        raise _OverrideError("expected MUAI__SECTION__KEY, with two underscores between the parts")
    keys: list[str] = []
    node: Node | None = tree
    for part in parts:
        members = node.value if node and isinstance(node.value, dict) else {}
        same = [key for key in members if _folded(key) == _folded(part)]
        if len(same) > 1:
            names = ", ".join(dotted([*keys, key]) for key in same)
            raise _OverrideError(f"can mean any of {names}; use --set")
        # Names of environment variables are the only keys of the config in upper case.
        upper = len(keys) == 3 and keys[0] == "engines" and keys[2] == "env"
        key = same[0] if same else part if upper else part.lower()
        keys.append(key)
        node = members.get(key)
    return keys


def _folded(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", key.lower())


def _split_path(tree: Node, text: str) -> list[str]:
    """The keys of `text`; dots inside an existing key (a model's name) do not separate."""
    parts: list[tuple[str, bool]] = []
    position = 0
    while position < len(text):
        match = _PATH_PART.match(text, position)
        if match is None:
            return []
        quoted = match[1] is not None
        parts.append((match[1] if quoted else match[2], quoted))
        position = match.end()
        if position < len(text):
            if text[position] != "." or position == len(text) - 1:
                return []
            position += 1
    return _join_existing(tree, parts)


def _join_existing(tree: Node, parts: Sequence[tuple[str, bool]]) -> list[str]:
    keys: list[str] = []
    node: Node | None = tree
    index = 0
    while index < len(parts):
        members = node.value if node and isinstance(node.value, dict) else {}
        end = index + 1
        for candidate in range(len(parts), index + 1, -1):
            joined = ".".join(part for part, _ in parts[index:candidate])
            if joined in members and not any(quoted for _, quoted in parts[index:candidate]):
                end = candidate
                break
        key = ".".join(part for part, _ in parts[index:end])
        keys.append(key)
        node = members.get(key)
        index = end
    return keys
