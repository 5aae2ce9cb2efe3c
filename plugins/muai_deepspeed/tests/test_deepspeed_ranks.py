"""Real ranks: split over processes, a model generates the tokens that it generates in one."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from muai_torch.testing import save_random_model
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.alone

SHAPES = ((1, 1), (2, 1), (1, 2), (2, 2))
WINDOWED = {"sliding_window": 16, "head_dim": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Gemma2": {**WINDOWED, "query_pre_attn_scalar": 16},
}
LENGTHS = (1, 9, 30, 61, 100)
NEW = 16


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    chance = random.Random(3)
    return [[chance.randrange(256) for _ in range(length)] for length in LENGTHS]


def generate_whole(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    """The reference: transformers' own greedy generation of one prompt, in this process."""
    network = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    wanted = []
    for prompt in prompts:
        output = network.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=NEW,
            eos_token_id=None,
            pad_token_id=0,
        )
        wanted.append(output[0, len(prompt) :].tolist())
    return wanted


# Every shape with Llama, sliding windows where both ways of splitting meet; every family in every
# shape is in test_deepspeed_families.py.
CASES = [("Llama", shape) for shape in SHAPES] + [("Gemma2", (2, 2))]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_tokens_equal_those_of_one_process_alone_and_together(
    name: str, shape: tuple[int, int], tmp_path: Path, prompts: list[list[int]], start: Any
) -> None:
    folder = save_random_model(tmp_path / name, name, num_hidden_layers=4, **ARCHITECTURES[name])
    wanted = generate_whole(folder, prompts)
    ranks = start(folder, *shape)
    ranks.wait_ready()
    assert [ranks.complete(prompt, NEW) for prompt in prompts] == wanted
    with ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(lambda prompt: ranks.complete(prompt, NEW), prompts)) == wanted
    assert set(ranks.stop()) == {0}, ranks.log.read_text()
    assert "Traceback" not in ranks.log.read_text()
    addresses = [f"_{ranks.master_port}_", f"-{ranks.master_port}-"]
    left = [path.name for path in Path("/dev/shm").iterdir()]
    assert not [name for name in left if any(address in name for address in addresses)]


@pytest.fixture(scope="module")
def pair(module_start: Any, tiny_folder: Path) -> Any:
    """Two stages that serve."""
    ranks = module_start(tiny_folder, 1, 2, "--layers", "3,1")
    ranks.wait_ready()
    return ranks


def test_an_idle_pipeline_burns_nothing(pair: Any) -> None:
    """Followers wait for words on a socket: no thread of theirs uses the CPU meanwhile."""
    pair.complete([1, 2, 3], 4)
    rank = psutil.Process(pair.processes[1].pid)
    before = sum(rank.cpu_times()[:2])
    for _ in range(30):  # rank 0 works, rank 1 is not asked for anything
        pair.client().models.list()
    assert sum(rank.cpu_times()[:2]) - before < 0.1


def test_seeds_stop_strings_and_logprobs(pair: Any) -> None:
    client = pair.client()
    ask = {"model": "tiny", "prompt": "abc", "max_tokens": 30}
    drawn = [
        client.completions.create(**ask, temperature=1, seed=seed).choices[0].text
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    text = client.completions.create(**ask, temperature=0).choices[0].text
    stop = next(char for char in text[5:] if char.isprintable())
    stopped = client.completions.create(**ask, temperature=0, stop=stop).choices[0]
    assert (stopped.text, stopped.finish_reason) == (text[: text.index(stop)], "stop")
    scored = client.completions.create(**ask, temperature=0, logprobs=2).choices[0]
    assert len(scored.logprobs.token_logprobs) == len(scored.logprobs.tokens) > 0
    assert max(scored.logprobs.token_logprobs) <= 0
    chunks = list(client.completions.create(**ask, temperature=0, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == text


@pytest.mark.parametrize("victim", [0, 3])
def test_when_one_rank_dies_all_end(victim: int, tiny_folder: Path, start: Any) -> None:
    ranks = start(tiny_folder, 2, 2)
    ranks.wait_ready()
    ranks.processes[victim].kill()
    statuses = ranks.wait_ended(20)
    assert statuses[victim] == -9
    assert [s for rank, s in enumerate(statuses) if rank != victim] == [1, 1, 1]
    assert "muai_deepspeed: lost rank" in ranks.log.read_text()


def test_a_family_that_splits_wrongly_is_refused(tmp_path: Path, start: Any) -> None:
    folder = save_random_model(tmp_path / "phi3", "Phi3", pad_token_id=0)
    ranks = start(folder, 2, 1)
    assert ranks.wait_ended() == [1, 1]
    assert "muai_deepspeed: refused: model_type phi3" in ranks.log.read_text()


def test_the_self_check_finds_what_no_list_names(tmp_path: Path, start: Any) -> None:
    """Granite scales its embeddings in the model's forward: a second stage does it once more."""
    folder = save_random_model(
        tmp_path / "granite", "Granite", num_hidden_layers=2, embedding_multiplier=12.0
    )
    ranks = start(folder, 1, 2)
    assert set(ranks.wait_ended()) == {1}
    assert "muai_deepspeed: refused: with tensor_parallel_size 1" in ranks.log.read_text()


def test_the_self_check_lets_pass_what_is_right(tmp_path: Path, start: Any) -> None:
    folder = save_random_model(tmp_path / "smol", "SmolLM3", num_hidden_layers=4, pad_token_id=0)
    ranks = start(folder, 2, 2)
    ranks.wait_ready()
    assert "self-check: logits with tensor_parallel_size 2" in ranks.log.read_text()
