"""The config file: reading, overriding, checking, and telling where every value came from.

Importing this package is light; pydantic is imported when a config is loaded.
"""

from typing import TYPE_CHECKING, Any

from muai_core.config.errors import ConfigError, Origin, Problem

if TYPE_CHECKING:
    from muai_core.config.loaded import LoadedConfig
    from muai_core.config.loading import load_config
    from muai_core.config.schema import Config

__all__ = ["Config", "ConfigError", "LoadedConfig", "Origin", "Problem", "load_config"]

_LAZY = {"Config": "schema", "LoadedConfig": "loaded", "load_config": "loading"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
