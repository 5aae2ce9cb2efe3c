"""What this plugin registers."""

from collections.abc import Sequence

from muai_core import Engine, hookimpl
from muai_vllm.engine import VllmEngine


@hookimpl
def muai_engines() -> Sequence[Engine]:
    return [VllmEngine()]
