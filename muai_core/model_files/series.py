"""Models in several files, numbered as in `model-00002-of-00003.gguf`."""

from pathlib import Path

from muai_core.model.architecture import ModelError
from muai_core.model_files.reading import exists, shown_path

_MAX_FILES = 10_000


def split_series(name: str, ending: str) -> tuple[str, ...] | None:
    """All names of `x-00002-of-00003.gguf`'s series; None for a name of another form."""
    stem = name.removesuffix(ending)
    base, _, count = stem.rpartition("-of-")
    start, _, number = base.rpartition("-")
    digits = len(count)
    sound = all(part.isascii() and part.isdecimal() for part in (count, number))
    if not sound or digits > 5 or len(number) != digits:
        return None
    total = int(count)
    if not 1 <= int(number) <= total <= _MAX_FILES:
        return None
    return tuple(f"{start}-{one:0{digits}}-of-{count}{ending}" for one in range(1, total + 1))


def check_complete(folder: Path, names: tuple[str, ...]) -> None:
    """Raises ModelError that names the first file that is not there."""
    for name in names:
        if not exists(folder / name):
            parts = f": the files beside it are {len(names):,} parts of one model"
            raise ModelError(
                f"{shown_path(folder / name)}: is missing{parts if len(names) > 1 else ''}"
            )
