"""The strategy `cpsat` keeps the contract of all strategies."""

from muai_cpsat.hooks import muai_allocation_strategies

from muai_core import AllocationStrategy
from muai_core.testing import AllocationConformance


class TestCpSat(AllocationConformance):
    def make_strategy(self) -> AllocationStrategy:
        [strategy] = muai_allocation_strategies()
        return strategy
