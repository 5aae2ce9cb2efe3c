"""The kit for allocation strategies."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from muai_core.model.deployment import Deployment
from muai_core.model.device import Device
from muai_core.model.fleet import DeviceView, Fleet, PlacementProblem, PlacementRequest
from muai_core.model.health import Health
from muai_core.model.placement import Placement, Unplaceable
from muai_core.planning import place as planner
from muai_core.plugin.allocation import AllocationStrategy
from muai_core.testing import elsewhere, pure_calls, registration
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, clause

GIB = 1024**3
_TOTAL_BYTES = 80 * GIB
_LARGE_FLEET = 256


class AllocationLimits(Struct, frozen=True, kw_only=True):
    """How long what is tested may take, in seconds."""

    #: Placing 16 replicas on 256 GPUs.
    place_s: float = 20.0
    #: Importing the plugin, in processor time beyond the core's own import.
    import_s: float = 0.1


class Task(Struct, frozen=True):
    """Replicas that need devices of a fleet."""

    words: str
    requests: tuple[PlacementRequest, ...]
    fleet: Fleet


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

    def tasks(self) -> Iterator[Task]:
        """Ones that can be solved, ones that cannot, in part or at all."""
        options = registration.completed_options(self.strategy, self.given_options)
        for words, fleet, sizes in _TASKS:
            yield Task(words, _requests(sizes, options), fleet)

    def large(self) -> Task:
        options = registration.completed_options(self.strategy, self.given_options)
        fleet = _fleet([f"n{number:02d}" for number in range(_LARGE_FLEET // 8)])
        return Task("256 GPUs", _requests([(2, 1, 40)] * 16, options), fleet)

    def place(self, task: Task) -> list[Any]:
        """What it answers for each request alone. Raises ClauseFailure when it raises."""
        what = f"place() on {task.words}"
        return [
            pure_calls.called(what, partial(self.strategy.place, request, task.fleet))
            for request in task.requests
        ]

    def place_all(self, task: Task) -> Any:
        """What it answers for all together; None: it does not. Raises ClauseFailure."""
        problem = PlacementProblem(requests=task.requests, fleet=task.fleet, admits=_admits)
        return pure_calls.called(
            f"place_all() on {task.words}", lambda: self.strategy.place_all(problem)
        )

    def close(self) -> None:
        """Nothing is left of a pure function."""


def _admits(_: PlacementRequest, __: DeviceView) -> bool:
    return True


def _view(node: str, index: int, claimed_bytes: int) -> DeviceView:
    device = Device(
        uuid=f"GPU-{node}-{index}",
        node=node,
        index=index,
        kind="gpu",
        platform="cuda",
        name="Kit GPU",
        memory_total_bytes=_TOTAL_BYTES,
        island=f"{node}-{index // 4}",
    )
    return DeviceView(
        device=device,
        health=Health.HEALTHY,
        health_reason=None,
        allocatable_bytes=_TOTAL_BYTES,
        claimed_bytes=claimed_bytes,
    )


def _fleet(nodes: Sequence[str], claimed_gib: Sequence[int] = (0,) * 8) -> Fleet:
    views = [
        _view(node, index, claimed * GIB)
        for node in nodes
        for index, claimed in enumerate(claimed_gib)
    ]
    return Fleet(tuple(views), platforms=("cuda",))


def _requests(
    sizes: Sequence[tuple[int, int, int]], options: Mapping[str, Any]
) -> tuple[PlacementRequest, ...]:
    """Replicas by tensor- and pipeline-parallel size, and GiB per rank."""
    return tuple(
        PlacementRequest(
            replica_id=f"model-{number}.0",
            deployment=Deployment(
                name=f"model-{number}",
                source="model",
                engine="any",
                platforms=("cuda",),
                tensor_parallel_size=tensor,
                pipeline_parallel_size=pipeline,
                memory_bytes_per_device=need_gib * GIB,
            ),
            options=dict(options),
        )
        for number, (tensor, pipeline, need_gib) in enumerate(sizes)
    )


_TASKS = (
    ("one empty node", _fleet(["a"]), [(1, 1, 40), (2, 1, 40), (2, 2, 20), (8, 1, 10)]),
    ("a node that is used unevenly", _fleet(["a"], (70, 0, 30, 60, 10, 50, 20, 40)), [(1, 1, 10)]),
    ("two nodes", _fleet(["a", "b"]), [(4, 1, 70), (4, 1, 70), (8, 1, 70), (1, 1, 70)]),
    ("one GPU", _fleet(["a"], (0,)), [(2, 1, 10), (1, 1, 40), (1, 2, 10)]),
    ("a node without room", _fleet(["a"], (80,) * 8), [(1, 1, 10)]),
    ("an empty fleet", Fleet(()), [(1, 1, 10), (4, 2, 10)]),
)


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
    task = next(subject.tasks())
    for request in task.requests:
        [(answer, complaint)] = planner.place_all([request], task.fleet, subject.strategy)
        if complaint is None and isinstance(answer, Unplaceable):
            shape = request.deployment.shapes[0]
            raise ClauseFailure(f"{shape} is not placed on {task.words}: {answer.summary}")


@clause("A12", kind="allocation strategy", title="no placement of its own is refused")
def _(subject: AllocationSubject) -> None:
    for task in subject.tasks():
        if not all(isinstance(one, Placement | Unplaceable) for one in subject.place(task)):
            raise ClauseSkipped("it answers something else, see the clause on that")
        for request in task.requests:
            _accepted(subject, task, [request])


def _accepted(subject: AllocationSubject, task: Task, requests: Sequence[PlacementRequest]) -> None:
    """Raises ClauseFailure when the planner refuses an answer."""
    for _, complaint in planner.place_all(requests, task.fleet, subject.strategy):
        if complaint is not None:
            raise ClauseFailure(f"on {task.words}: {complaint}")


@clause("A13", kind="allocation strategy", title="a refusal says why")
def _(subject: AllocationSubject) -> None:
    for task in subject.tasks():
        for answer in subject.place(task):
            if isinstance(answer, Unplaceable) and not answer.summary.strip():
                raise ClauseFailure(f"place() on {task.words} refuses without a reason")


@clause(
    "A14",
    kind="allocation strategy",
    title="equal requests get equal answers, whatever came before",
)
def _(subject: AllocationSubject) -> None:
    tasks = list(subject.tasks())
    first = [_said(subject, task) for task in tasks]
    again = [_said(subject, task) for task in reversed(tasks)]
    for task, one, other in zip(tasks, first, reversed(again), strict=True):
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
    "A16", kind="allocation strategy", title="it reads no clock and no file, and uses no chance"
)
def _(subject: AllocationSubject) -> None:
    tasks = list(subject.tasks())
    # What it imports on first use is read from files.
    subject.place(tasks[0])
    for task in tasks:
        with pure_calls.nothing_impure(f"place() on {task.words}"):
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
        _accepted(subject, task, task.requests)


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
