"""A config under examination."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from muai_core.config.errors import Problem, Severity
from muai_core.config.schema import Config
from muai_core.config.tree import Node, dotted
from muai_core.config.tree import Path as KeyPath
from muai_core.config.wording import choices, nearest
from muai_core.plugin.loading import Plugins

#: What the plugins in MuAI's repository bring; that of NAME is plugins/muai_NAME.
OFFICIAL = {
    "engine": ("transformers", "vllm", "deepspeed", "simulated"),
    "device source": ("nvml", "simulated"),
    "allocation strategy": ("cpsat",),
    "sink": ("prometheus", "otel"),
}


class Subject:
    """A config under examination: its sound part, its tree, and the mistakes found so far."""

    def __init__(
        self,
        config: Config,
        tree: Node,
        broken: set[KeyPath],
        plugins: Plugins,
        folder: Path,
        environ: Mapping[str, str],
    ) -> None:
        self.config = config
        self.tree = tree
        self.broken = broken
        self.plugins = plugins
        self.folder = folder
        self.environ = environ
        self.problems: list[Problem] = []
        self.secrets: set[KeyPath] = set()

    def is_sound(self, path: KeyPath) -> bool:
        """Whether the value at `path` is what the user wrote, or a default nobody touched."""
        return not any(path[: len(cut)] == cut for cut in self.broken)

    def report(
        self,
        path: KeyPath,
        message: str,
        suggestion: str | None = None,
        severity: Severity = "error",
    ) -> None:
        origin = self.tree.nearest(path).origin
        self.problems.append(Problem(origin, dotted(path), message, suggestion, severity))

    def check_name(
        self, path: KeyPath, kind: str, name: str, installed: Iterable[str], *also: str
    ) -> bool:
        """Whether a part of that name is installed; if not, says why or what was meant."""
        names = sorted(installed)
        allowed = [*names, *also]
        if name in allowed:
            return True
        reason = missing(self.plugins, kind, name)
        if reason is not None:
            self.report(path, reason)
        elif (meant := nearest(name, allowed)) is not None:
            self.report(path, f"no {kind} is called {name}", meant)
        else:
            failed = [record.name for record in self.plugins.failed()]
            hint = f"; plugins that failed to load: {choices(failed)}" if failed else ""
            message = f"no {kind} is called {name}; installed: {choices(names)}{hint}"
            self.report(path, message)
        return False


def missing(plugins: Plugins, kind: str, name: str) -> str | None:
    """Why a known part that is not there is not there; None: nobody knows such a part."""
    reason = _absence(plugins, name)
    if reason is not None:
        return f"the {kind} {name} is not available: {reason}"
    if name in OFFICIAL.get(kind, ()):
        how = f"in MuAI's repository: pip install ./plugins/muai_{name}"
        return f"the {kind} {name} is not installed; {how}"
    return None


def _absence(plugins: Plugins, name: str) -> str | None:
    """Why the plugin that would bring `name` brings nothing, None when there is none."""
    for record in plugins.records:
        own_names = {record.name, record.name.removeprefix("muai-").removeprefix("muai_")}
        if name in own_names and record.status == "failed":
            return f"plugin {record.name} failed to load: {record.reason}"
        if name in own_names and record.status == "disabled":
            return f"plugin {record.name} is disabled {record.reason}"
    return None
