"""Four GPUs and an engine for them; what is held of their memory stands in a folder."""

from pathlib import Path

import muai_core
from muai_core.testing.fakes.engine import FakeDevices, FakeEngine

HELD = Path(__file__).with_name("held")


@muai_core.hookimpl
def muai_device_sources():
    return [FakeDevices(HELD)]


@muai_core.hookimpl
def muai_engines():
    return [FakeEngine(folder=HELD)]
