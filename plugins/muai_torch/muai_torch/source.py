"""Where a model's files are: a folder, a GGUF file, or a file inside an installed package.

Imports nothing heavy: the controller uses it to check a config, the worker to load.
"""

import importlib.util
from pathlib import Path

from msgspec import Struct

PACKAGE_PREFIX = "package:"


class SourceError(ValueError):
    """The source names nothing that can be loaded; the text says what was looked for."""


class ModelSource(Struct, frozen=True):
    """A folder in Hugging Face layout, or the GGUF file `gguf_file` inside `folder`."""

    folder: Path
    gguf_file: str | None = None

    @property
    def gguf_path(self) -> Path | None:
        return self.folder / self.gguf_file if self.gguf_file else None


def find_source(source: str) -> ModelSource:
    """Reads `models.<name>.source`. Raises `SourceError`.

    `package:NAME/PATH` is PATH inside the installed Python package NAME. The package is located,
    not imported: data packages often depend on engines that are not installed.
    """
    if source.startswith(PACKAGE_PREFIX):
        return _at(_in_package(source), source)
    try:
        path = Path(source).expanduser()
        if path.exists():
            return _at(path, source)
    except (OSError, RuntimeError) as error:  # not readable, too long, or no such user
        words = error.strerror if isinstance(error, OSError) else str(error)
        raise SourceError(f"{source[:200]}: {words}") from None
    raise SourceError(f"{source}: no such file or folder ({path.absolute()})")


def _at(path: Path, source: str) -> ModelSource:
    if path.is_dir():
        if (path / "config.json").is_file():
            return ModelSource(folder=path)
        ggufs = sorted(path.glob("*.gguf"))
        if len(ggufs) == 1:
            return ModelSource(folder=path, gguf_file=ggufs[0].name)
        found = ", ".join(p.name for p in ggufs) or "none"
        raise SourceError(
            f"{source}: needs a config.json or exactly one .gguf file; found: {found}"
        )
    if path.suffix == ".gguf":
        return ModelSource(folder=path.parent, gguf_file=path.name)
    raise SourceError(f"{source}: is neither a folder nor a .gguf file")


def _in_package(source: str) -> Path:
    name, _, inside = source.removeprefix(PACKAGE_PREFIX).partition("/")
    if not name.isidentifier() or not inside:
        raise SourceError(f"{source}: write {PACKAGE_PREFIX}PACKAGE/PATH/IN/PACKAGE")
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise SourceError(f"{source}: the Python package {name} is not installed")
    folders = list(spec.submodule_search_locations or ())
    for folder in folders:
        path = (Path(folder) / inside).resolve()
        if path.is_relative_to(Path(folder).resolve()) and path.exists():
            return path
    raise SourceError(f"{source}: no {inside} in {', '.join(folders) or name}")
