"""The kit for engines."""

from muai_core.testing.engine.outcomes import Limits
from muai_core.testing.engine.subject import EngineSubject

__all__ = ["EngineSubject", "Limits"]
