"""What tests in several folders share."""

import os
import subprocess
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

_PROGRAM = """\
#!{python}
import sys
from {module} import {function}
sys.exit({function}())
"""
#: Program → where its console script would begin.
_PROGRAMS = {
    "muai": ("muai_core.cli.main", "main"),
    "pip": ("pip._internal.cli.main", "main"),
    "pytest": ("pytest", "console_main"),
}

Author = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def author_environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A virtual environment of an author of plugins, as environment variables.

    All that is installed here is there too; what is installed there is not seen here.
    """
    home = tmp_path_factory.mktemp("author")
    venv.create(home / "venv", symlinks=True)
    python = home / "venv" / "bin" / "python"
    paths = {"base": str(home / "venv"), "platbase": str(home / "venv")}
    site = Path(sysconfig.get_path("purelib", vars=paths))
    ours = sysconfig.get_path("purelib")
    # Not only a path: its own .pth files, those of editable installs, count as well.
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    for name, (module, function) in _PROGRAMS.items():
        program = python.with_name(name)
        program.write_text(_PROGRAM.format(python=python, module=module, function=function))
        program.chmod(0o755)
    return {
        **{name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ},
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "MUAI_STATE_DIR": str(home / "state"),
        "PIP_NO_INDEX": "1",
        # The value is that of build isolation itself: setuptools is taken from here.
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONWARNINGS": "ignore",
    }


@pytest.fixture(scope="module")
def author(author_environ: dict[str, str]) -> Author:
    """Runs a program of that environment to its end, in a folder."""

    def run(*command: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            cwd=cwd,
            env=author_environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=150,
            check=False,
        )

    return run
