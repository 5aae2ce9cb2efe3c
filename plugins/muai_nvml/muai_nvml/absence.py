"""Whether there can be an NVIDIA driver here at all: a look that takes no process and no NVML."""

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

LIBRARY = "libnvidia-ml.so.1"
NO_LIBRARY = f"no NVIDIA driver here ({LIBRARY} not found)"
NO_DRIVER = f"no NVIDIA driver here ({LIBRARY} is there, but the kernel driver is not loaded)"
NO_GPU = "an NVIDIA driver is here, but no GPU"
#: What the kernel driver, or that of Windows below Linux, shows of itself.
_TRACES = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg")
_CACHE = "/etc/ld.so.cache"
_ROOTS = ("/lib", "/usr/lib", "/usr/local/lib")


def driver_traces() -> bool:
    """Whether the kernel shows an NVIDIA driver."""
    return any(Path(trace).exists() for trace in _TRACES)


def may_find_library(library_dir: str | None) -> bool:
    """Whether a loader could find the library: where it looks, without asking it.

    True in doubt, e.g. where there is a driver whose library lies elsewhere.
    """
    if any((directory / LIBRARY).exists() for directory in _search_path(library_dir)):
        return True
    try:
        if LIBRARY.encode() in Path(_CACHE).read_bytes():
            return True
    except OSError:
        pass  # A loader without a cache, e.g. musl's: it looks into the directories above.
    return driver_traces()


def _search_path(library_dir: str | None) -> Iterator[Path]:
    if library_dir is not None:
        yield Path(library_dir)
    for name in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        if name:
            yield Path(name)
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    for root in _ROOTS:
        yield Path(root)
        yield Path(f"{root}64")
        if triplet:
            yield Path(root) / triplet
    # Environments that bring their own libraries, e.g. conda's.
    yield Path(sys.prefix) / "lib"
