"""What the device source and its probe processes say to each other over pipes.

A frame is its length, four bytes, the highest first, and then one of the messages below in
MessagePack. Times are those of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import struct
from typing import Any

import msgspec
from msgspec import Struct

from muai_core.model.device import Device, DeviceLink, DeviceMeasurements, DeviceReading

#: A thousand GPUs with a hundred processes each fit into a tenth of it.
MAX_FRAME_BYTES = 16 * 1024 * 1024
_LENGTH = struct.Struct(">I")
#: The `index` of the look at what is no GPU: how many there are, and what lies between them.
HOST = -1


# From the source to a probe.


class Setup(Struct, frozen=True, kw_only=True, tag=True):
    """The first message: what the probe is to look at, and how patiently. It begins at once."""

    controller_pid: int
    node: str
    #: GPU numbers as NVML counts them. None: all but those in `without`.
    only: tuple[int, ...] | None = None
    without: tuple[int, ...] = ()
    #: A GPU that takes longer than this no longer holds up the others.
    handover_s: float
    #: A GPU that takes longer than this has missed its deadline; likewise in its first visit,
    #: in which the driver may have to wake it.
    deadline_s: float
    first_deadline_s: float
    #: How long values that rarely change or cost much are repeated.
    slow_interval_s: float
    events: bool
    links: bool


class Sample(Struct, frozen=True, kw_only=True, tag=True):
    """Look at all GPUs, or at one, and answer for each with `Sampled`."""

    only: int | None = None
    #: Read the slow values too, even if they are fresh.
    everything: bool = False


Command = Setup | Sample


# From a probe to the source.


class Starting(Struct, frozen=True, tag=True):
    """The probe runs; NVML is being started."""


class InitFailed(Struct, frozen=True, tag=True):
    """NVML does not start; the probe ends after this message."""

    code: int
    text: str


class Started(Struct, frozen=True, tag=True):
    """NVML has started and counts so many GPUs."""

    gpus: int


class Described(Struct, frozen=True, kw_only=True, tag=True):
    """A GPU has been found: itself, or its MIG instances in its place."""

    index: int
    gpu_uuid: str
    pci_bus_id: str | None
    devices: tuple[Device, ...]
    #: NVML's GPU instance ids of `devices`, for MIG.
    gpu_instances: tuple[int, ...] = ()
    mig_without_instances: bool = False
    #: An NVLink of it ends at a switch.
    on_nvswitch: bool = False


class Linked(Struct, frozen=True, tag=True):
    """What lies between the GPUs of this probe, by the UUIDs of whole GPUs."""

    links: tuple[DeviceLink, ...]

    def over(self, earlier: "Linked") -> "Linked":
        """Both; what was seen earlier of GPUs that this probe leaves out stays as it was."""
        seen = {(link.a, link.b) for link in self.links}
        kept = (link for link in earlier.links if (link.a, link.b) not in seen)
        return Linked((*self.links, *kept))


class Failure(Struct, frozen=True):
    """An NVML call that failed: its return code, and which call."""

    code: int
    call: str


class Facts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a GPU says of its own condition; None where it says nothing."""

    #: NVML field 230.
    recovery_action: int | None = None
    #: Bits of nvmlDeviceGetCurrentClocksEventReasons.
    throttle_bits: int | None = None
    rows_remapped_correctable: int | None = None
    rows_remapped_uncorrectable: int | None = None
    row_remap_pending: bool | None = None
    row_remap_failure: bool | None = None
    pages_retired: int | None = None
    pages_pending: bool | None = None
    #: Since the driver was loaded.
    ecc_uncorrected: int | None = None
    sram_threshold_exceeded: bool | None = None
    #: Of a GPU at an NVLink switch, which takes them all.
    nvlinks: int | None = None
    nvlinks_active: int | None = None


class Sampled(Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """A GPU has answered, or one of the calls that all depends on has failed."""

    index: int
    #: When the visit began.
    at_s: float
    failure: Failure | None = None
    readings: tuple[DeviceReading, ...] = ()
    measurements: tuple[DeviceMeasurements, ...] = ()
    facts: Facts = Facts()


class Late(Struct, frozen=True, tag=True):
    """A GPU has not answered for `handover_s`; the others are looked at by another thread."""

    index: int
    call: str


class Missed(Struct, frozen=True, tag=True):
    """A GPU has not answered by its deadline: this probe has a thread that is stuck in `call`."""

    index: int
    call: str
    after_s: float


class Ready(Struct, frozen=True, tag=True):
    """Each GPU has been visited once or is late, and events are being waited for."""


class GpusCounted(Struct, frozen=True, tag=True):
    """NVML counts another number of GPUs than when the probe started."""

    gpus: int


class Occurred(Struct, frozen=True, kw_only=True, tag=True):
    """An event of the driver's."""

    at_s: float
    #: None: none of the GPUs that this probe knows.
    index: int | None
    gpu_instance: int | None = None
    event_type: int
    data: int


class EventsBroken(Struct, frozen=True, tag=True):
    """Waiting for events fails; it is tried again."""

    text: str


Report = (
    Starting
    | InitFailed
    | Started
    | Described
    | Linked
    | Sampled
    | Late
    | Missed
    | Ready
    | GpusCounted
    | Occurred
    | EventsBroken
)

_encode = msgspec.msgpack.Encoder().encode


def frame(message: Command | Report) -> bytes:
    """The message as it goes over the pipe."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Puts messages together from the pieces that a pipe delivers."""

    def __init__(self, kind: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._pending = bytearray()

    def feed(self, piece: bytes) -> list[Any]:
        """The messages that are complete now. Raises ValueError on what is no frame."""
        self._pending += piece
        messages = []
        start = 0
        while len(self._pending) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._pending, start)
            if length > MAX_FRAME_BYTES:
                raise ValueError(
                    f"a frame of {length} bytes; at most {MAX_FRAME_BYTES} are allowed"
                )
            end = start + _LENGTH.size + length
            if len(self._pending) < end:
                break
            # A msgspec.MsgspecError is a ValueError only where it is a ValidationError.
            try:
                messages.append(self._decode(self._pending[start + _LENGTH.size : end]))
            except msgspec.MsgspecError as error:
                raise ValueError(f"a frame that is no message: {error}") from error
            start = end
        del self._pending[:start]
        return messages
