"""A Hugging Face folder: config.json, and the weights that its index names."""

from pathlib import Path
from typing import Any

import msgspec

from muai_core.model.architecture import Architecture, ModelDescription, ModelError, TensorInfo
from muai_core.model_files.json_text import CONFIG_MAX_BYTES, json_object
from muai_core.model_files.reading import OpenFile, exists, listed, parsed, shown_path
from muai_core.model_files.safetensors import read_safetensors
from muai_core.model_files.series import check_complete, split_series
from muai_core.planning.architecture import architecture_of
from muai_core.planning.architecture_weights import with_weights
from muai_core.planning.wording import one_line

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
#: Where NVIDIA's ModelOpt says how the weights are packed when config.json does not.
_MODELOPT = "hf_quant_config.json"
_INDEX_MAX_BYTES = 100_000_000
_INDEX_MAX_ENTRIES = 2**20
_MAX_FILES = 10_000
#: As on every file system that models lie on.
NAME_MAX = 255


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


_INDEX_DECODER = msgspec.json.Decoder(_Index)


def describe_folder(folder: Path) -> ModelDescription:
    """From its config.json and its safetensors files. Raises ModelError."""
    tensors = _folder_tensors(folder)
    if tensors is None:
        return describe_config(folder / CONFIG)
    return _described(folder / CONFIG, tensors)


def describe_config(path: Path) -> ModelDescription:
    """From a config.json alone; its tensors are worked out. Raises ModelError."""
    from muai_core.planning.tensors import tensors_of

    architecture = _architecture(path)
    try:
        tensors = tensors_of(architecture)
    except ModelError as error:
        raise type(error)(f"{shown_path(path)}: {error}") from None
    return ModelDescription(architecture=architecture, tensors=tensors, origin="config")


def describe_weights(path: Path) -> ModelDescription:
    """From one safetensors file and the config.json beside it. Raises ModelError."""
    return _described(path.parent / CONFIG, parsed(path, read_safetensors))


def _described(config: Path, tensors: tuple[TensorInfo, ...]) -> ModelDescription:
    architecture = with_weights(_architecture(config), tensors)
    return ModelDescription(architecture=architecture, tensors=tensors, origin="safetensors")


def _architecture(path: Path) -> Architecture:
    config = parsed(path, _read_config)
    if not config.get("quantization_config") and exists(path.parent / _MODELOPT):
        config = {**config, "quantization_config": parsed(path.parent / _MODELOPT, _read_config)}
    try:
        return architecture_of(config)
    except ModelError as error:
        raise type(error)(f"{shown_path(path)}: {error}") from None


def _read_config(file: OpenFile) -> dict[str, Any]:
    return json_object(file.whole(CONFIG_MAX_BYTES))


def _folder_tensors(folder: Path) -> tuple[TensorInfo, ...] | None:
    """None when there are no safetensors files; other formats do not tell sizes without loading.

    The index decides which files count; without one, `model.safetensors`; without that, all shards
    (`…-00001-of-00003.safetensors`), each of which has to be there.
    """
    if exists(folder / INDEX):
        weight_map = parsed(folder / INDEX, _read_index)
        return _indexed(folder, weight_map)
    if exists(folder / WEIGHTS):
        return parsed(folder / WEIGHTS, read_safetensors)
    names = _shards(folder)
    return _merged(folder, names) if names else None


def _read_index(file: OpenFile) -> dict[str, str]:
    text = file.whole(_INDEX_MAX_BYTES)
    if text.count(b":") > _INDEX_MAX_ENTRIES:
        raise ModelError(f"it has too many entries: allowed are {_INDEX_MAX_ENTRIES:,}")
    try:
        return _INDEX_DECODER.decode(text).weight_map
    except RecursionError:
        raise ModelError("its JSON is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = one_line(str(error), 120)
        raise ModelError(f"it is not an index with a weight_map in JSON ({reason})") from None


def _indexed(folder: Path, weight_map: dict[str, str]) -> tuple[TensorInfo, ...]:
    index = shown_path(folder / INDEX)
    names = sorted(frozenset(weight_map.values()))
    for name in names:
        # No way out of the folder, and no name that would be a path.
        if name in ("", ".", "..") or "/" in name or "\0" in name or len(name) > NAME_MAX:
            raise ModelError(
                f"{index}: weight_map names the file '{one_line(name, 80)}': allowed "
                "are files beside the index"
            )
        if not exists(folder / name):
            raise ModelError(
                f"{shown_path(folder / name)}: is missing: {INDEX} names it; download it, too"
            )
    if not names:
        raise ModelError(f"{index}: weight_map is empty: needed is a file for each tensor")
    if len(names) > _MAX_FILES:
        raise ModelError(
            f"{index}: weight_map names {len(names):,} files: allowed are {_MAX_FILES:,}"
        )
    found = []
    for name in names:
        for tensor in parsed(folder / name, read_safetensors):
            # A copy in another file, or one that the index leaves out, is not loaded.
            if weight_map.get(tensor.name) == name:
                found.append(tensor)
    if len(found) != len(weight_map):
        here = frozenset(tensor.name for tensor in found)
        missing = next(name for name in weight_map if name not in here)
        path = shown_path(folder / weight_map[missing])
        raise ModelError(f"{path}: has no tensor '{one_line(missing, 80)}': {INDEX} says it has")
    return tuple(found)


def _shards(folder: Path) -> tuple[str, ...]:
    """Names of weights without an index; a series is complete, or ModelError says what lacks."""
    names = [
        path.name
        for path in listed(folder)
        if path.name.endswith(".safetensors")
        and not path.name.startswith(("adapter_", "consolidated", "training_", "optimizer"))
    ]
    for name in names:
        series = split_series(name, ".safetensors")
        if series is not None:
            check_complete(folder, series)
            return series
    return tuple(names)


def _merged(folder: Path, names: tuple[str, ...]) -> tuple[TensorInfo, ...]:
    found: dict[str, TensorInfo] = {}
    for name in names:
        for tensor in parsed(folder / name, read_safetensors):
            if tensor.name in found:
                raise ModelError(
                    f"{shown_path(folder / name)}: has tensor '{one_line(tensor.name, 80)}', which "
                    f"another file has, too: needed is {INDEX}"
                )
            found[tensor.name] = tensor
    return tuple(found.values())
