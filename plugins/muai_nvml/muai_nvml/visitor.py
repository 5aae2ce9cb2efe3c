"""What a probe does at each GPU: find it, register for its events, read it, report."""

import time
import traceback
from collections.abc import Callable, Iterable

from muai_core.model.device import DeviceMeasurements
from muai_nvml.describe import Gpu, describe, known_layout, mig_layout
from muai_nvml.driver_events import DriverEvents
from muai_nvml.kinship import Kinship
from muai_nvml.links import read_links
from muai_nvml.measurements import SlowValues, facts_of, read_fast, read_slow
from muai_nvml.nvml import Nvml, NvmlFailure, Visit
from muai_nvml.readings import read_gpu
from muai_nvml.return_codes import UNKNOWN
from muai_nvml.rounds import Task
from muai_nvml.wire import HOST, Failure, GpusCounted, Linked, Report, Sampled, Setup

_WORDS_CHARACTERS = 200


class Visitor:
    """Remembers each GPU's handle and its slow values. Visits of different GPUs may overlap."""

    def __init__(
        self,
        nvml: Nvml,
        setup: Setup,
        gpu_count: int,
        events: DriverEvents | None,
        tell: Callable[[Report], None],
    ) -> None:
        self._nvml = nvml
        self._setup = setup
        self._gpu_count = gpu_count
        self._events = events
        self._tell = tell
        self._kinship = Kinship(setup.controller_pid)
        self._gpus: dict[int, Gpu] = {}
        self._slow: dict[int, SlowValues] = {}
        self._linked = not setup.links
        wanted = range(gpu_count) if setup.only is None else setup.only
        self._wanted = [index for index in wanted if index not in setup.without]

    def tasks(self, only: int | None, everything: bool) -> Iterable[Task]:
        """The visits of one round, that of the host last."""
        for index in self._wanted if only is None else [only]:
            yield Task(index=index, everything=everything)
        if only is None:
            yield Task(index=HOST)

    def begin(self, index: int) -> Visit:
        return Visit(self._nvml, index)

    def deadline_of_s(self, index: int) -> float:
        """A GPU that is visited for the first time may have to be woken by the driver."""
        known = index in self._gpus or (index == HOST and self._linked)
        return self._setup.deadline_s if known else self._setup.first_deadline_s

    def look(self, visit: Visit, task: Task) -> None:
        """Reports `Sampled`, whatever happens. Blocks for as long as the driver pleases."""
        try:
            if task.index == HOST:
                report = self._look_at_host(visit)
            else:
                report = self._look_at_gpu(visit, task)
        except NvmlFailure as failure:
            report = Sampled(index=task.index, at_s=visit.began_at_s, failure=failure.record)
        except Exception as error:  # noqa: BLE001 - one GPU's nonsense must not hide the others
            traceback.print_exc()
            words = f"{visit.call} (what it said makes no sense: {error!r})"
            failure_record = Failure(UNKNOWN, words[:_WORDS_CHARACTERS])
            report = Sampled(index=task.index, at_s=visit.began_at_s, failure=failure_record)
        self._tell(report)

    def _look_at_gpu(self, visit: Visit, task: Task) -> Sampled:
        gpu = self._gpus.get(task.index)
        if gpu is None:
            gpu = self._find(visit)
        if self._events is not None:
            self._events.register(visit, gpu)
        slow = self._slow.get(task.index)
        age_s = visit.began_at_s - slow.read_at_s if slow is not None else None
        if task.everything or slow is None or age_s is None or age_s >= self._setup.slow_interval_s:
            if slow is not None and mig_layout(visit, gpu) != known_layout(gpu):
                gpu = self._find(visit)
            slow = read_slow(visit, gpu)
            self._slow[task.index] = slow
        readings = read_gpu(visit, gpu, self._kinship)
        measurements, facts = read_fast(visit, gpu)
        values = (*measurements, *slow.measurements)
        return Sampled(
            index=task.index,
            at_s=visit.began_at_s,
            readings=readings,
            measurements=tuple(
                DeviceMeasurements(device.uuid, values) for device in gpu.described.devices
            ),
            facts=facts_of(facts, slow),
        )

    def _find(self, visit: Visit) -> Gpu:
        gpu = describe(visit, self._setup.node)
        self._gpus[visit.index] = gpu
        # What lies between it and the others is not known yet.
        self._linked = not self._setup.links
        self._tell(gpu.described)
        return gpu

    def _look_at_host(self, visit: Visit) -> Sampled:
        self._kinship.next_round()
        count = int(visit.need("nvmlDeviceGetCount"))
        if count != self._gpu_count:
            self._gpu_count = count
            self._tell(GpusCounted(count))
        if not self._linked:
            self._linked = True
            gpus = [self._gpus[index] for index in sorted(self._gpus)]
            self._tell(Linked(read_links(visit, gpus)))
        return Sampled(index=HOST, at_s=time.monotonic())
