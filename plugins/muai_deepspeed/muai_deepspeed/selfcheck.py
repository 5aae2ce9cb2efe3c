"""Whether the split model computes what the whole model computes, asked once at the start."""

import logging
from pathlib import Path

import psutil
import torch
from muai_torch.passes import Pass, PassExecutor
from muai_torch.slots import Shape
from transformers import AutoModelForCausalLM

from muai_deepspeed.stage import RefusedError, Stage, StageOptions, build, own_weights

TOKENS = 12
#: Relative errors of whole rows of logits, root mean square. Splitting changes the order of sums
#: only: 4e-6 in float32, up to 0.06 in bfloat16 over 30 layers (README, "bfloat16"); float16 has
#: three bits more. A model that is split wrongly is off by about 1.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}

_logger = logging.getLogger(__name__)


def prompt_of(vocabulary: int) -> list[int]:
    """Some tokens, the same every time, spread over the vocabulary."""
    return [(7919 * (n + 1)) % vocabulary for n in range(TOKENS)]


@torch.inference_mode()
def split_logits(executor: PassExecutor, prompt: list[int]) -> torch.Tensor:
    """After the prompt without its last token, and after all of it from the cache; two rows."""
    executor.resize(Shape(1, len(prompt)), Shape(0, 0))
    executor.submit(Pass([0], [0], [prompt[:-1]], [0]))
    executor.submit(Pass([0], [len(prompt) - 1], [prompt[-1:]], [0]))
    return torch.cat([executor.collect(), executor.collect()])


@torch.inference_mode()
def whole_logits(folder: Path, dtype: torch.dtype, prompt: list[int], trust: bool) -> torch.Tensor:
    """The same from transformers' own model in this process, without a cache."""
    network = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype, trust_remote_code=trust
    ).train(False)
    logits: torch.Tensor = network(input_ids=torch.tensor([prompt])).logits[0, -2:].float()
    return logits


@torch.inference_mode()
def layered_logits(options: StageOptions, layers: int, prompt: list[int]) -> torch.Tensor:
    """The same, one layer in memory at a time."""
    ends = range(1, layers + 1)
    rows: list[torch.Tensor] = []
    for length in (len(prompt) - 1, len(prompt)):
        hidden: torch.Tensor | None = None
        step = Pass([0], [0], [prompt[:length]], [0])
        for end in ends:
            part = StageOptions(
                folder=options.folder,
                begin=end - 1,
                end=end,
                dtype=options.dtype,
                trust_remote_code=options.trust_remote_code,
            )
            network, views = build(part)
            own_weights(network, views)
            stage = Stage(network, is_first=end == 1, is_last=end == layers)
            cache = stage.cache()
            cache.resize(Shape(1, len(prompt)), Shape(0, 0))
            hidden = stage.run(step, cache, hidden)
        assert hidden is not None
        rows.append(hidden)
    return torch.cat(rows)


def relative_error(split: torch.Tensor, whole: torch.Tensor) -> float:
    """The largest of the rows' relative errors; a constant added to a row changes nothing."""
    split, whole = split.double().cpu(), whole.double().cpu()
    split, whole = (x - x.mean(dim=-1, keepdim=True) for x in (split, whole))
    error = (split - whole).norm(dim=-1) / whole.norm(dim=-1).clamp(min=1e-30)
    return float(error.max())


def check(
    executor: PassExecutor, options: StageOptions, layers: int, vocabulary: int, shape: str
) -> None:
    """Compares; seconds for small models, about the time of a start for large ones.

    Raises `RefusedError` when the logits differ by more than rounding.
    """
    prompt = prompt_of(vocabulary)
    try:
        split = split_logits(executor, prompt)
    except (RuntimeError, TypeError, AttributeError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise RefusedError(f"the model does not run with {shape}: {reason}") from error
    if _fits(options):
        trust = options.trust_remote_code
        whole = whole_logits(options.folder, options.dtype, prompt, trust)
    else:
        whole = layered_logits(options, layers, prompt)
    difference = relative_error(split, whole)
    tolerance = TOLERANCE[options.dtype]
    _logger.info(
        "self-check: logits with %s differ by %.2g of those of one process", shape, difference
    )
    if not difference <= tolerance:
        raise RefusedError(
            f"with {shape} the logits differ by {difference:.2g} of those of one process, "
            f"at most {tolerance:g} is rounding: this model cannot be split this way; "
            "use tensor_parallel_size 1 and pipeline_parallel_size 1, or another engine"
        )


def _fits(options: StageOptions) -> bool:
    files_bytes = sum(path.stat().st_size for path in options.folder.glob("*.safetensors"))
    widened = 2 if options.dtype == torch.float32 else 1
    return bool(widened * files_bytes < psutil.virtual_memory().available // 2)
