"""What an engine says about one of its incarnations: started as planned? why did it end?"""

import logging
import os
from pathlib import Path

from muai_core.planning.wording import described, one_line
from muai_core.plugin.engine import Engine, LaunchRequest
from muai_core.plugin.exit_rules import general_failure
from muai_core.plugin.failure import ExitEvidence, Failure
from muai_core.runtime.daemon_thread import in_daemon_thread

_log = logging.getLogger(__name__)


class Verdicts:
    """Asks the engine plugin off the event loop; whatever it raises is logged, and no verdict."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: Set when the replica is launched.
        self.request: LaunchRequest | None = None

    async def difference(self, log: str) -> str | None:
        """What of a start is not as planned; None: nothing, as far as the engine can tell."""
        request = self.request
        if request is None:
            return None
        try:
            words = await in_daemon_thread(
                lambda: self._engine.verify(request, log), f"muai-verify-{self._engine.name}"
            )
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            _log.warning("%s cannot verify a start: %s", self._engine.name, described(error))
            return None
        return None if words is None else one_line(str(words))

    async def failure(self, evidence: ExitEvidence) -> Failure | None:
        """Why it ended: what the engine says, else what the rules for all engines say."""
        try:
            said = await in_daemon_thread(
                lambda: self._engine.classify(evidence), f"muai-classify-{self._engine.name}"
            )
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            _log.warning("%s cannot classify an exit: %s", self._engine.name, described(error))
            said = None
        return said if isinstance(said, Failure) else general_failure(evidence)


def disk_failure(folder: Path) -> Failure | None:
    """Says so when nothing can be written into the folder of the logs any more."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    if disk.f_bavail > 0 or disk.f_blocks == 0:
        return None
    advice = "make room there, or move the state directory: --state-dir"
    return Failure(kind="disk_full", reason=f"no space is left for logs in {folder}", advice=advice)
