"""The parts of one plugin, found by its name, with the options that they are tried with."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from pydantic import BaseModel

from muai_core import builtin
from muai_core.cli.plugin_kinds import KindWord
from muai_core.config.errors import ConfigError, Origin, printable
from muai_core.config.tree import Node
from muai_core.config.validation import validate
from muai_core.config.wording import nearest
from muai_core.config.yaml_text import parse_yaml
from muai_core.planning.wording import described
from muai_core.plugin.loading import DISABLE_VARIABLE, KINDS, PluginRecord, Plugins
from muai_core.plugin.options import Configurable
from muai_core.testing.clauses import Kind

KIND_OF_WORD: dict[KindWord, Kind] = {
    "engine": "engine",
    "device-source": "device source",
    "allocation": "allocation strategy",
    "recovery": "recovery policy",
    "sink": "metric sink",
}
_OPTIONS = Origin("default", "--options")


class Part(Struct, frozen=True, kw_only=True):
    """One thing that a plugin registers."""

    kind: Kind
    name: str
    part: Any
    #: Name, version and origin of the plugin.
    plugin: PluginRecord

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def load_all(plugin: str) -> Plugins:
    """All plugins, and the local file when `plugin` names one. Raises click.UsageError."""
    if not _is_file_name(plugin):
        return builtin.load()
    path = Path(plugin)
    try:
        if path.is_dir():
            raise click.UsageError(
                f"{plugin} is a folder; install the package (pip install -e {plugin}) and give "
                "its name"
            )
        if not path.is_file():
            raise click.UsageError(
                f"there is no file {plugin}; give a plugin's .py file or the name of an installed "
                "plugin, see `muai plugins`"
            )
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{plugin[:80]} cannot be read: {described(error)}") from None
    return builtin.load([path.absolute()])


def _is_file_name(plugin: str) -> bool:
    return plugin.endswith(".py") or "/" in plugin


def parts_of(plugin: str, plugins: Plugins) -> list[Part]:
    """What it registers, in the order of the hooks. Raises click.UsageError, with all it takes."""
    if _is_file_name(plugin):
        records = [plugins.records[-1]]
    else:
        wanted = _plain(plugin)
        records = [
            record
            for record in plugins.records
            if wanted in (_plain(record.name), _plain(record.origin))
        ]
    if not records:
        known = [record.name for record in plugins.records]
        near = nearest(plugin, known)
        meant = f"did you mean {near}" if near else f"there are: {', '.join(known)}"
        raise click.UsageError(
            f"no plugin '{printable(plugin)}' is installed; {meant}; install a package with "
            "pip install -e FOLDER, or name a single file by its path"
        )
    for record in records:
        if record.status == "disabled":
            raise click.UsageError(f"{record.name} is left out by {DISABLE_VARIABLE}; unset that")
        if record.status == "failed":
            raise click.UsageError(
                f"{record.name} ({record.origin}) does not load: {record.reason}; correct that "
                "first"
            )
    return [
        Part(kind=kind, name=name, part=_part(plugins, kind, name), plugin=record)  # type: ignore[arg-type]
        for record in records
        for kind, name in record.registers
    ]


def _part(plugins: Plugins, kind: str, name: str) -> Any:
    [hook] = [hook for hook, (word, _) in KINDS.items() if word == kind]
    return plugins.table(hook)[name]


def _plain(name: str) -> str:
    """As packages are compared: case and separators do not count."""
    return re.sub(r"[-_.]+", "_", name).lower()


def selected(parts: Sequence[Part], kind: KindWord | None, name: str | None) -> list[Part]:
    """Those of the kind and the name. Raises click.UsageError when there are none."""
    found = [
        part for part in parts if kind in (None, *_words(part.kind)) and name in (None, part.name)
    ]
    if not found:
        there = ", ".join(str(part) for part in parts)
        raise click.UsageError(f"it registers no such part; it registers: {there}")
    return found


def _words(kind: Kind) -> list[KindWord]:
    return [word for word, meant in KIND_OF_WORD.items() if meant == kind]


def parse_options(texts: Sequence[str]) -> Node | None:
    """`--options` as a tree: each is key=value, or a JSON object. None: none were given.

    Raises click.UsageError.
    """
    if not texts:
        return None
    members: dict[str, Node] = {}
    for text in texts:
        members.update(_members(text))
    return Node(members, _OPTIONS)


def _members(text: str) -> Mapping[str, Node]:
    key, equals, value = text.partition("=")
    try:
        if text.lstrip().startswith("{"):
            found = parse_yaml(text, lambda _: _OPTIONS)
            assert isinstance(found.value, dict)
            return found.value
        if not equals or not key.strip():
            raise click.UsageError(
                f"--options takes key=value or a JSON object, not '{printable(text[:60])}'"
            )
        return {key.strip(): parse_yaml(value, lambda _: _OPTIONS, (key.strip(),))}
    except ConfigError as error:
        where = f" {printable(key.strip())}" if not text.lstrip().startswith("{") else ""
        raise click.UsageError(f"--options{where}: {error.problems[0].message}") from None


def options_for(part: Part, given: Node | None) -> dict[str, Any]:
    """The options as the kit of that kind wants them. Raises click.UsageError.

    Engines get them as their own model completes them, as in a deployment; the other kits complete
    them themselves.
    """
    tree = given or Node({}, _OPTIONS)
    try:
        configurable: Configurable = part.part
        model = configurable.options_model()
        if model is None:
            if given is not None:
                raise click.UsageError(f"the {part} has no options")
            return {}
        completed = _validated(part, model, tree)
    except click.UsageError:
        raise
    except Exception as error:
        raise click.UsageError(
            f"the options of the {part} cannot be checked: {described(error)}"
        ) from error
    plain: dict[str, Any] = completed if part.kind == "engine" else tree.plain()
    return plain


def _validated(part: Part, model: type[BaseModel], tree: Node) -> dict[str, Any]:
    options, problems, _ = validate(model, tree)
    if problems or options is None:
        wrong = "; ".join(f"{one.path or 'they'}: {one.message}" for one in problems)
        [word] = _words(part.kind)
        raise click.UsageError(
            f"the options of the {part} are wrong: {printable(wrong)}; give them with --options "
            f"key=value --kind {word} --name {part.name}"
        )
    return options.model_dump(mode="python")
