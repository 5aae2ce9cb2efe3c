"""Engines: how a model server is started and what it can do."""

import sys
from abc import ABC, abstractmethod

from msgspec import Struct

from muai_core.model.architecture import ModelDescription
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, Platform
from muai_core.model.memory import RankMemory
from muai_core.plugin.capability import Capability
from muai_core.plugin.failure import ExitEvidence, Failure
from muai_core.plugin.memory import MemoryProfile
from muai_core.plugin.options import Configurable


class Complaint(Struct, frozen=True):
    """Something wrong in a deployment: the field of `models.<name>` and what is allowed."""

    field: str
    message: str


class Suitability(Struct, frozen=True):
    """Whether an engine can serve a deployment, and the reason in one line either way."""

    suitable: bool
    reason: str
    #: True: it can, but `engine: auto` must not choose it.
    only_if_named: bool = False


class LaunchRequest(Struct, frozen=True, kw_only=True):
    """One replica incarnation that is about to start."""

    #: With the shape that was planned for this replica.
    deployment: Deployment
    replica_id: str
    epoch: int
    #: In rank order; `stages[s][t]` gives the same devices as UUIDs per pipeline stage. Ranks on a
    #: CPU share it: then it is there once for each of them.
    devices: tuple[Device, ...]
    stages: tuple[tuple[str, ...], ...]
    #: Layers of each stage, as for VLLM_PP_LAYER_PARTITION; empty: the engine's own choice.
    layers: tuple[int, ...] = ()
    #: What each rank may hold, as planned: one entry per stage; empty: not planned by kind.
    ranks: tuple[RankMemory, ...] = ()
    #: The interpreter to run the engine with: `engines.<name>.python`, else the controller's own.
    python: str
    #: Loopback address and free port on which the engine must listen.
    host: str
    port: int


class ProgressMetrics(Struct, frozen=True, kw_only=True):
    """Names of Prometheus series that stand for progress; their samples are added up."""

    requests_running: str
    requests_waiting: str
    tokens_generated: str


class LaunchSpec(Struct, frozen=True, kw_only=True):
    """How to start one replica. The supervisor does the rest.

    The engine's HTTP contract: `readiness_path` answers 503 while loading (a JSON body may carry
    `detail` for people) and 200 when it serves; `/v1/models` then lists the model's name.
    `progress_path` answers {"requests_running", "requests_waiting", "tokens_generated"}.
    """

    argv: tuple[str, ...]
    host: str
    port: int
    served_model_name: str
    #: Added to a minimal environment; PATH, HOME, locale and proxies are inherited.
    env: dict[str, str] = {}
    cwd: str | None = None
    readiness_path: str = "/health"
    #: False: the port refuses connections until the model is loaded (vLLM); only then must the
    #: deadline of the load stage, not of the spawn stage, cover the loading.
    listens_while_loading: bool = True
    progress_path: str | None = "/progress"
    #: Set: `progress_path` answers in Prometheus' text format, and these are the series.
    progress_metrics: ProgressMetrics | None = None
    #: Where the engine's own metrics are, in Prometheus' text format; they are passed on under
    #: their own names with labels for model and replica.
    metrics_path: str | None = None
    #: Words for a person and the regular expression of the log line with which that part of the
    #: start begins, in order: shown as progress while the engine loads.
    log_stages: tuple[tuple[str, str], ...] = ()
    #: Matches the command line or title of the processes without which the replica is dead: the
    #: ranks. When one of them ends, the whole replica is taken down at once.
    rank_processes: str | None = None
    #: Names under /dev/shm (shell patterns) that are the replica's own and are removed after its
    #: last process is gone.
    shared_memory: tuple[str, ...] = ()
    #: Names under /dev/shm (shell patterns) that other replicas' files may have, too: removed are
    #: those that the replica's processes had mapped and that nobody has mapped any more. What
    #: Python's multiprocessing and torch make there needs no pattern.
    used_shared_memory: tuple[str, ...] = ()
    #: True: no two such engines load on the same GPU at the same time.
    exclusive_start: bool = False


class Engine(Configurable, ABC):
    """A driver that knows one model server. It never loads a model in the controller's process.

    Methods are called off the event loop, in a thread; they may read files but must return within
    seconds. A raise becomes a failed start, or a config error, with the exception as its reason.
    """

    #: Platforms the engine runs on, best first.
    platforms: tuple[Platform, ...]
    #: The interpreter that will run it: `engines.<name>.python`, else the controller's own. Set
    #: before any question about a deployment.
    python: str = sys.executable
    #: With `engine: auto`, the suitable engine of the highest priority is chosen.
    auto_priority: int = 0
    #: What it can do on every platform; `models.<name>.requires` is compared with it.
    capabilities: tuple[Capability, ...] = ("streaming", "abort")

    @abstractmethod
    def suits(self, deployment: Deployment) -> Suitability:
        """Called when the config is resolved: can this engine serve this model at all?"""

    def check(self, deployment: Deployment) -> tuple[Complaint, ...]:
        """Called when a config is checked: everything that is wrong, all at once."""
        return ()

    def memory(
        self, deployment: Deployment, model: ModelDescription | None
    ) -> MemoryProfile | int | None:
        """Called when the config is resolved: how a replica's memory is estimated.

        A profile: from `model`, for every shape. A number: one rank needs so many bytes in any
        shape. None, the default: unknown, so a replica claims whole devices. `model` is None when
        the source is no model file. `deployment.platforms` holds only the platform that the
        replicas would run on.
        """
        return None

    @abstractmethod
    def launch(self, request: LaunchRequest) -> LaunchSpec:
        """Called once for each start of a replica: the command, its environment, its probes."""

    def verify(self, request: LaunchRequest, log: str) -> str | None:
        """Called once when a replica is ready, with its log so far: what is not as planned.

        Compare world size, devices and KV cache with the request. None: all as planned, or the log
        does not tell. A text fails the start with it as the reason.
        """
        return None

    def classify(self, evidence: ExitEvidence) -> Failure | None:
        """Called when a replica ended unasked or failed to start: why. Pure.

        None: nothing that this engine knows better than the rules for all engines.
        """
        return None
