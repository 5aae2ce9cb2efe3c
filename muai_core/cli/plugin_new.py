"""`muai plugin new`: the skeleton of a plugin, complete and in working order."""

import keyword
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import get_args

import click
from msgspec import Struct

from muai_core.cli.plugin_kinds import KIND_WORDS, KindWord
from muai_core.config.errors import printable
from muai_core.planning.wording import described

EXIT_FAILURE = 1
NAME_CHARACTERS_MAX = 40
_PREFIX = "muai_"
_NAME = re.compile(rf"(?:{_PREFIX}(?=[a-z])|(?!{_PREFIX}))([a-z][a-z0-9]*(?:_[a-z0-9]+)*)")
#: Nothing else may be called so: tests and MuAI itself would be hidden.
_TAKEN = ("muai", "muai_core", "test", "tests")
_SUFFIX = ".tmpl"
#: Parts of a template's path that are not literal.
_PACKAGE, _CONFORMANCE = "package", "conformance.py"


class _Skeleton(Struct, frozen=True):
    """What differs between the kinds."""

    #: As in `muai_core.plugin.loading.KINDS`.
    hook: str
    kind: str
    #: The interface, which is on the public door.
    interface: str
    #: The module of the implementation and the last word of its class.
    module: str
    role: str
    #: Arguments with which `muai plugin check` can try everything.
    check: str = ""


_SKELETONS: dict[KindWord, _Skeleton] = {
    "engine": _Skeleton(
        "muai_engines", "engine", "Engine", "engine", "Engine", " --model $folder/example/story.txt"
    ),
    "device-source": _Skeleton(
        "muai_device_sources",
        "device source",
        "DeviceSource",
        "source",
        "Source",
        " --options file=$folder/example/devices.json",
    ),
    "allocation": _Skeleton(
        "muai_allocation_strategies",
        "allocation strategy",
        "AllocationStrategy",
        "strategy",
        "Strategy",
    ),
    "recovery": _Skeleton(
        "muai_recovery_policies", "recovery policy", "RecoveryPolicy", "policy", "Policy"
    ),
    "sink": _Skeleton("muai_metric_sinks", "metric sink", "MetricSink", "sink", "Sink"),
}
assert tuple(_SKELETONS) == get_args(KindWord)


@click.command("new")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(KIND_WORDS),
    metavar="KIND",
    required=True,
    help=f"What the plugin registers: {', '.join(KIND_WORDS)}.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    default=Path(),
    show_default="here",
    help="Where the folder NAME is made.",
)
def command(name: str, kind: KindWord, directory: Path) -> None:
    """Write the skeleton of a plugin that passes them.

    NAME is that of its Python package, as in muai_parrot; what it registers is called parrot then.
    The folder is a package in working order, with an entry point, options, an example and the
    tests of the conformance kit. Nothing is overwritten.
    """
    part_name = _part_name(name)
    folder = directory / name
    _refuse_taken(name, part_name, kind, folder)
    _write(folder, kind, _words(name, part_name, kind))
    for line in _report(folder, name, kind):
        click.echo(printable(line))


def _part_name(name: str) -> str:
    """What is registered. Raises click.UsageError for a name that cannot be a package's."""
    match = _NAME.fullmatch(name)
    if match is None or len(name) > NAME_CHARACTERS_MAX:
        proposed = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:NAME_CHARACTERS_MAX]
        meant = f"; did you mean {proposed}?" if _NAME.fullmatch(proposed) else ""
        raise click.UsageError(
            f"'{printable(name[:60])}' is no name for a package; it has lower case letters, digits "
            f"and single underscores, begins with a letter, and has {NAME_CHARACTERS_MAX} "
            f"characters at most{meant}"
        )
    if keyword.iskeyword(name):
        raise click.UsageError(f"{name} is a word of Python itself; choose another name")
    return match[1]


def _refuse_taken(name: str, part_name: str, kind: KindWord, folder: Path) -> None:
    from muai_core import builtin

    if not folder.parent.is_dir():
        raise click.UsageError(
            f"--directory {folder.parent}: there is no such folder; make it first"
        )
    if folder.exists() or folder.is_symlink():
        raise click.UsageError(
            f"{folder} exists, and nothing is overwritten; choose another name or --directory"
        )
    if name in _TAKEN or name in sys.stdlib_module_names or find_spec(name) is not None:
        raise click.UsageError(
            f"a Python package {name} exists already, which this one would hide; choose another "
            "name"
        )
    table = builtin.load().table(_SKELETONS[kind].hook)
    if part_name in table:
        raise click.UsageError(
            f"the {_SKELETONS[kind].kind} name {part_name} is taken, see `muai plugins`; choose "
            "another name"
        )


def _words(name: str, part_name: str, kind: KindWord) -> dict[str, str]:
    """What the placeholders of the templates stand for."""
    import muai_core

    skeleton = _SKELETONS[kind]
    title = "".join(word.capitalize() for word in part_name.split("_"))
    return {
        "package": name,
        "distribution": name.replace("_", "-"),
        "name": part_name,
        "kind": skeleton.kind,
        "hook": skeleton.hook,
        "interface": skeleton.interface,
        "module": skeleton.module,
        "part_class": f"{title}{skeleton.role}",
        "options_class": f"{title}Options",
        "generator_class": f"{title}Generator",
        "core_version": muai_core.__version__,
    }


def _write(folder: Path, kind: KindWord, words: Mapping[str, str]) -> None:
    """All files, or none."""
    home = files("muai_core.cli") / "plugin_templates"
    try:
        folder.mkdir()
        try:
            for tree in ("common", kind):
                for path, template in _templates(home / tree):
                    target = folder / _place(path, words)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    text = Template(template.read_text("utf-8")).substitute(words)
                    target.write_text(text, encoding="utf-8")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        raise click.ClickException(f"{folder} cannot be written: {described(error)}") from None


def _templates(
    home: Traversable, below: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Traversable]]:
    for entry in sorted(home.iterdir(), key=lambda one: one.name):
        path = (*below, entry.name)
        if entry.is_dir():
            yield from _templates(entry, path)
        elif entry.name.endswith(_SUFFIX):
            yield path, entry


def _place(path: tuple[str, ...], words: Mapping[str, str]) -> Path:
    """Where a template's file goes in the skeleton."""
    *folders, file = path
    named = [words["package"] if one == _PACKAGE else one for one in folders]
    file = file.removesuffix(_SUFFIX)
    if file == _CONFORMANCE:
        file = f"test_{words['name']}_conformance.py"
    return Path(*named, file)


def _report(folder: Path, name: str, kind: KindWord) -> list[str]:
    skeleton = _SKELETONS[kind]
    check = Template(skeleton.check).substitute(folder=folder)
    # pip takes a bare word for the name of a package on an index.
    place = folder if folder.is_absolute() else f"./{folder}"
    return [
        f"{folder} is written: the {skeleton.kind} {name.removeprefix(_PREFIX)}",
        f"next: pip install -e {place}",
        f"      muai plugin check {name}{check}",
        f"      pytest {folder}",
    ]
