"""Reads what a model is made of from its files, without loading it and without an engine.

Only headers and configs are read, each once for as long as the file stays the same: a model of a
trillion parameters takes a fraction of a second. Everything that can be wrong with a file is one
ModelError with one line, `PATH: what is wrong, what was expected`.
"""

from pathlib import Path

from muai_core.model.architecture import ModelDescription, ModelError
from muai_core.model_files.folder import (
    CONFIG,
    describe_config,
    describe_folder,
    describe_weights,
)
from muai_core.model_files.gguf import describe_gguf
from muai_core.model_files.reading import exists, is_folder, listed, shown_path
from muai_core.model_files.series import split_series

__all__ = ["describe_model"]


def describe_model(path: Path) -> ModelDescription:
    """What any rank of any engine will hold of this model.

    `path` is a Hugging Face folder, its config.json, one of its safetensors files, a GGUF file, or
    a folder with one GGUF model. Does blocking I/O on regular files only, some milliseconds for a
    model on a local disk. Raises ModelError, and nothing else.
    """
    if is_folder(path):
        if exists(path / CONFIG):
            return describe_folder(path)
        return describe_gguf(_only_gguf(path))
    if path.suffix == ".gguf":
        return describe_gguf(path)
    if path.suffix == ".safetensors":
        return describe_weights(path)
    if path.suffix == ".json":
        return describe_config(path)
    raise ModelError(
        f"{shown_path(path)}: is no model: needed is a folder with config.json, a config.json, "
        "a .safetensors or a .gguf file"
    )


def _only_gguf(folder: Path) -> Path:
    """The GGUF model of a folder, also one in several parts."""
    names = [path.name for path in listed(folder) if path.suffix == ".gguf"]
    firsts = [name for name in names if (split_series(name, ".gguf") or (name,))[0] == name]
    if len(firsts) == 1:
        return folder / firsts[0]
    found = ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "none"
    raise ModelError(
        f"{shown_path(folder)}: needs a config.json or exactly one .gguf model; found: "
        f"{shown_path(Path(found))}"
    )
