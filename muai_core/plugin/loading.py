"""Finding and loading plugins so that none of them can take the controller down.

Order: built-ins, installed packages (entry points of group `muai`, sorted by name), then the local
files of the config. Each is imported, registered and asked for its parts inside its own try.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy
from msgspec import Struct, structs

from muai_core.plugin import hookspecs
from muai_core.plugin.allocation import AllocationStrategy
from muai_core.plugin.device_source import DeviceSource
from muai_core.plugin.engine import Engine
from muai_core.plugin.metric_sink import MetricSink
from muai_core.plugin.recovery import RecoveryPolicy

ENTRY_POINT_GROUP = "muai"
DISABLE_VARIABLE = "MUAI_DISABLE_PLUGINS"

PluginStatus = Literal["ok", "failed", "disabled"]

#: hook → (kind in words, the interface its parts must implement)
KINDS: dict[str, tuple[str, type]] = {
    "muai_device_sources": ("device source", DeviceSource),
    "muai_allocation_strategies": ("allocation strategy", AllocationStrategy),
    "muai_engines": ("engine", Engine),
    "muai_recovery_policies": ("recovery policy", RecoveryPolicy),
    "muai_metric_sinks": ("metric sink", MetricSink),
}


class PluginRecord(Struct, frozen=True, kw_only=True):
    """What became of one plugin; the rows of `muai plugins`."""

    name: str
    version: str | None
    #: "built-in", the distribution's name, or the path of a local file.
    origin: str
    status: PluginStatus
    #: (kind, name) of every part, e.g. ("engine", "vllm").
    registers: tuple[tuple[str, str], ...] = ()
    #: Why it failed, in one line, with the line of the plugin that raised.
    reason: str | None = None


class Plugins:
    """All loaded parts by kind and name. Built once, then only read."""

    def __init__(self) -> None:
        self.records: list[PluginRecord] = []
        self.device_sources: dict[str, DeviceSource] = {}
        self.allocation_strategies: dict[str, AllocationStrategy] = {}
        self.engines: dict[str, Engine] = {}
        self.recovery_policies: dict[str, RecoveryPolicy] = {}
        self.metric_sinks: dict[str, MetricSink] = {}

    def table(self, hook: str) -> dict[str, Any]:
        """The parts that `hook` registers, by name."""
        table: dict[str, Any] = getattr(self, hook.removeprefix("muai_"))
        return table

    def failed(self) -> list[PluginRecord]:
        return [record for record in self.records if record.status == "failed"]


class _Candidate(Struct, frozen=True, kw_only=True):
    name: str
    version: str | None
    origin: str
    load: Callable[[], object]


def load_plugins(
    builtins: Mapping[str, ModuleType],
    local_files: Sequence[Path] = (),
    environ: Mapping[str, str] | None = None,
) -> Plugins:
    """Load everything that is there. Never raises: failures are records with their reason.

    `environ[MUAI_DISABLE_PLUGINS]` names plugins to leave out, separated by commas; `all` leaves
    out every plugin that is not built in.
    """
    disabled = {
        word.strip()
        for word in (environ or {}).get(DISABLE_VARIABLE, "").split(",")
        if word.strip()
    }
    plugins = Plugins()
    for name, module in builtins.items():
        _load(
            plugins, _Candidate(name=name, version=None, origin="built-in", load=_constant(module))
        )
    for candidate in [*_installed(plugins), *map(_local, local_files)]:
        if disabled & {"all", candidate.name}:
            plugins.records.append(_record(candidate, "disabled", reason=f"by {DISABLE_VARIABLE}"))
        else:
            _load(plugins, candidate)
    return plugins


def _constant(module: ModuleType) -> Callable[[], object]:
    return lambda: module


def _installed(plugins: Plugins) -> list[_Candidate]:
    """By name. A package whose metadata cannot be read is recorded as failed and left out."""
    found: dict[tuple[str, str], _Candidate] = {}
    for distribution in distributions():
        # `importlib.metadata.entry_points` would raise for all if any package is malformed.
        if f"[{ENTRY_POINT_GROUP}]" not in (distribution.read_text("entry_points.txt") or ""):
            continue
        candidate = _Candidate(name="?", version=None, origin="?", load=dict)
        try:
            for point in distribution.entry_points.select(group=ENTRY_POINT_GROUP):
                candidate = _Candidate(
                    name=point.name,
                    version=distribution.version,
                    origin=distribution.name,
                    load=point.load,
                )
                # As in an import, what is first on the path hides the rest.
                found.setdefault((candidate.name, candidate.origin), candidate)
        except Exception as error:  # noqa: BLE001 - malformed metadata raises all kinds of things
            plugins.records.append(
                _record(candidate, "failed", reason=_reason(error, candidate.origin))
            )
    return [found[key] for key in sorted(found)]


def _local(path: Path) -> _Candidate:
    def load() -> object:
        module_name = f"muai_local_{path.stem}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(module_name, None)
            raise
        return module

    return _Candidate(name=path.stem, version=None, origin=str(path), load=load)


def _load(plugins: Plugins, candidate: _Candidate) -> None:
    try:
        # What it prints must not get into the output of a command that scripts read.
        with redirect_stdout(sys.stderr):
            parts = _parts_of(candidate)
            _check_parts(plugins, parts)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything, SystemExit too
        plugins.records.append(
            _record(candidate, "failed", reason=_reason(error, candidate.origin))
        )
        return
    for hook, part in parts:
        plugins.table(hook)[part.name] = part
    registers = tuple((KINDS[hook][0], part.name) for hook, part in parts)
    plugins.records.append(structs.replace(_record(candidate, "ok"), registers=registers))


def _parts_of(candidate: _Candidate) -> list[tuple[str, Any]]:
    # One pluggy manager per plugin: a raising hookimpl then loses only its own plugin's call.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(candidate.load(), name=candidate.name)
    manager.check_pending()
    parts: list[tuple[str, Any]] = []
    for hook in KINDS:
        for registered in getattr(manager.hook, hook)():
            if not isinstance(registered, Iterable):
                raise TypeError(f"{hook} must return a list, got {registered!r}")
            parts.extend((hook, part) for part in registered)
    if not parts:
        hooks = ", ".join(KINDS)
        raise ValueError(f"registers nothing; decorate one of these with @hookimpl: {hooks}")
    return parts


def _check_parts(plugins: Plugins, parts: Sequence[tuple[str, object]]) -> None:
    seen = {(hook, name) for hook in KINDS for name in plugins.table(hook)}
    for hook, part in parts:
        kind, interface = KINDS[hook]
        if not isinstance(part, interface):
            raise TypeError(f"{hook} must return {interface.__name__} instances, got {part!r}")
        name = getattr(part, "name", None)
        if not isinstance(name, str) or not name:
            raise TypeError(f"the {kind} {type(part).__name__} has no name")
        if (hook, name) in seen:
            raise ValueError(f"the {kind} name {name!r} is taken")
        seen.add((hook, name))
        for base in interface.__mro__:
            for attribute in vars(base).get("__annotations__", ()):
                if not hasattr(part, attribute):
                    raise TypeError(f"the {kind} {name!r} has no {attribute}")


def _record(candidate: _Candidate, status: PluginStatus, reason: str | None = None) -> PluginRecord:
    return PluginRecord(
        name=candidate.name,
        version=candidate.version,
        origin=candidate.origin,
        status=status,
        reason=reason,
    )


def _reason(error: BaseException, origin: str) -> str:
    """The last line of the traceback, and the line of the plugin that raised."""
    if isinstance(error, pluggy.PluginValidationError):
        what, unknown_hook, _ = str(error).partition(" in plugin <")
        allowed = f"; there are: {', '.join(KINDS)}" if unknown_hook else ""
        return f"{' '.join(what.split())}{allowed}"
    words = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return f"{words}{_place(error, origin)}"


def _place(error: BaseException, origin: str) -> str:
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f" ({Path(error.filename).name}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or frames[-1].filename == __file__:
        return ""
    own = [frame for frame in frames if frame.filename == origin] or frames
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})"
