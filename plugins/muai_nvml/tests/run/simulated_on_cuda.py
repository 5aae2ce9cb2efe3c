"""A local plugin: the simulated engine, which takes NVIDIA GPUs for its own."""

from collections.abc import Sequence

from muai_simulated.engine import SimulatedEngine

from muai_core import Engine, hookimpl


class SimulatedOnCuda(SimulatedEngine):
    name = "simulated_on_cuda"
    platforms = ("cuda",)


@hookimpl
def muai_engines() -> Sequence[Engine]:
    return [SimulatedOnCuda()]
