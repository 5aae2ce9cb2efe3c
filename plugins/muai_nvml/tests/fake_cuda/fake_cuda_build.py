"""Builds the fake `libcuda.so.1` from the C file beside this one."""

import os
import shlex
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_cuda.c")
# No contraction: the compiler must not fuse what the kernel does not fuse.
FLAGS = "-shared -fPIC -O2 -Wall -Wextra -Werror -ffp-contract=off"


def build(directory: Path) -> Path:
    """Compile the library into `directory` and return that, for LD_LIBRARY_PATH.

    The compiler is $CC, else gcc. Raises FileNotFoundError without one.
    """
    compiler = shlex.split(os.environ.get("CC", "gcc"))
    target = directory / "libcuda.so.1"
    subprocess.run([*compiler, *FLAGS.split(), "-o", target, SOURCE, "-lm", "-ldl"], check=True)
    return directory
