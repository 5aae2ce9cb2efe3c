"""One of two shards that tries models; a pipeline's stages follow each other in its process.

`python split_families.py SHARD PORT FOLDER...` prints a line of JSON for each folder and shape:
whether greedy tokens are those of one process, and the relative error of their logits.
"""

import json
import logging
import os
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from muai_deepspeed import parallel, ranks
from muai_deepspeed.place import Place
from muai_deepspeed.selfcheck import relative_error
from muai_deepspeed.stage import Stage, StageOptions, build, own_weights
from muai_torch.passes import Pass
from muai_torch.slots import Shape
from transformers import AutoModelForCausalLM

#: Shards, and the layers of each stage.
SHAPES = ((1, (4,)), (2, (4,)), (1, (2, 2)), (2, (2, 2)))
#: Longer than the sliding windows of the models.
PROMPT = [(31 * n * n + 7 * n) % 256 for n in range(40)]
NEW = 12


def stages_of(folder: Path, shard: int, shards: int, layers: tuple[int, ...]) -> list[Stage]:
    stages = []
    for number in range(len(layers)):
        rank = shards * number + (shard if shards > 1 else 0)
        place = Place(rank=rank, shards=shards, layers=layers)
        begin, end = place.span
        options = StageOptions(folder=folder, begin=begin, end=end, dtype=torch.float32)
        network, views = build(options)
        network = parallel.cut(network, place, options.dtype)
        own_weights(network, views)
        stages.append(Stage(network, is_first=place.is_first, is_last=place.is_last))
    return stages


@torch.inference_mode()
def generate(stages: list[Stage]) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens after the prompt, and the logits that they were chosen by."""
    caches = [stage.cache() for stage in stages]
    for cache in caches:
        cache.resize(Shape(1, len(PROMPT) + NEW), Shape(0, 0))
    tokens, begin, rows = list(PROMPT), 0, []
    for _ in range(NEW):
        state = None
        for stage, cache in zip(stages, caches, strict=True):
            state = stage.run(Pass([0], [begin], [tokens[begin:]], [0]), cache, state)
        assert state is not None
        begin = len(tokens)
        tokens.append(int(state.argmax()))
        rows.append(state)
    return tokens[len(PROMPT) :], torch.cat(rows)


@torch.inference_mode()
def whole_logits(folder: Path, tokens: list[int]) -> torch.Tensor:
    """What one process has to say to the same tokens, without a cache."""
    network = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).train(False)
    ids = torch.tensor([[*PROMPT, *tokens[:-1]]])
    logits: torch.Tensor = network(input_ids=ids).logits[0, -NEW:].float()
    return logits


def main(shard: int, port: int, folders: list[str]) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    place = Place(rank=shard, shards=2, layers=(1,))
    parallel.prepare_environment(place, 0)
    ranks.join_group(place, ranks.meet(place, port), "gloo", 60)
    for folder in folders:
        for shards, layers in SHAPES:
            tokens, logits = generate(stages_of(Path(folder), shard, shards, layers))
            whole = whole_logits(Path(folder), tokens)
            told = {
                "folder": folder,
                "shape": f"{shards}x{len(layers)}",
                "error": relative_error(logits, whole),
                "same_tokens": tokens == whole.argmax(dim=-1).tolist(),
            }
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
