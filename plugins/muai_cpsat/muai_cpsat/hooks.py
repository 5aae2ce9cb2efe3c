"""What this plugin registers: the allocation strategy `cpsat`."""

from collections.abc import Sequence

from muai_core.plugin.allocation import AllocationStrategy
from muai_core.plugin.hookspecs import hookimpl
from muai_cpsat.strategy import CpSat


@hookimpl
def muai_allocation_strategies() -> Sequence[AllocationStrategy]:
    return [CpSat()]
