"""Which version of a package an interpreter has, found on disk: importing engines takes seconds."""

import re
import sys
import sysconfig
from pathlib import Path


def installed_version(python: str, *distributions: str) -> str | None:
    """The version of the first of these distributions in the environment of `python`.

    Names as pip shows them. None: none of them is there, or the environment has an unusual layout.
    """
    folders = _site_packages(Path(python), own=python == sys.executable)
    for distribution in distributions:
        plain = re.sub(r"[-_.]+", "_", distribution)
        pattern = re.compile(rf"{re.escape(plain)}-(\d[^-]*)\.dist-info", re.IGNORECASE)
        for folder in folders:
            for entry in sorted(folder.glob("*.dist-info")):
                if match := pattern.fullmatch(entry.name):
                    return match.group(1)
    return None


def _site_packages(python: Path, *, own: bool) -> list[Path]:
    if own:
        paths = {sysconfig.get_path("purelib"): None, sysconfig.get_path("platlib"): None}
        return [Path(path) for path in paths]
    # Not resolved: the interpreter of a virtual environment is a link to another one.
    return sorted(python.parent.parent.glob("lib*/python3*/site-packages"))
