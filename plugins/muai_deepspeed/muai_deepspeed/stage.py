"""The layers of one pipeline stage: built without weights, cut out, and filled from the files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from msgspec import Struct
from muai_torch.model import mask_maker, padded
from muai_torch.passes import Pass
from muai_torch.slots import Batch, Shape, SlotCache
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel


class RefusedError(Exception):
    """This model cannot be served in this shape; the text says why."""


class StageOptions(Struct, frozen=True, kw_only=True):
    """What to load: layers `begin` to `end` (exclusive) of the model in `folder`."""

    folder: Path
    begin: int
    end: int
    dtype: torch.dtype
    trust_remote_code: bool = False


class Stage:
    """A stage with its weights. Gets tokens or hidden states, gives hidden states or logits."""

    def __init__(self, network: PreTrainedModel, *, is_first: bool, is_last: bool) -> None:
        self.network = network
        self.is_first, self.is_last = is_first, is_last
        parameter = next(network.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        config = network.config.get_text_config(decoder=True)
        self.num_layers: int = config.num_hidden_layers
        self._make_masks = mask_maker(config)

    def run(self, step: Pass, cache: SlotCache, hidden: torch.Tensor | None) -> torch.Tensor:
        """Hidden states, (rows, width, hidden size), or of the last stage the wanted logits."""
        counts = [len(tokens) for tokens in step.tokens]
        batch = cache.batch = Batch(step.rows, step.starts, counts, self.device)
        common = {
            "attention_mask": self._make_masks(batch, self.dtype),
            "position_ids": batch.positions,
            "past_key_values": cache,
            "use_cache": True,
        }
        if self.is_first:
            common["input_ids"] = padded(step.tokens, batch)
        else:
            assert hidden is not None
            common["inputs_embeds"] = hidden.to(self.device)
        if not self.is_last:
            states: torch.Tensor = self.network.model(**common).last_hidden_state
            return states
        logits = self.network(**common, logits_to_keep=1).logits[:, -1]
        if len(step.wanted) < len(step.rows):
            logits = logits[step.wanted]
        return cast("torch.Tensor", logits.float())

    def cache(self) -> SlotCache:
        return SlotCache(self.num_layers, Shape(0, 0))


def read_config(folder: Path, trust_remote_code: bool = False) -> PreTrainedConfig:
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    return cast("PreTrainedConfig", config)


def build(options: StageOptions) -> tuple[PreTrainedModel, frozenset[int]]:
    """The network of a stage with its weights, whole heads, on the CPU, in eval mode.

    Weights are views of the files where they have the wanted dtype: ranks on one machine share
    their pages until each has cut out its part. The second result are the addresses of the views,
    for `own_weights`. Raises `RefusedError`.
    """
    config = read_config(options.folder, options.trust_remote_code)
    with init_empty_weights(include_buffers=False):
        make: Any = AutoModelForCausalLM.from_config
        network: PreTrainedModel = make(
            config, dtype=options.dtype, trust_remote_code=options.trust_remote_code
        )
    _cut_out(network, options)
    files = _Files(options.folder)
    named = dict(_sources(network, files, options.begin))
    if all(named.values()):
        views = _fill(network, cast("dict[str, str]", named), files, options.dtype)
    else:  # the files name or pack the weights in another way: transformers knows how to convert
        network = AutoModelForCausalLM.from_pretrained(
            str(options.folder), dtype=options.dtype, trust_remote_code=options.trust_remote_code
        )
        _cut_out(network, options)
        views = frozenset()
    return network.train(False), views


def own_weights(network: nn.Module, views: frozenset[int]) -> None:
    """Copies what is still a view of a file; tied weights once."""
    for parameter in network.parameters():
        if parameter.data_ptr() in views:
            parameter.data = parameter.data.clone()


def _cut_out(network: PreTrainedModel, options: StageOptions) -> None:
    config = network.config.get_text_config(decoder=True)
    total: int = config.num_hidden_layers
    begin, end = options.begin, options.end
    if not 0 <= begin < end <= total:
        raise RefusedError(f"layers {begin} to {end - 1} were asked for; the model has {total}")
    if end - begin == total:
        return
    decoder = getattr(network, "model", None)
    parts = [getattr(decoder, name, None) for name in ("embed_tokens", "layers", "norm")]
    if any(part is None for part in parts) or not hasattr(network, "lm_head"):
        raise RefusedError(
            f"{type(network).__name__} does not have the parts that pipeline stages are made of "
            "(model.embed_tokens, model.layers, model.norm, lm_head); use pipeline_parallel_size 1"
        )
    assert decoder is not None
    decoder.layers = nn.ModuleList(decoder.layers[begin:end])
    for module in decoder.layers.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            module.layer_idx -= begin  # the cache of the stage begins with its first layer
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == total:
            setattr(config, name, value[begin:end])
    config.num_hidden_layers = end - begin
    if begin > 0:
        decoder.embed_tokens = nn.Identity()
    if end < total:
        decoder.norm = nn.Identity()
        network.lm_head = nn.Identity()


class _Files:
    """The tensors of a folder's safetensors files, by name."""

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            listed: dict[str, str] = json.loads(index.read_text())["weight_map"]
            names = sorted(set(listed.values()))
        else:
            names = sorted(path.name for path in folder.glob("*.safetensors"))
        if not names:
            raise RefusedError(f"{folder}: has no .safetensors files")
        self._files: list[Any] = [safe_open(folder / name, framework="pt") for name in names]
        self._file_of = {key: file for file in self._files for key in file.keys()}  # noqa: SIM118

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def read(self, name: str) -> torch.Tensor:
        return cast("torch.Tensor", self._file_of[name].get_tensor(name))


def _sources(
    network: PreTrainedModel, files: _Files, begin: int
) -> Iterator[tuple[str, str | None]]:
    """For every weight its name in the files; None: it has none."""
    tied: Any = getattr(network, "_tied_weights_keys", None) or {}
    for name in network.state_dict():
        source = re.sub(
            r"(^|\.)layers\.(\d+)\.",
            lambda found: f"{found[1]}layers.{int(found[2]) + begin}.",
            name,
            count=1,
        )
        if source not in files and isinstance(tied, dict) and name in tied:
            source = tied[name]
        yield name, source if source in files else None


def _fill(
    network: PreTrainedModel, named: dict[str, str], files: _Files, dtype: torch.dtype
) -> frozenset[int]:
    filled: dict[str, nn.Parameter] = {}
    for name, source in named.items():
        owner, _, leaf = name.rpartition(".")
        module = network.get_submodule(owner)
        value = files.read(source)
        if value.is_floating_point():
            value = value.to(dtype)
        expected = getattr(module, leaf).shape
        if value.shape != expected:
            raise RefusedError(
                f"{source} has shape {tuple(value.shape)}, config.json makes it {tuple(expected)}"
            )
        if leaf in module._buffers:
            module._buffers[leaf] = value
            continue
        if source not in filled:
            filled[source] = nn.Parameter(value, requires_grad=False)
        module._parameters[leaf] = filled[source]
    return frozenset(parameter.data_ptr() for parameter in filled.values())
