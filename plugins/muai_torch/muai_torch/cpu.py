"""What this machine's CPU can do. Imports nothing heavy: the controller asks, too."""

from pathlib import Path


def cpu_has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16; elsewhere it is emulated, slower than float32."""
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(words)
