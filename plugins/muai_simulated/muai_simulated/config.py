"""The plugin's part of the config schema. Import it only when options are validated."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from muai_core.model.cards import CARDS, CardName
from muai_simulated.self_test import Outcome

Seconds = Annotated[float, Field(ge=0, le=86_400)]
Count = Annotated[int, Field(ge=0, le=10**9)]
NodeName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][\w.-]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def _profile(info: ValidationInfo) -> CardName:
    """The profile in the same mapping, which stands before everything that depends on it."""
    name: CardName = info.data.get("profile") or "H100-80GB"
    return name


def _linked(size: int | None, info: ValidationInfo) -> int | None:
    name = _profile(info)
    if size is not None and not CARDS[name].nvlink:
        linked = ", ".join(other for other, profile in CARDS.items() if profile.nvlink)
        raise ValueError(f"the {name} has no NVLink; leave it out, or take one of {linked}")
    return size


def _fitting(memory_gib: float, info: ValidationInfo) -> float:
    name = _profile(info)
    total_gib = CARDS[name].memory_total_bytes / 2**30
    if memory_gib > total_gib:
        raise ValueError(f"{memory_gib:g} is not possible: the {name} has {total_gib:.1f} GiB")
    return memory_gib


class DeviceGroup(_Section):
    """GPUs of one kind."""

    gpus: Annotated[int, Field(ge=1, le=1024)] = 8
    """GPUs of this kind in each node."""
    profile: CardName = "H100-80GB"
    """Which GPU; name, memory, compute capability and power are those of the real one."""
    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Nodes with such GPUs. More than one are named `<node>-0`, `<node>-1` and so on."""
    node: NodeName = "sim"
    """The node's name. Groups that name the same node share it: a box with different GPUs."""
    island_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    """GPUs that reach each other over NVLink. Unset: all of the group in a node, or none where the
    real GPU has no NVLink."""
    foreign_memory_gib: Annotated[float, Field(ge=0, le=1024)] = 0.0
    """Memory on each GPU that somebody else holds, in GiB."""

    @field_validator("island_size")
    @classmethod
    def _check_island_size(cls, size: int | None, info: ValidationInfo) -> int | None:
        return _linked(size, info)

    @field_validator("foreign_memory_gib")
    @classmethod
    def _check_foreign_memory(cls, memory_gib: float, info: ValidationInfo) -> float:
        return _fitting(memory_gib, info)


class DeviceOptions(_Section):
    """`devices.simulated`: one kind of GPU, or `groups` for a mixed fleet.

    Unset keys are None rather than defaults, so that `groups` can tell what stands beside it.
    """

    gpus: Annotated[int, Field(ge=1, le=1024)] | None = None
    """GPUs in each node; 8 when unset."""
    profile: CardName | None = None
    """Which GPU; H100-80GB when unset."""
    nodes: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Nodes; 1 when unset. More than one are named `<node>-0`, `<node>-1` and so on."""
    node: NodeName | None = None
    """The node's name; sim when unset."""
    island_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    """GPUs that reach each other over NVLink. Unset: all of a node, or none where the real GPU has
    no NVLink."""
    foreign_memory_gib: Annotated[float, Field(ge=0, le=1024)] | None = None
    """Memory on each GPU that somebody else holds, in GiB; 0 when unset."""
    groups: Annotated[list[DeviceGroup], Field(min_length=1, max_length=1024)] | None = None
    """Several kinds of GPU, each with the keys above; instead of them, not beside them."""
    state_file: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """A YAML or JSON file with device faults, read again at every observation, so that devices can
    fail and heal while MuAI runs. Relative to the working directory; it may be missing."""

    @field_validator("island_size")
    @classmethod
    def _check_island_size(cls, size: int | None, info: ValidationInfo) -> int | None:
        return _linked(size, info)

    @field_validator("foreign_memory_gib")
    @classmethod
    def _check_foreign_memory(cls, memory_gib: float | None, info: ValidationInfo) -> float | None:
        return None if memory_gib is None else _fitting(memory_gib, info)

    @field_validator("groups")
    @classmethod
    def _check_groups(
        cls, groups: list[DeviceGroup] | None, info: ValidationInfo
    ) -> list[DeviceGroup] | None:
        beside = [key for key in DeviceGroup.model_fields if info.data.get(key) is not None]
        if groups is not None and beside:
            raise ValueError(f"{', '.join(beside)} cannot stand beside groups; put it into them")
        return groups

    def device_groups(self) -> list[DeviceGroup]:
        """The groups, whichever way they were written."""
        if self.groups is not None:
            return self.groups
        keys = DeviceGroup.model_fields
        given = {key: value for key in keys if (value := getattr(self, key)) is not None}
        return [DeviceGroup.model_validate(given)]


class DeviceState(_Section):
    """What a state file says about one device. None leaves the simulation as it is."""

    health: Literal["healthy", "degraded", "suspect", "failed", "unknown"] | None = None
    health_reason: Annotated[str, Field(max_length=1000)] | None = None
    lost: bool = False
    """True takes the device out of the inventory, as if it had fallen off the bus."""
    memory_foreign_bytes: Annotated[int, Field(ge=0, le=2**50)] | None = None
    temperature_celsius: Annotated[float, Field(ge=-50, le=200)] | None = None
    utilization_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    self_test: Outcome = "pass"
    """How a self-test of the device ends."""


class StateFile(_Section):
    """A whole state file: devices by index, by `node/index` or by UUID."""

    devices: dict[str | int, DeviceState] = {}


class FaultOptions(_Section):
    """`engine_options.faults`: what goes wrong, and in which incarnations of which replicas."""

    start_error: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """The engine exits with status 1 at the end of loading; this text is the last in its log."""
    slow_start_s: Seconds = 0.0
    """Seconds that loading takes longer."""
    slow_factor: Annotated[float, Field(ge=1, le=1000)] = 1.0
    """How many times slower tokens come."""
    exit_after_requests: Count | None = None
    """So many requests are taken; the next one ends the process before it is answered."""
    exit_after_tokens: Count | None = None
    """So many tokens are generated, over all requests; the next one ends the process."""
    exit_status: Annotated[int, Field(ge=0, le=255)] = 1
    """Exit status of those exits. 0 is a failure too while the replica is wanted."""
    exit_signal: Literal["SIGKILL", "SIGSEGV", "SIGABRT", "SIGBUS"] | None = None
    """Signal that ends the process instead of an exit."""
    hang_after_requests: Count | None = None
    """So many requests are taken; from the next one on no token comes any more, for nobody, while
    /health still answers 200."""
    cut_stream_after_tokens: Count | None = None
    """Every answer's connection is cut after so many tokens."""
    garble_stream_after_tokens: Count | None = None
    """After so many tokens every further piece of a stream is broken bytes."""
    refuse_to_die: bool = False
    """The process ignores SIGTERM and SIGINT; only SIGKILL ends it."""
    first_epoch_only: bool = False
    """Only the first incarnation of a replica has the faults; short for `only_epochs: [1]`."""
    only_epochs: list[Annotated[int, Field(ge=1)]] = []
    """Only these incarnations of a replica have the faults; 1 is the first. Empty: all."""
    only_replicas: list[Annotated[str, Field(min_length=1)]] = []
    """Only these replicas have the faults, by id. Empty: all."""

    def hit(self, replica_id: str, epoch: int) -> bool:
        """Whether this incarnation has the faults."""
        if self.first_epoch_only and epoch != 1:
            return False
        if self.only_epochs and epoch not in self.only_epochs:
            return False
        return not self.only_replicas or replica_id in self.only_replicas


class EngineOptions(_Section):
    """`models.<name>.engine_options` of the engine `simulated`."""

    load_s: Seconds = 0.5
    """Seconds from the start of the process until the model is loaded."""
    first_token_s: Seconds = 0.05
    """Seconds from a request to its first token."""
    tokens_per_second: Annotated[float, Field(gt=0, le=1_000_000)] = 100.0
    """Tokens of each request per second, after the first."""
    answer_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Length of an answer when the request sets no max_tokens."""
    max_num_seqs: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Requests served at once; further ones wait."""
    memory_gib: Annotated[float, Field(gt=0, le=65_536)] | None = None
    """Memory that one rank holds on its device, in GiB. Unset: what the model claims, else nine
    tenths of the device."""
    extra_memory_gib: Annotated[float, Field(ge=0, le=65_536)] = 0.0
    """Memory that each rank holds beyond that, in GiB: an estimate that was too low."""
    attention_heads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Attention heads of the real model: sizes of tensor parallelism that do not divide them are
    refused, as a real engine would."""
    faults: FaultOptions = FaultOptions()
    """What goes wrong. Nothing by default."""
