"""The fake engine of the kit on the CPU."""

import muai_core
from muai_core.testing.fakes.engine import FakeEngine


class Slow(FakeEngine):
    platforms = ("cpu",)


@muai_core.hookimpl
def muai_engines():
    return [Slow()]
