"""Builds the fake `libnvidia-ml.so.1` from the C files beside this one."""

import fcntl
import hashlib
import importlib.util
import os
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = "libnvidia-ml.so.1"
SOURCES = tuple(sorted(HERE.glob("*.c")))
FLAGS = "-std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Wpedantic -Werror -fPIC -fvisibility=hidden"


@cache
def symbols() -> tuple[str, ...]:
    """Every function of the library that the installed pynvml may call, sorted.

    Raises ModuleNotFoundError when nvidia-ml-py is not installed.
    """
    spec = importlib.util.find_spec("pynvml")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("building the fake NVML needs pynvml: pip install nvidia-ml-py")
    called = re.findall(r'_nvmlGetFunctionPointer\("(\w+)"\)', Path(spec.origin).read_text())
    return tuple(sorted(set(called)))


def stubs() -> str:
    """C for every symbol; weak, so that a function that the fake does play wins."""
    lines = ["int not_played(const char *function, const void *first);"]
    for name in symbols():
        lines.append(
            '__attribute__((weak, visibility("default"))) '
            f'int {name}(const void *first) {{ return not_played("{name}", first); }}'
        )
    return "\n".join(lines) + "\n"


def build(directory: Path) -> Path:
    """Compile the library into `directory`, unless it is there already, and return its path.

    Safe to call from several processes at once. The compiler is $CC, else gcc. Raises
    RuntimeError with the compiler's words when it fails, FileNotFoundError without a compiler.
    """
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / LIBRARY
    generated = stubs()
    compiler = shlex.split(os.environ.get("CC", "gcc"))
    command = [*compiler, *FLAGS.split(), "-shared"]
    recipe = hashlib.sha256("\0".join([*command, generated]).encode())
    for source in sorted(HERE.glob("*.[ch]")):
        recipe.update(source.read_bytes())
    stamp = directory / "built-from"
    with (directory / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists() and stamp.exists() and stamp.read_text() == recipe.hexdigest():
            return library
        stubs_path = directory / "stubs.c"
        stubs_path.write_text(generated)
        fresh = directory / f"{LIBRARY}.fresh"
        done = subprocess.run(
            [*command, "-o", str(fresh), *map(str, SOURCES), str(stubs_path), "-lpthread"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} could not build the fake NVML:\n{done.stderr}")
        fresh.replace(library)
        stamp.write_text(recipe.hexdigest())
    return library
