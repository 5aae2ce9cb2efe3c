"""A local plugin: engines named vllm and deepspeed that are the simulated one."""

import os

from muai_simulated.engine import SimulatedEngine

from muai_core import hookimpl
from muai_core.plugin.engine import Engine, Suitability


class StandIn(SimulatedEngine):
    platforms = tuple(os.environ.get("MUAI_TEST_PLATFORMS", "simulated,cpu").split(","))

    def suits(self, deployment):
        return Suitability(True, "a stand-in")


class VLLM(StandIn):
    name = "vllm"


class DeepSpeed(StandIn):
    name = "deepspeed"


@hookimpl
def muai_engines() -> list[Engine]:
    return [VLLM(), DeepSpeed()]
