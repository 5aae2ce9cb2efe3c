"""What every part of a plugin must do before it is used: its name, options, import and hooks."""

import functools
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError

from muai_core.planning.wording import described, one_line
from muai_core.plugin.loading import DISABLE_VARIABLE, ENTRY_POINT_GROUP, KINDS, load_plugins
from muai_core.plugin.options import Configurable
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, Kind

#: No part of a plugin may bring these into the controller.
ENGINE_STACKS = ("torch", "vllm", "deepspeed", "transformers", "ray", "tensorflow", "jax")
#: Nor may its import bring these.
HEAVY = (*ENGINE_STACKS, "numpy")
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_UNKNOWN_KEY = "no_plugin_has_this_key"
_IMPORT_TRIES = 5
_WORDS_LIMIT_CHARACTERS = 300
_IMPORT_WITHIN_S = 60.0

#: Processor time of the plugin's import beyond what the core has imported, and what came with it.
_MEASURE = """
import importlib, importlib.util, json, sys, time
import muai_core
for name in muai_core.__all__:
    getattr(muai_core, name)
name, file = sys.argv[1:]
before = set(sys.modules)
began_s = time.process_time()
try:
    found = importlib.util.find_spec(name)
except ImportError:
    found = None
if found is not None:
    importlib.import_module(name)
else:
    spec = importlib.util.spec_from_file_location("plugin_under_test", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["plugin_under_test"] = module
    spec.loader.exec_module(module)
took_s = time.process_time() - began_s
print(json.dumps([took_s, sorted(set(sys.modules) - before)]))
"""


def plugin_module_of(part: Configurable) -> str:
    """Where the plugin's hooks are; of a part that no installed plugin has, its own module."""
    home = type(part).__module__
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        if point.module.partition(".")[0] == home.partition(".")[0]:
            return point.module
    return home


def check_name(part: Configurable) -> None:
    """One word in lower case, and whether it is on by default is yes or no."""
    name = part.name
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ClauseFailure(f"the name {name!r} is not one word in lower case")
    by_default = getattr(part, "on_by_default", False)
    if not isinstance(by_default, bool):
        raise ClauseFailure(f"on_by_default is {by_default!r}, neither True nor False")


def check_reason(what: str, reason: object) -> None:
    """One line for people, and not an empty one."""
    if not isinstance(reason, str) or not reason.strip():
        raise ClauseFailure(f"{what} gives the reason {reason!r}")
    if len(reason.splitlines()) > 1:
        raise ClauseFailure(f"{what} gives a reason of more than one line: {reason!r}")


def completed_options(
    part: Configurable, given: Mapping[str, Any], chosen: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The options as the controller hands them over: validated, with defaults, as plain data.

    `given` are the author's, `chosen` the kit's. Raises ClauseSkipped when the part needs options
    and none were given, and ClauseFailure when its model cannot be asked or refuses them.
    """
    model = model_of(part)
    if model is None:
        return {}
    try:
        values: dict[str, Any] = _plain(
            model.model_validate({**given, **(chosen or {})}).model_dump()
        )
    except ValidationError as error:
        words = one_line(str(error), _WORDS_LIMIT_CHARACTERS)
        if given:
            raise ClauseFailure(f"the options that were given are refused: {words}") from error
        raise ClauseSkipped(f"it needs options: {words}") from error
    return values


def model_of(part: Configurable) -> type[BaseModel] | None:
    """Of its options. Raises ClauseFailure when it cannot be asked."""
    try:
        return part.options_model()
    except Exception as error:
        raise ClauseFailure(f"options_model() raises {described(error)}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(child) for child in value]
    return value.get_secret_value() if isinstance(value, SecretStr | SecretBytes) else value


def check_options(part: Configurable, given: Mapping[str, Any]) -> None:
    """An unknown key must be refused, and named."""
    model = model_of(part)
    if model is None:
        return  # It has no options, and the core rejects all.
    completed_options(part, given)
    try:
        model.model_validate({**given, _UNKNOWN_KEY: 1})
    except ValueError as error:
        if _UNKNOWN_KEY not in str(error):
            raise ClauseFailure(f"an unknown key is refused without its name: {error}") from None
        return
    raise ClauseFailure(
        f'{model.__name__} takes the unknown key {_UNKNOWN_KEY}: give it extra="forbid"'
    )


def check_import(name: str, limit_s: float) -> None:
    """Importing the module of that name brings nothing heavy, and takes so long at most."""
    module = sys.modules.get(name)
    file = inspect.getsourcefile(module) if module is not None else None
    best_s = _best_import_s(name, file or "", limit_s)
    if best_s < limit_s:
        return
    raise ClauseFailure(
        f"importing {name} takes {best_s * 1000:.0f} ms of processor time beyond the core's, "
        f"not under {limit_s * 1000:.0f} ms"
    )


@functools.cache
def _best_import_s(name: str, file: str, limit_s: float) -> float:
    """Once for all parts of a module. Raises ClauseFailure when it brings something heavy."""
    best_s = float("inf")
    for _ in range(_IMPORT_TRIES):
        took_s, modules = _measured_import(name, file)
        if heavy := [module for module in HEAVY if module in modules]:
            raise ClauseFailure(f"importing {name} imports {', '.join(heavy)}")
        best_s = min(best_s, took_s)
        if best_s < limit_s:
            break
    return best_s


def _measured_import(name: str, file: str) -> tuple[float, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, name, file],
        capture_output=True,
        text=True,
        timeout=_IMPORT_WITHIN_S,
        check=False,
    )
    if done.returncode != 0:
        words = done.stderr.strip().rpartition("\n")[2]
        raise ClauseFailure(f"{name} cannot be imported: {words}")
    took_s, modules = json.loads(done.stdout.splitlines()[-1])
    return took_s, modules


def check_hooks(part: Configurable, kind: Kind, name: str) -> None:
    """The hooks in the module of that name register the part and do not raise."""
    module = sys.modules.get(name) or importlib.import_module(name)
    if not any(hasattr(module, hook) for hook in KINDS):
        raise ClauseSkipped(f"{name} has no hooks")
    plugins = load_plugins({"under test": module}, environ={DISABLE_VARIABLE: "all"})
    [record] = [record for record in plugins.records if record.name == "under test"]
    if record.status != "ok":
        raise ClauseFailure(f"the hooks of {name} fail: {record.reason}")
    registered = [part_name for part_kind, part_name in record.registers if part_kind == kind]
    if part.name not in registered:
        found = ", ".join(registered) or "none"
        raise ClauseFailure(f"{name} registers no {kind} {part.name}, but {found}")
