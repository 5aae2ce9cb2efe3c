"""What the schema cannot see: other sections, the file system, the installed plugins."""

import ipaddress
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from muai_core.config.loaded import engine_enabled
from muai_core.config.schema import Config, GatewayConfig
from muai_core.config.sources import (
    ResolvedSource,
    SourceError,
    is_file,
    resolve_path,
    resolve_source,
)
from muai_core.config.subject import Subject
from muai_core.config.tree import Path as KeyPath
from muai_core.config.tree import dotted
from muai_core.config.wording import given


def check_plugin_files(subject: Subject, files: Mapping[int, Path]) -> None:
    """Every local plugin exists and loads; `files` maps the index in `plugins` to its path."""
    failures = {record.origin: record for record in subject.plugins.failed()}
    seen: set[Path] = set()
    for index, file in files.items():
        path: KeyPath = ("plugins", index)
        if file in seen:
            subject.report(path, f"{file} is listed twice")
        elif not is_file(file):
            subject.report(path, f"no file {file}")
        elif (record := failures.get(str(file))) is not None:
            subject.report(path, f"failed to load: {record.reason}")
        seen.add(file)


def check_models(subject: Subject) -> dict[str, ResolvedSource]:
    """Names, engines and sources of all models; returns the weights that were found."""
    sources: dict[str, ResolvedSource] = {}
    models = subject.config.models
    if not models and subject.is_sound(("models",)) and not _any_below(subject, "models"):
        subject.report(("models",), "at least one model is needed: models: {NAME: {source: ...}}")
    for name, model in models.items():
        path: KeyPath = ("models", name)
        if model.engine != "auto" and subject.is_sound((*path, "engine")):
            _check_engine(subject, (*path, "engine"), model.engine)
        scheme = re.match(r"([a-z][a-z0-9_]*):", model.source)
        if scheme and scheme[1] in (*subject.plugins.engines, model.engine):
            continue  # the engine's own scheme, which nobody else can judge
        try:
            sources[name] = resolve_source(model.source, subject.folder)
        except SourceError as error:
            message = str(error)
            if scheme and scheme[1] != "package":
                message = f"no engine has sources that begin with {scheme[0]}; {message}"
            subject.report((*path, "source"), message)
            subject.broken.add((*path, "source"))
    return sources


def _any_below(subject: Subject, section: str) -> bool:
    return any(path[0] == section for path in subject.broken if path)


def _check_engine(subject: Subject, path: KeyPath, engine: str) -> None:
    installed = subject.plugins.engines
    if subject.check_name(path, "engine", engine, installed, "auto") and not engine_enabled(
        subject.config, engine
    ):
        switch = ("optimization", engine, "enabled")
        where = subject.tree.nearest(switch).origin
        subject.report(path, f"the engine {engine} is forbidden by {dotted(switch)} ({where})")


def check_recovery(subject: Subject) -> None:
    recovery = subject.config.recovery
    if recovery.backoff_initial_s > recovery.backoff_max_s:
        initial = subject.tree.find(("recovery", "backoff_initial_s"))
        key = "backoff_max_s" if initial is None else "backoff_initial_s"
        subject.report(
            ("recovery", key),
            f"backoff_initial_s ({recovery.backoff_initial_s:g}) is more than "
            f"backoff_max_s ({recovery.backoff_max_s:g})",
        )


def check_engines_section(subject: Subject) -> None:
    for name, section in subject.config.engines.items():
        path: KeyPath = ("engines", name)
        if name == "auto":
            subject.report(path, "auto is no engine; name one", None)
        else:
            subject.check_name(path, "engine", name, subject.plugins.engines)
        if section.python is not None:
            _check_python(subject, (*path, "python"), section.python)
        for variable in section.env:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
                subject.report((*path, "env", variable), "not a name of an environment variable")


def _check_python(subject: Subject, path: KeyPath, text: str) -> None:
    python = resolve_path(text, subject.folder)
    if not (is_file(python) and os.access(python, os.X_OK)):
        subject.report(path, f"{python} is not a program that can be run")


def check_gateway(subject: Subject) -> None:
    gateway = subject.config.gateway
    if gateway.api_keys_file is not None:
        _check_key_file(subject, gateway.api_keys_file)
    if gateway.api_keys_env is not None:
        _check_key_variable(subject, gateway.api_keys_env)
    if not _is_host(gateway.host):
        message = f"expected an IP address or a host name, got {given(gateway.host)}"
        subject.report(("gateway", "host"), message)
        subject.broken.add(("gateway", "host"))
    deciding = ("host", "api_keys_file", "api_keys_env", "allow_unauthenticated")
    sound = all(subject.is_sound(("gateway", key)) for key in deciding)
    if sound and not _is_guarded(gateway):
        subject.report(
            ("gateway", "host"),
            f"{gateway.host} is reachable from other machines and no API keys are set; set "
            "gateway.api_keys_file or gateway.api_keys_env, or gateway.allow_unauthenticated: true",
        )


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?", host) is not None
    return True


def _is_guarded(gateway: GatewayConfig) -> bool:
    has_keys = gateway.api_keys_file is not None or gateway.api_keys_env is not None
    return has_keys or gateway.allow_unauthenticated or is_loopback(gateway.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`; an unknown name counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_key_file(subject: Subject, text: str) -> None:
    path: KeyPath = ("gateway", "api_keys_file")
    try:
        file = resolve_path(text, subject.folder)
        mode = file.stat().st_mode
        content = file.read_text("utf-8") if stat.S_ISREG(mode) else None
    except FileNotFoundError:
        subject.report(path, f"no file {file}")
        return
    except UnicodeDecodeError:
        subject.report(path, f"{file} is not UTF-8 text")
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        subject.report(path, f"the file cannot be read: {reason}")
        return
    if content is None:
        subject.report(path, f"{file} is not a regular file")
        return
    if mode & stat.S_IROTH:
        message = f"every user of this machine can read the keys; chmod 600 {file}"
        subject.report(path, message, severity="warning")
    lines = [line.strip() for line in content.splitlines() if not line.lstrip().startswith("#")]
    _check_keys(subject, path, str(file), lines, "one per line")


def _check_key_variable(subject: Subject, name: str) -> None:
    path: KeyPath = ("gateway", "api_keys_env")
    if name not in subject.environ:
        subject.report(path, f"the environment variable {name} is not set")
        return
    keys = [key.strip() for key in subject.environ[name].split(",")]
    _check_keys(subject, path, f"the environment variable {name}", keys, "between commas")


def _check_keys(subject: Subject, path: KeyPath, holder: str, found: list[str], how: str) -> None:
    keys = [key for key in found if key]
    if not keys:
        subject.report(path, f"{holder} holds no key; write them {how}")
    elif not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        # No Authorization header can carry it.
        subject.report(path, f"{holder} holds a key with a space or a character beyond ASCII")


class Listener(Struct, frozen=True):
    """Who listens where."""

    owner: str
    host: str | None
    port: int
    path: KeyPath

    def collides(self, other: "Listener") -> bool:
        """Whether both want the same port of an address; None and a wildcard are every address."""
        everywhere = {None, "0.0.0.0", "::"}
        shared = self.host == other.host or bool(everywhere & {self.host, other.host})
        return self.port == other.port and self.port != 0 and shared


def check_ports(subject: Subject, config: Config) -> None:
    """No sink that is on listens where the gateway or another sink listens."""
    gateway = config.gateway
    taken = [Listener("the gateway", gateway.host, gateway.port, ("gateway", "port"))]
    if not subject.is_sound(("gateway", "port")):
        taken.clear()
    for name, section in config.sinks.items():
        options = section.model_extra or {}
        port, host = options.get("port"), options.get("host")
        if not section.enabled or not isinstance(port, int):
            continue
        path: KeyPath = ("sinks", name, "port")
        sink = Listener(f"the sink {name}", host if isinstance(host, str) else None, port, path)
        other = next((listener for listener in taken if sink.collides(listener)), None)
        if other is not None:
            _report_collision(subject, sink, other)
        taken.append(sink)


def _report_collision(subject: Subject, sink: Listener, other: Listener) -> None:
    # The mistake is where somebody wrote a port, not where a default stands.
    at_sink = subject.tree.find(sink.path) is not None or subject.tree.find(other.path) is None
    path, owner = (sink.path, other.owner) if at_sink else (other.path, sink.owner)
    subject.report(path, f"port {sink.port} is taken by {owner}; give each its own")
