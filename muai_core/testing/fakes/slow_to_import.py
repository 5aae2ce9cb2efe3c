"""A plugin that works while it is imported: the defect `slow_to_import`."""

import time

from muai_core.testing.fakes.device_sources import muai_device_sources
from muai_core.testing.fakes.engine import muai_engines
from muai_core.testing.fakes.metric_sinks import muai_metric_sinks
from muai_core.testing.fakes.policies import (
    muai_allocation_strategies,
    muai_recovery_policies,
)

__all__ = [
    "muai_allocation_strategies",
    "muai_device_sources",
    "muai_engines",
    "muai_metric_sinks",
    "muai_recovery_policies",
]

_BUSY_S = 0.3

_began_s = time.process_time()
while time.process_time() - _began_s < _BUSY_S:
    pass
