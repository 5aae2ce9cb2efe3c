"""One config file, its overrides and the plugins it needs, to a config that can be used."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from muai_core.config import checks, engine_checks, plugin_parts
from muai_core.config.errors import ConfigError, Origin, Problem
from muai_core.config.loaded import LoadedConfig, optimization_default, origins
from muai_core.config.overrides import apply_environment, apply_settings
from muai_core.config.reading import read_text
from muai_core.config.schema import Config
from muai_core.config.sources import is_file, resolve_path
from muai_core.config.subject import Subject
from muai_core.config.tree import Node
from muai_core.config.tree import Path as KeyPath
from muai_core.config.validation import fill_empty, validate
from muai_core.config.wording import given
from muai_core.config.yaml_text import parse_yaml
from muai_core.plugin.loading import Plugins

#: Loads the installed plugins and the given local files, in that order; it never raises.
PluginLoader = Callable[[Sequence[Path]], Plugins]


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    *,
    load_plugins: PluginLoader,
) -> LoadedConfig:
    """The config in the file `path`, with overrides, checked as a whole; nothing is started.

    Strength, weakest first: defaults, the file, `environ` (default: the process's), `overrides`
    (each `section.key=value`). Loading the plugins runs the Python files under `plugins:`.
    Raises ConfigError with every mistake that could be found at once.
    """
    shown = str(path)
    environ = os.environ if environ is None else environ
    tree = parse_yaml(read_text(Path(path), shown), lambda line: Origin("file", shown, line))
    return load_tree(tree, overrides, environ, Path(path).absolute().parent, load_plugins)


def load_tree(
    tree: Node,
    overrides: Sequence[str],
    environ: Mapping[str, str],
    folder: Path,
    load_plugins: PluginLoader,
) -> LoadedConfig:
    """As `load_config`, from a file that has been read; relative paths start at `folder`."""
    if tree.value is None:
        tree.value = {}
    if not isinstance(tree.value, dict):
        message = f"expected a mapping with the sections of a config, got {given(tree.value)}"
        raise ConfigError([Problem(tree.origin, "", message)])
    problems = apply_environment(tree, environ) + apply_settings(tree, overrides)
    fill_empty(tree, Config)
    config, found, broken = validate(Config, tree)
    problems += found
    if config is None:
        raise ConfigError(problems)
    files = _plugin_files(config, folder)
    plugins = load_plugins(list(dict.fromkeys(file for file in files.values() if is_file(file))))
    subject = Subject(config, tree, broken, plugins, folder, environ)
    checks.check_plugin_files(subject, files)
    sources = checks.check_models(subject)
    checks.check_recovery(subject)
    checks.check_engines_section(subject)
    checks.check_gateway(subject)
    completed = plugin_parts.complete(subject)
    checks.check_ports(subject, completed)
    for name, section in completed.engines.items():
        if section.python is not None and name in plugins.engines:
            plugins.engines[name].python = str(resolve_path(section.python, folder))
    engine_checks.check_deployments(subject, completed, sources)
    problems += subject.problems
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
    return LoadedConfig(
        file=tree.origin.name,
        folder=folder,
        config=completed,
        plugins=plugins,
        warnings=tuple(problems),
        provenance=_provenance(tree, completed),
        sources=sources,
        secrets=frozenset(subject.secrets),
    )


def _plugin_files(config: Config, folder: Path) -> dict[int, Path]:
    return {index: resolve_path(text, folder) for index, text in enumerate(config.plugins)}


def _provenance(tree: Node, config: Config) -> dict[KeyPath, Origin]:
    known = origins(tree)
    for name, model in config.models.items():
        for key in ("tensor_parallel_size", "pipeline_parallel_size"):
            path: KeyPath = ("models", name, key)
            default = optimization_default(config, model.engine, key)
            own = tree.find(path)
            if default is not None and (own is None or own.value is None):
                where = known[default[1]]
                source = f"{'.'.join(map(str, default[1]))} ({where})"
                known[path] = Origin("optimization", source)
    return known
