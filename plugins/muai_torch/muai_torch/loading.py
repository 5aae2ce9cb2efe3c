"""Loads weights and tokenizer, and keeps unpacked GGUF weights for the next start."""

import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import torch
import transformers
from msgspec import Struct, structs
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from muai_torch.acceleration import accelerate
from muai_torch.cpu import cpu_has_bfloat16
from muai_torch.model import LoadedModel
from muai_torch.source import ModelSource, SourceError

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
CACHE_SHARE_OF_FREE_DISK = 0.25

_logger = logging.getLogger(__name__)


class LoadOptions(Struct, frozen=True, kw_only=True):
    """How to load. `cache_folder` None: unpack GGUF files anew at every start."""

    source: ModelSource
    dtype: DtypeName = "auto"
    device: str = "cpu"
    trust_remote_code: bool = False
    cache_folder: Path | None = None


def default_cache_folder() -> Path:
    """`$XDG_CACHE_HOME/muai/unpacked`, by default under `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "muai" / "unpacked"


def load(options: LoadOptions) -> LoadedModel:
    """Loads in the calling thread; seconds to minutes. Raises what transformers raises."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    dtype = choose_dtype(options.dtype, options.device)
    if options.source.gguf_file is None:
        return _from_folder(str(options.source.folder), dtype, options)
    unpacked = _unpacked_folder(options, dtype)
    if unpacked is not None and unpacked.is_dir():
        _logger.info("using the unpacked weights in %s", unpacked)
        return _from_folder(str(unpacked), dtype, options)
    return _from_gguf(options, dtype, unpacked)


def folder_of(options: LoadOptions) -> Path:
    """The Hugging Face folder of the source; a GGUF file is unpacked into the cache folder first.

    Raises `SourceError` when the unpacked weights cannot be kept, and what transformers raises.
    """
    if options.source.gguf_file is None:
        return options.source.folder
    dtype = choose_dtype(options.dtype, options.device)
    unpacked = _unpacked_folder(options, dtype)
    if unpacked is not None and not unpacked.is_dir():
        disable_progress_bar()  # type: ignore[no-untyped-call]
        _from_gguf(structs.replace(options, device="cpu"), dtype, unpacked)
    if unpacked is None or not unpacked.is_dir():
        raise SourceError(f"{options.source.gguf_path}: its unpacked weights could not be kept")
    return unpacked


def choose_dtype(name: DtypeName, device: str) -> torch.dtype:
    """`auto` is bfloat16 where the device computes in it natively, else float32."""
    if name != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[name]
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    return torch.bfloat16 if cpu_has_bfloat16() else torch.float32


def _from_folder(name: str, dtype: torch.dtype, options: LoadOptions) -> LoadedModel:
    trust = options.trust_remote_code
    network = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, trust_remote_code=trust)
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust)
    return _ready(network, tokenizer, options)


def _from_gguf(options: LoadOptions, dtype: torch.dtype, unpacked: Path | None) -> LoadedModel:
    from transformers.utils.quantization_config import GgufConfig

    folder, gguf_file = str(options.source.folder), options.source.gguf_file
    network = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=gguf_file,
        dtype=dtype,
        quantization_config=GgufConfig(dequantize=True),  # else the weights stay packed
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    if unpacked is not None:
        _keep(network, tokenizer, unpacked)
    return _ready(network, tokenizer, options)


def _ready(
    network: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    options: LoadOptions,
) -> LoadedModel:
    torch.nn.Module.to(network, options.device).train(False)
    accelerate(network)
    return LoadedModel(network, tokenizer)


def _unpacked_folder(options: LoadOptions, dtype: torch.dtype) -> Path | None:
    path = options.source.gguf_path
    if options.cache_folder is None or path is None:
        return None
    facts = path.stat()
    identity = [str(path.resolve()), facts.st_size, facts.st_mtime_ns, transformers.__version__]
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    return options.cache_folder / f"{path.stem}-{str(dtype).removeprefix('torch.')}-{digest}"


def _keep(
    network: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    unpacked: Path,
) -> None:
    """Writes beside the target and renames, so that a folder that exists is complete."""
    size_bytes = sum(p.numel() * p.element_size() for p in network.parameters())
    staging = None
    try:
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        if size_bytes > CACHE_SHARE_OF_FREE_DISK * shutil.disk_usage(unpacked.parent).free:
            _logger.info("too little disk to keep %d bytes of unpacked weights", size_bytes)
            return
        staging = Path(tempfile.mkdtemp(dir=unpacked.parent, prefix=".staging-"))
        network.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        staging.rename(unpacked)
        _logger.info("kept the unpacked weights in %s", unpacked)
    except OSError as error:  # a full disk or another worker that was first: serve anyway
        _logger.warning("did not keep the unpacked weights: %s", error)
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
