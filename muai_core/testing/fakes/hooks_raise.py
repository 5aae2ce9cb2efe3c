"""A plugin whose hook raises: the defect `hooks_raise`."""

from collections.abc import Sequence

from muai_core.plugin.engine import Engine
from muai_core.plugin.hookspecs import hookimpl


@hookimpl
def muai_engines() -> Sequence[Engine]:
    raise RuntimeError("no GPU library is installed")
