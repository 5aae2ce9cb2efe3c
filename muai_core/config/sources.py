"""Where a model's weights are: `models.<name>.source` to a path, without importing anything."""

import importlib.machinery
import importlib.util
import os
import re
from pathlib import Path
from typing import Literal

import msgspec

PACKAGE_SCHEME = "package:"

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*(?<!\.gguf)")


class SourceError(ValueError):
    """The source does not lead to weights; the text says why and what is possible."""


class ResolvedSource(msgspec.Struct, frozen=True):
    """Weights that were found: an absolute path to a file or a folder."""

    kind: Literal["file", "folder"]
    path: Path


def resolve_path(text: str, folder: Path) -> Path:
    """`text` as an absolute path; relative ones start at `folder`, `~` is the home directory."""
    # os.path, because Path.expanduser raises for a user who does not exist.
    return Path(os.path.normpath(folder / os.path.expanduser(text)))  # noqa: PTH111


def is_file(path: Path) -> bool:
    """Whether `path` is a file that can be reached; False too for what cannot be a path."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def resolve_source(text: str, folder: Path) -> ResolvedSource:
    """The weights that `text` names; relative paths start at `folder`.

    Raises SourceError when there is nothing to load.
    """
    if text.startswith(PACKAGE_SCHEME):
        path = _package_resource(text.removeprefix(PACKAGE_SCHEME))
    else:
        path = resolve_path(text, folder)
    try:
        return _existing(path, text)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None


def _existing(path: Path, text: str) -> ResolvedSource:
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise SourceError(f"{path} is a folder without config.json, so no Hugging Face model")
        return ResolvedSource("folder", path)
    if path.is_file():
        if path.stat().st_size == 0:
            raise SourceError(f"{path} is an empty file")
        if not os.access(path, os.R_OK):
            raise SourceError(f"{path} cannot be read: permission denied")
        return ResolvedSource("file", path)
    if text.startswith(PACKAGE_SCHEME):
        raise SourceError(f"the package is installed but has no {path.name} ({path})")
    if _HUB_NAME.fullmatch(text):
        raise SourceError(
            f"no folder {path}; a name on the Hugging Face hub is not downloaded: "
            f"fetch it first (hf download {text} --local-dir FOLDER) and give the folder"
        )
    raise SourceError(
        f"no file or folder {path}; give a .gguf file, a Hugging Face folder "
        "or package:PACKAGE/FILE"
    )


def _package_resource(text: str) -> Path:
    package, slash, resource = text.partition("/")
    names = package.split(".")
    if not slash or not resource or not all(name.isidentifier() for name in names):
        raise SourceError("expected package:PACKAGE/FILE")
    if ".." in resource.split("/"):
        raise SourceError("a package's file cannot lie outside the package (..)")
    places: list[str] = []
    for name in names:
        # importlib.util.find_spec("a.b") would import a; without a dot it imports nothing.
        if places:
            spec = importlib.machinery.PathFinder.find_spec(name, places)
        else:
            spec = importlib.util.find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            distribution = names[0].replace("_", "-")
            raise SourceError(
                f"no package {package} is installed; perhaps: pip install {distribution}"
            )
        places = list(spec.submodule_search_locations)
    found = [Path(place) / resource for place in places]
    return next((path for path in found if path.exists()), found[0])
