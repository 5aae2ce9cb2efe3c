"""The kit for engines."""

from muai_core.testing.engine.subject import EngineSubject, Limits

__all__ = ["EngineSubject", "Limits"]
