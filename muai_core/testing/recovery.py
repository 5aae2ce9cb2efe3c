"""The kit for recovery policies."""

from collections.abc import Iterator, Mapping
from functools import partial
from math import isfinite
from typing import Any

from msgspec import Struct, structs

from muai_core.model.deployment import Deployment
from muai_core.plugin.failure import Failure
from muai_core.plugin.recovery import GiveUp, RecoveryPolicy, ReplicaLoss, RestartAfter
from muai_core.testing import elsewhere, pure_calls, registration
from muai_core.testing.clauses import ClauseFailure, clause

#: Initial and largest backoff, as in a config, which allows 604,800 s at most.
_BACKOFFS_S = ((1.0, 60.0), (5.0, 5.0), (0.001, 0.002), (1e-9, 604_800.0))
_FAILURES = (1, 2, 3, 5, 10, 100, 2_000, 1_000_000)
#: Delays are rounded to milliseconds at best.
_NOTICEABLE_S = 0.1
_JITTERS = (0.0, 0.5, 0.999)
_CAUSES = ("exited with status 1", "", "x" * 10_000, "Gerät 3 fehlt: \u202e🛰 {0} %s \\")
_FAILURES_OF_ENGINES = (
    None,
    Failure(kind="out_of_memory_weights", reason="the weights do not fit", advice="use more GPUs"),
    Failure(kind="unknown", reason=""),
)
_DEPLOYMENT = Deployment(name="chat", source="model", engine="any", platforms=("cuda", "cpu"))


class RecoveryLimits(Struct, frozen=True, kw_only=True):
    """How long what is tested may take, in seconds."""

    #: One decision: the control plane waits for it.
    decide_s: float = 0.5
    #: Importing the plugin, in processor time beyond the core's own import.
    import_s: float = 0.1


class Loss(Struct, frozen=True, kw_only=True):
    """A question to a policy."""

    loss: ReplicaLoss
    backoff_initial_s: float
    backoff_max_s: float

    @property
    def words(self) -> str:
        return (
            f"decide() after {self.loss.failures} failures, with backoffs of "
            f"{self.backoff_initial_s:g} to {self.backoff_max_s:g} s and a jitter of "
            f"{self.loss.jitter:g},"
        )


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

    def losses(self) -> Iterator[Loss]:
        """Of all kinds, with the options that the policy wants."""
        options = registration.completed_options(self.policy, self.given_options)
        for initial_s, max_s in _BACKOFFS_S:
            for failures in _FAILURES:
                for jitter in _JITTERS:
                    yield Loss(
                        loss=ReplicaLoss(
                            replica_id="chat.0",
                            epoch=failures,
                            deployment=_DEPLOYMENT,
                            cause=_CAUSES[failures % len(_CAUSES)],
                            failure=_FAILURES_OF_ENGINES[failures % len(_FAILURES_OF_ENGINES)],
                            failures=failures,
                            jitter=jitter,
                            options=dict(options),
                        ),
                        backoff_initial_s=initial_s,
                        backoff_max_s=max_s,
                    )

    def series(self) -> Iterator[list[Loss]]:
        """Losses in a row that differ in nothing but their number."""
        for first in self.losses():
            if first.loss.failures == _FAILURES[0]:
                yield [
                    structs.replace(first, loss=structs.replace(first.loss, failures=failures))
                    for failures in _FAILURES
                ]

    def decide(self, asked: Loss) -> Any:
        """Whatever it answers. Raises ClauseFailure when it raises."""
        return pure_calls.called(
            asked.words,
            lambda: self.policy.decide(asked.loss, asked.backoff_initial_s, asked.backoff_max_s),
        )

    def delay_s(self, asked: Loss) -> float | None:
        """None: it gives up, or answers what the clauses on answers and delays are about."""
        answer = self.decide(asked)
        delay_s: Any = answer.delay_s if isinstance(answer, RestartAfter) else None
        possible = isinstance(delay_s, int | float) and isfinite(delay_s) and delay_s >= 0
        return delay_s if possible else None

    def close(self) -> None:
        """Nothing is left of a pure function."""


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
            raise ClauseFailure(f"{loss.words} answers {answer!r}")


@clause("R11", kind="recovery policy", title="a delay is a number of seconds, and not negative")
def _(subject: RecoverySubject) -> None:
    for loss in subject.losses():
        answer = subject.decide(loss)
        if not isinstance(answer, RestartAfter):
            continue
        delay_s: Any = answer.delay_s
        if isinstance(delay_s, bool) or not isinstance(delay_s, int | float):
            raise ClauseFailure(f"{loss.words} has the delay {delay_s!r}")
        if not isfinite(delay_s) or delay_s < 0:
            raise ClauseFailure(f"{loss.words} has a delay of {delay_s} s")


@clause("R12", kind="recovery policy", title="it says why, in one line")
def _(subject: RecoverySubject) -> None:
    for loss in subject.losses():
        answer = subject.decide(loss)
        if isinstance(answer, RestartAfter | GiveUp):
            registration.check_reason(loss.words, answer.reason)


@clause("R13", kind="recovery policy", title="equal losses get equal answers, whatever came before")
def _(subject: RecoverySubject) -> None:
    losses = list(subject.losses())
    first = [pure_calls.said(subject.decide(pure_calls.own_copy(loss))) for loss in losses]
    again = [
        pure_calls.said(subject.decide(pure_calls.own_copy(loss))) for loss in reversed(losses)
    ]
    for loss, one, other in zip(losses, first, reversed(again), strict=True):
        if one != other:
            raise ClauseFailure(f"{loss.words} answers {one}, and the next time {other}")


@clause("R14", kind="recovery policy", title="it does not change what it is given")
def _(subject: RecoverySubject) -> None:
    for loss in subject.losses():
        given = pure_calls.own_copy(loss)
        unchanged = pure_calls.unchanged(given)
        subject.decide(given)
        if not unchanged():
            raise ClauseFailure(f"{loss.words} changes the loss")


@clause(
    "R15",
    kind="recovery policy",
    title="it reads no clock and no file, uses no chance, and starts nothing",
)
def _(subject: RecoverySubject) -> None:
    losses = list(subject.losses())
    # What it imports on first use is read from files.
    for loss in losses:
        subject.decide(loss)
    for loss in losses:
        with pure_calls.nothing_impure(loss.words, subject.policy):
            subject.decide(loss)


@clause("R16", kind="recovery policy", title="it decides in time")
def _(subject: RecoverySubject) -> None:
    for loss in list(subject.losses())[:: len(_JITTERS)]:
        pure_calls.done_within(
            loss.words,
            partial(subject.decide, loss),
            subject.limits.decide_s,
        )


@clause("R17", kind="recovery policy", title="its answers are the same in every process")
def _(subject: RecoverySubject) -> None:
    elsewhere.same_in_every_process(
        "recovery policy", subject.policy.name, subject.plugin_module, subject.given_options
    )


@clause("R18", kind="recovery policy", title="no delay is longer than recovery.backoff_max_s")
def _(subject: RecoverySubject) -> None:
    for loss in subject.losses():
        delay_s = subject.delay_s(loss)
        if delay_s is not None and delay_s > loss.backoff_max_s:
            raise ClauseFailure(f"{loss.words} has a delay of {delay_s} s")


@clause("R19", kind="recovery policy", title="delays do not shrink while failures go on")
def _(subject: RecoverySubject) -> None:
    for series in subject.series():
        longest_s = 0.0
        for loss in series:
            delay_s = subject.delay_s(loss)
            if delay_s is None:
                continue
            if delay_s < longest_s:
                raise ClauseFailure(f"{loss.words} has a delay of {delay_s} s after {longest_s} s")
            longest_s = delay_s


@clause(
    "R20", kind="recovery policy", title="replicas that are lost together are not restarted in step"
)
def _(subject: RecoverySubject) -> None:
    for first in subject.losses():
        if first.loss.jitter != _JITTERS[0] or first.backoff_initial_s < _NOTICEABLE_S:
            continue
        delays_s = [
            subject.delay_s(structs.replace(first, loss=structs.replace(first.loss, jitter=jitter)))
            for jitter in _JITTERS
        ]
        if delays_s[0] and len(set(delays_s)) == 1:
            raise ClauseFailure(
                f"{first.words} has a delay of {delays_s[0]} s, and so it has with any other "
                "jitter: use loss.jitter"
            )
