"""The kit for recovery policies."""

from collections.abc import Iterator, Mapping
from functools import partial
from math import isfinite
from typing import Any

from msgspec import Struct

from muai_core.model.deployment import Deployment
from muai_core.plugin.recovery import GiveUp, RecoveryPolicy, ReplicaLoss, RestartAfter
from muai_core.testing import elsewhere, pure_calls, registration
from muai_core.testing.clauses import ClauseFailure, clause

_INITIAL_S, _MAX_S = 1.0, 60.0
_FAILURES = (1, 2, 3, 5, 10, 100, 2_000, 1_000_000)
_JITTERS = (0.0, 0.5, 0.999)
_CAUSES = ("exited with status 1", "", "x" * 10_000, "two\nlines \x1b[31m")
_DEPLOYMENT = Deployment(name="chat", source="model", engine="any", platforms=("cuda", "cpu"))


class RecoveryLimits(Struct, frozen=True, kw_only=True):
    """How long what is tested may take, in seconds."""

    #: One decision: the control plane waits for it.
    decide_s: float = 0.5
    #: Importing the plugin, in processor time beyond the core's own import.
    import_s: float = 0.1


class RecoverySubject:
    """A policy under test. It has nothing that must be closed."""

    def __init__(
        self,
        policy: RecoveryPolicy,
        options: Mapping[str, Any] | None = None,
        *,
        plugin_module: str | None = None,
        limits: RecoveryLimits | None = None,
    ) -> None:
        """`options` as in the config; `plugin_module` has the plugin's hooks, else it is found."""
        self.policy = policy
        self.given_options = dict(options or {})
        self.limits = limits or RecoveryLimits()
        self.plugin_module = plugin_module or registration.plugin_module_of(policy)

    def losses(self) -> Iterator[ReplicaLoss]:
        """Of all kinds, with the options that the policy wants."""
        options = registration.completed_options(self.policy, self.given_options)
        for failures in _FAILURES:
            for jitter in _JITTERS:
                yield ReplicaLoss(
                    replica_id="chat.0",
                    epoch=failures,
                    deployment=_DEPLOYMENT,
                    cause=_CAUSES[failures % len(_CAUSES)],
                    failures=failures,
                    jitter=jitter,
                    options=dict(options),
                )

    def decide(self, loss: ReplicaLoss) -> Any:
        """Whatever it answers. Raises ClauseFailure when it raises."""
        return pure_calls.called(_words(loss), lambda: self.policy.decide(loss, _INITIAL_S, _MAX_S))

    def close(self) -> None:
        """Nothing is left of a pure function."""


def _words(loss: ReplicaLoss) -> str:
    return f"decide() after {loss.failures} failures"


@clause("R01", kind="recovery policy", title="its name is one word in lower case")
def _(subject: RecoverySubject) -> None:
    registration.check_name(subject.policy)


@clause("R02", kind="recovery policy", title="the options reject unknown keys by their name")
def _(subject: RecoverySubject) -> None:
    registration.check_options(subject.policy, subject.given_options)


@clause("R03", kind="recovery policy", title="importing the plugin is light")
def _(subject: RecoverySubject) -> None:
    registration.check_import(subject.plugin_module, subject.limits.import_s)


@clause(
    "R04", kind="recovery policy", title="the plugin's hooks register the policy and do not raise"
)
def _(subject: RecoverySubject) -> None:
    registration.check_hooks(subject.policy, "recovery policy", subject.plugin_module)


@clause("R10", kind="recovery policy", title="every loss is answered: restart after, or give up")
def _(subject: RecoverySubject) -> None:
    for loss in subject.losses():
        answer = subject.decide(loss)
        if not isinstance(answer, RestartAfter | GiveUp):
            raise ClauseFailure(f"{_words(loss)} answers {answer!r}")


@clause("R11", kind="recovery policy", title="a delay is a number of seconds, and not negative")
def _(subject: RecoverySubject) -> None:
    for loss in subject.losses():
        answer = subject.decide(loss)
        if not isinstance(answer, RestartAfter):
            continue
        delay_s: Any = answer.delay_s
        if isinstance(delay_s, bool) or not isinstance(delay_s, int | float):
            raise ClauseFailure(f"{_words(loss)} has the delay {delay_s!r}")
        if not isfinite(delay_s) or delay_s < 0:
            raise ClauseFailure(f"{_words(loss)} has a delay of {delay_s} s")


@clause("R12", kind="recovery policy", title="it says why, in words")
def _(subject: RecoverySubject) -> None:
    for loss in subject.losses():
        answer = subject.decide(loss)
        reason: Any = getattr(answer, "reason", "none needed")
        if not isinstance(reason, str) or not reason.strip():
            raise ClauseFailure(f"{_words(loss)} gives the reason {reason!r}")


@clause("R13", kind="recovery policy", title="equal losses get equal answers, whatever came before")
def _(subject: RecoverySubject) -> None:
    losses = list(subject.losses())
    first = [pure_calls.said(subject.decide(pure_calls.own_copy(loss))) for loss in losses]
    again = [
        pure_calls.said(subject.decide(pure_calls.own_copy(loss))) for loss in reversed(losses)
    ]
    for loss, one, other in zip(losses, first, reversed(again), strict=True):
        if one != other:
            raise ClauseFailure(f"{_words(loss)} answers {one}, and the next time {other}")


@clause("R14", kind="recovery policy", title="it does not change what it is given")
def _(subject: RecoverySubject) -> None:
    for loss in subject.losses():
        given = pure_calls.own_copy(loss)
        unchanged = pure_calls.unchanged(given)
        subject.decide(given)
        if not unchanged():
            raise ClauseFailure(f"{_words(loss)} changes the loss")


@clause("R15", kind="recovery policy", title="it reads no clock and no file, and uses no chance")
def _(subject: RecoverySubject) -> None:
    losses = list(subject.losses())
    # What it imports on first use is read from files.
    subject.decide(losses[0])
    for loss in losses:
        with pure_calls.nothing_impure(_words(loss)):
            subject.decide(loss)


@clause("R16", kind="recovery policy", title="it decides in time")
def _(subject: RecoverySubject) -> None:
    for loss in list(subject.losses())[:: len(_JITTERS)]:
        pure_calls.done_within(
            _words(loss),
            partial(subject.policy.decide, loss, _INITIAL_S, _MAX_S),
            subject.limits.decide_s,
        )


@clause("R17", kind="recovery policy", title="its answers are the same in every process")
def _(subject: RecoverySubject) -> None:
    elsewhere.same_in_every_process(
        "recovery policy", subject.policy.name, subject.plugin_module, subject.given_options
    )
