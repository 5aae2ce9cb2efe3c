"""Clauses on an engine before it runs: its options, its import, its answers, its command."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import structs

from muai_core.model.deployment import Deployment
from muai_core.plugin.capability import CAPABILITIES
from muai_core.plugin.engine import LaunchRequest, LaunchSpec
from muai_core.testing import registration
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, clause
from muai_core.testing.engine.planned import placement_of
from muai_core.testing.engine.subject import EngineSubject

_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish")
_SECRETS = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY",
    "GITHUB_TOKEN", "MUAI_API_KEY", "PASSWORD",
)  # fmt: skip
_CANARY = "canary-7f3a9c"


@clause("E01", kind="engine", title="the options reject unknown keys by their name")
def _(subject: EngineSubject) -> None:
    try:
        given = subject.deployment.engine_options
    except ClauseSkipped:
        given = {}
    registration.check_options(subject.engine, given)


@clause("E02", kind="engine", title="importing the plugin is light")
def _(subject: EngineSubject) -> None:
    registration.check_import(subject.plugin_module, subject.limits.import_s)


@clause("E03", kind="engine", title="the plugin's hooks register the engine and do not raise")
def _(subject: EngineSubject) -> None:
    registration.check_hooks(subject.engine, "engine", subject.plugin_module)


@clause("E04", kind="engine", title="it accepts the deployment that it is to serve")
def _(subject: EngineSubject) -> None:
    engine, deployment = subject.engine, subject.deployment
    suitability = engine.suits(deployment)
    if not suitability.suitable:
        raise ClauseFailure(f"suits() refuses the deployment: {suitability.reason}")
    if not suitability.reason:
        raise ClauseFailure("suits() gives no reason")
    if complaints := engine.check(deployment):
        words = "; ".join(f"{one.field}: {one.message}" for one in complaints)
        raise ClauseFailure(f"check() complains of the deployment: {words}")
    engine.memory(deployment, None)


@clause("E05", kind="engine", title="it says no to models that are not there, without raising")
def _(subject: EngineSubject) -> None:
    deployment, folder = subject.deployment, subject.folder / "not-models"
    empty, closed, broken = folder / "empty", folder / "closed", folder / "broken"
    for made in (empty, closed, broken):
        made.mkdir(parents=True, exist_ok=True)
    (broken / "config.json").write_text("{", encoding="utf-8")
    closed.chmod(0)
    try:
        for what, source in (
            ("a path that does not exist", str(folder / "missing")),
            ("an empty folder", str(empty)),
            ("a folder that may not be read", str(closed)),
            ("a folder with half a config.json", str(broken)),
        ):
            _refuses(subject, structs.replace(deployment, source=source), what)
        for source in ("", "\0", "x" * 10_000):
            # Whatever it says of these, it says something.
            _answers(subject, structs.replace(deployment, source=source), "an absurd source")
    finally:
        closed.chmod(0o700)


def _refuses(subject: EngineSubject, deployment: Deployment, what: str) -> None:
    if _answers(subject, deployment, what):
        raise ClauseFailure(f"suits() says yes to {what}")


def _answers(subject: EngineSubject, deployment: Deployment, what: str) -> bool:
    engine = subject.engine
    try:
        suitability = engine.suits(deployment)
        engine.check(deployment)
    except Exception as error:
        kind = type(error).__name__
        raise ClauseFailure(f"suits() or check() raises {kind} for {what}: {error}") from error
    if not suitability.suitable and not suitability.reason:
        raise ClauseFailure(f"suits() gives no reason against {what}")
    return suitability.suitable


@clause("E06", kind="engine", title="equal requests launch equally")
def _(subject: EngineSubject) -> None:
    first, second = _launch(subject), _launch(subject)
    for field in LaunchSpec.__struct_fields__:
        one, other = getattr(first, field), getattr(second, field)
        if one != other:
            raise ClauseFailure(f"{field} differs between two equal requests: {one} and {other}")


@clause("E07", kind="engine", title="it is launched without a shell")
def _(subject: EngineSubject) -> None:
    argv = _launch(subject).argv
    if not argv or not all(argv[:1]):
        raise ClauseFailure("the command is empty")
    shell = Path(argv[0]).name in _SHELLS and any(
        word.startswith("-") and word.endswith("c") for word in argv[1:3]
    )
    if shell:
        raise ClauseFailure(f"the command is for a shell: {' '.join(argv)[:200]}")


@clause("E08", kind="engine", title="no secret of the environment gets into its command line")
def _(subject: EngineSubject) -> None:
    with _secrets() as canaries:
        argv = _launch(subject).argv
    for name, canary in canaries.items():
        if any(canary in word for word in argv):
            raise ClauseFailure(
                f"the command line holds the value of {name}, and every user can read it"
            )


@contextmanager
def _secrets() -> Iterator[dict[str, str]]:
    """Values in the environment that may not show up elsewhere."""
    canaries = {name: f"{_CANARY}-{name.lower()}" for name in _SECRETS}
    before = {name: os.environ.get(name) for name in _SECRETS}
    os.environ.update(canaries)
    try:
        yield canaries
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@clause("E09", kind="engine", title="its name, platforms and capabilities are well formed")
def _(subject: EngineSubject) -> None:
    engine = subject.engine
    if not engine.name or engine.name != engine.name.lower() or " " in engine.name:
        raise ClauseFailure(f"the name {engine.name!r} is not one word in lower case")
    if not engine.platforms or not set(engine.platforms) <= {"cpu", "cuda", "simulated"}:
        raise ClauseFailure(f"its platforms are {engine.platforms!r}")
    if unknown := [word for word in engine.capabilities if word not in CAPABILITIES]:
        allowed = ", ".join(CAPABILITIES)
        raise ClauseFailure(f"{', '.join(unknown)} is no capability; there are: {allowed}")


def _launch(subject: EngineSubject) -> LaunchSpec:
    """What it answers to one request; nothing is started."""
    deployment = subject.deployment
    count = deployment.tensor_parallel_size * deployment.pipeline_parallel_size
    devices = subject.some_devices(count)
    placement = placement_of(devices, deployment)
    return subject.engine.launch(
        LaunchRequest(
            deployment=deployment,
            replica_id=f"{deployment.name}.0",
            epoch=1,
            devices=devices,
            stages=placement.stages,
            layers=placement.layers,
            ranks=deployment.ranks(placement),
            python=subject.python,
            host="127.0.0.1",
            port=20_001,
        )
    )
