"""Whether a model that DeepSpeed splits is wrong, or only rounds in another order.

    python tools/shard_rounding.py FOLDER [--shards 3] [--tokens 32]

FOLDER is a Hugging Face folder, e.g. one that tools/unpack_model.py has written. Six greedy texts
are made in float32; then every position of them is computed in float64, float32 and bfloat16 in one
process, and in float32 and bfloat16 over shards on the CPU. Prints by how much the best logit leads
at each position, marked where another token is best than in float64, and a table of errors. Takes
about 1 minute with SmolLM2-135M on 2 cores. Needs plugins/muai_deepspeed.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(DS_ACCELERATOR="cpu", TQDM_DISABLE="1", HF_HUB_OFFLINE="1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = (
    "The capital of France is",
    "Water boils when",
    "Once upon a time there was a",
    "def fibonacci(n):",
    "The three primary colors are",
    "My favorite book is about",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Texts = list[tuple[list[int], list[int]]]


@torch.inference_mode()
def write(network: Any, prompts: list[list[int]], count: int) -> Texts:
    """Each prompt with the greedy tokens after it."""
    texts = []
    for prompt in prompts:
        made = network.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=count, pad_token_id=0
        )
        texts.append((prompt, made[0, len(prompt) :].tolist()))
    return texts


@torch.inference_mode()
def logits_of(network: Any, texts: Texts) -> torch.Tensor:
    """What the model says before each token of the texts, (positions, vocabulary)."""
    rows = []
    for prompt, made in texts:
        ids = torch.tensor([[*prompt, *made[:-1]]])
        rows.append(network(input_ids=ids).logits[0, len(prompt) - 1 :])
    return torch.cat(rows)


def load(folder: Path, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype).train(False)


def run_shard(folder: Path, shard: int, shards: int, port: int, desk: Path) -> None:
    """In a process of its own; shard 0 leaves the logits on the desk."""
    from muai_deepspeed import parallel, ranks
    from muai_deepspeed.place import Place
    from muai_deepspeed.stage import StageOptions, build, own_weights

    torch.set_num_threads(1)
    whole = Place(rank=shard, shards=shards, layers=(1,))
    parallel.prepare_environment(whole, 0)
    ranks.join_group(whole, ranks.meet(whole, port), "gloo", 300)
    texts: Texts = torch.load(desk / "texts")
    layers: int = torch.load(desk / "layers")
    for name, dtype in DTYPES.items():
        network, views = build(StageOptions(folder=folder, begin=0, end=layers, dtype=dtype))
        cut = parallel.cut(network, whole, dtype)
        own_weights(cut, views)
        logits = logits_of(cut, texts)
        if shard == 0:
            torch.save(logits, desk / name)


def split_logits(folder: Path, shards: int, texts: Texts, layers: int) -> dict[str, torch.Tensor]:
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        desk = Path(name)
        torch.save(texts, desk / "texts")
        torch.save(layers, desk / "layers")
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        command = [sys.executable, __file__, str(folder), "--shards", str(shards)]
        command += ["--port", port, "--desk", name]
        processes = [
            subprocess.Popen([*command, "--shard", str(shard)], stdout=subprocess.DEVNULL)
            for shard in range(shards)
        ]
        statuses = [process.wait() for process in processes]
        if any(statuses):
            raise SystemExit("a shard failed")
        return {dtype: torch.load(desk / dtype) for dtype in DTYPES}


def report(truth: torch.Tensor, found: dict[str, torch.Tensor], tokens: list[str]) -> None:
    best = truth.argmax(dim=-1)
    print("leads of the best logit over the second; * another token is best than in float64\n")
    print(f"{'token':>14} {'float64':>9}", *(f"{name:>18}" for name in found))
    leads = {name: _lead(logits) for name, logits in [("", truth), *found.items()]}
    for n, token in enumerate(tokens):
        words = [
            f"{leads[name][n]:>17.4f}{'*' if logits[n].argmax() != best[n] else ' '}"
            for name, logits in found.items()
        ]
        print(f"{token!r:>14} {leads[''][n]:>9.4f}", *words)
    print(
        f"\nmedian lead {leads[''].median():.2f}; errors of rows of logits, relative to float64:\n"
    )
    print("\n| | mean | largest | mean of a logit | other best token | float64's lead there |")
    print("|---|---|---|---|---|---|")
    for name, logits in found.items():
        difference = logits.double() - truth
        error = difference.norm(dim=-1) / truth.norm(dim=-1)
        other = (logits.argmax(dim=-1) != best).nonzero()[:, 0]
        there = ", ".join(f"{leads[''][n]:.3f}" for n in other) or "-"
        print(
            f"| {name} | {error.mean():.2g} | {error.max():.2g} | {difference.abs().mean():.2g} "
            f"| {len(other)} of {len(best)} | {there} |"
        )


def _lead(logits: torch.Tensor) -> torch.Tensor:
    first, second = logits.double().topk(2, dim=-1).values.unbind(dim=-1)
    return first - second


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="of each text")
    for name, kind in (("--shard", int), ("--port", int), ("--desk", Path)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder, shards = arguments.folder, arguments.shards
    if arguments.shard is not None:
        run_shard(folder, arguments.shard, shards, arguments.port, arguments.desk)
        return
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    prompts = [list(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    network = load(folder, torch.float32)
    texts = write(network, prompts, arguments.tokens)
    found = {"float32, 1": logits_of(network, texts)}
    truth = logits_of(load(folder, torch.float64), texts)
    split = split_logits(folder, shards, texts, network.config.num_hidden_layers)
    found[f"float32, {shards}"] = split["float32"]
    found["bfloat16, 1"] = logits_of(load(folder, torch.bfloat16), texts)
    found[f"bfloat16, {shards}"] = split["bfloat16"]
    tokens = [str(tokenizer.decode([token])) for _, made in texts for token in made]
    report(truth, found, tokens)


if __name__ == "__main__":
    main()
