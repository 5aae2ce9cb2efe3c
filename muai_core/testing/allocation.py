"""The kit for allocation strategies."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from muai_core.model.fleet import PlacementRequest
from muai_core.model.placement import Placement, Unplaceable
from muai_core.planning import place as planner
from muai_core.plugin.allocation import AllocationStrategy
from muai_core.testing import elsewhere, pure_calls, registration
from muai_core.testing.allocation_tasks import Task, large_task, tasks
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, clause


class AllocationLimits(Struct, frozen=True, kw_only=True):
    """How long what is tested may take, in seconds."""

    #: Placing 16 replicas on 1,000 GPUs.
    place_s: float = 20.0
    #: Importing the plugin, in processor time beyond the core's own import.
    import_s: float = 0.1


class AllocationSubject:
    """A strategy under test. It has nothing that must be closed."""

    def __init__(
        self,
        strategy: AllocationStrategy,
        options: Mapping[str, Any] | None = None,
        *,
        plugin_module: str | None = None,
        limits: AllocationLimits | None = None,
    ) -> None:
        """`options` as in the config; `plugin_module` has the plugin's hooks, else it is found."""
        self.strategy = strategy
        self.given_options = dict(options or {})
        self.limits = limits or AllocationLimits()
        self.plugin_module = plugin_module or registration.plugin_module_of(strategy)

    def tasks(self) -> tuple[Task, ...]:
        """Ones that can be solved, ones that cannot, in part or at all; they are the caller's."""
        return pure_calls.own_copy(tasks(self._options()))

    def large(self) -> Task:
        return large_task(self._options())

    def _options(self) -> Mapping[str, Any]:
        return registration.completed_options(self.strategy, self.given_options)

    def place(self, task: Task) -> list[Any]:
        """What it answers for each request alone, then for all together if it plans them so.

        Raises ClauseFailure when it raises.
        """
        answers = [
            pure_calls.called(
                f"place() on {task.words}", partial(self.strategy.place, request, fleet)
            )
            for request, fleet in task.alone()
        ]
        together = self.place_all(task)
        return [*answers, *together] if isinstance(together, Sequence) else answers

    def place_all(self, task: Task) -> Any:
        """What it answers for all together; None: it does not. Raises ClauseFailure."""
        problem = task.together()
        return pure_calls.called(
            f"place_all() on {task.words}", lambda: self.strategy.place_all(problem)
        )

    def close(self) -> None:
        """Nothing is left of a pure function."""


@clause("A01", kind="allocation strategy", title="its name is one word in lower case")
def _(subject: AllocationSubject) -> None:
    registration.check_name(subject.strategy)


@clause("A02", kind="allocation strategy", title="the options reject unknown keys by their name")
def _(subject: AllocationSubject) -> None:
    registration.check_options(subject.strategy, subject.given_options)


@clause("A03", kind="allocation strategy", title="importing the plugin is light")
def _(subject: AllocationSubject) -> None:
    registration.check_import(subject.plugin_module, subject.limits.import_s)


@clause(
    "A04",
    kind="allocation strategy",
    title="the plugin's hooks register the strategy and do not raise",
)
def _(subject: AllocationSubject) -> None:
    registration.check_hooks(subject.strategy, "allocation strategy", subject.plugin_module)


@clause("A10", kind="allocation strategy", title="every request gets a placement or a refusal")
def _(subject: AllocationSubject) -> None:
    for task in subject.tasks():
        for answer in subject.place(task):
            if not isinstance(answer, Placement | Unplaceable):
                raise ClauseFailure(f"place() on {task.words} answers {answer!r}")


@clause("A11", kind="allocation strategy", title="a replica that fits is placed")
def _(subject: AllocationSubject) -> None:
    for task in subject.tasks():
        if not task.solvable:
            continue
        for request in task.requests:
            for answer, complaint in _ways(subject, task, request):
                if complaint is None and isinstance(answer, Unplaceable):
                    shape = request.deployment.shapes[0]
                    raise ClauseFailure(f"{shape} is not placed on {task.words}: {answer.summary}")


def _ways(
    subject: AllocationSubject, task: Task, request: PlacementRequest
) -> list[planner.Answer]:
    """What comes of one request by `place`, and as the only one for `place_all`."""
    [together] = planner.place_all([request], task.fleet, subject.strategy)
    return [planner.place(request, task.fleet, subject.strategy), together]


@clause("A12", kind="allocation strategy", title="no placement of its own is refused")
def _(subject: AllocationSubject) -> None:
    for task in subject.tasks():
        if not all(isinstance(one, Placement | Unplaceable) for one in subject.place(task)):
            raise ClauseSkipped("it answers something else, see the clause on that")
        for request in task.requests:
            _accepted(task, _ways(subject, task, request))


def _accepted(task: Task, answers: Sequence[planner.Answer]) -> None:
    """Raises ClauseFailure when the planner refuses one."""
    for _, complaint in answers:
        if complaint is not None:
            raise ClauseFailure(f"on {task.words}: {complaint}")


@clause("A13", kind="allocation strategy", title="a refusal says why, in one line")
def _(subject: AllocationSubject) -> None:
    for task in subject.tasks():
        for answer in subject.place(task):
            if isinstance(answer, Unplaceable):
                registration.check_reason(f"place() on {task.words}", answer.summary)


@clause(
    "A14",
    kind="allocation strategy",
    title="equal requests get equal answers, whatever came before",
)
def _(subject: AllocationSubject) -> None:
    every = subject.tasks()
    first = [_said(subject, task) for task in every]
    again = [_said(subject, task) for task in reversed(every)]
    for task, one, other in zip(every, first, reversed(again), strict=True):
        if one != other:
            raise ClauseFailure(f"place() on {task.words} answers {one}, the next time {other}")


def _said(subject: AllocationSubject, task: Task) -> list[Any]:
    return [pure_calls.said(answer) for answer in subject.place(pure_calls.own_copy(task))]


@clause("A15", kind="allocation strategy", title="it does not change what it is given")
def _(subject: AllocationSubject) -> None:
    for task in subject.tasks():
        given = pure_calls.own_copy(task)
        unchanged = pure_calls.unchanged(given)
        subject.place(given)
        if not unchanged():
            raise ClauseFailure(f"place() on {task.words} changes the request or the fleet")


@clause(
    "A16",
    kind="allocation strategy",
    title="it reads no clock and no file, uses no chance, and starts nothing",
)
def _(subject: AllocationSubject) -> None:
    every = subject.tasks()
    # What it imports on first use is read from files.
    for task in every:
        subject.place(task)
    for task in every:
        with pure_calls.nothing_impure(f"placing on {task.words}", subject.strategy):
            subject.place(task)


@clause(
    "A17",
    kind="allocation strategy",
    title="asked for all at once, it answers for each, and rightly",
)
def _(subject: AllocationSubject) -> None:
    for task in subject.tasks():
        if subject.place_all(task) is None:
            raise ClauseSkipped("it is asked for one after the other")
        _accepted(task, planner.place_all(task.requests, task.fleet, subject.strategy))


@clause("A18", kind="allocation strategy", title="a large fleet is placed on in time")
def _(subject: AllocationSubject) -> None:
    task = subject.large()
    pure_calls.done_within(
        f"placing {len(task.requests)} replicas on {task.words}",
        lambda: planner.place_all(task.requests, task.fleet, subject.strategy),
        subject.limits.place_s,
    )


@clause("A19", kind="allocation strategy", title="its answers are the same in every process")
def _(subject: AllocationSubject) -> None:
    elsewhere.same_in_every_process(
        "allocation strategy", subject.strategy.name, subject.plugin_module, subject.given_options
    )
