"""What this plugin registers."""

from collections.abc import Sequence

from muai_core import Engine, hookimpl
from muai_deepspeed.engine import DeepSpeedEngine


@hookimpl
def muai_engines() -> Sequence[Engine]:
    return [DeepSpeedEngine()]
