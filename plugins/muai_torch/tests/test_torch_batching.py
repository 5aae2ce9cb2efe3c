"""A sequence gets the tokens it would get alone, whoever shares its batch."""

import random
from collections.abc import Iterable

import pytest
import torch
from muai_torch.batching import Batcher
from muai_torch.model import LoadedModel
from muai_torch.sequence import Chooser, Limits, Sequence

from muai_core.engine_server.protocol import Delta
from muai_core.engine_server.stop import TextStream

ROOMY = Limits(max_num_seqs=16, max_model_len=512, budget_tokens=16 * 512)


def sequence(
    model: LoadedModel, key: int, prompt: list[int], new: int, chooser: Chooser | None = None
) -> Sequence:
    return Sequence(
        key,
        prompt,
        max_new_tokens=new,
        chooser=chooser or Chooser(0, 1, random.Random(0)),
        text=TextStream(lambda ids: model.tokenizer.decode(ids), ()),
        ignore_eos=True,
    )


def generate_alone(model: LoadedModel, prompt: list[int], new: int) -> list[int]:
    """The reference: transformers' own greedy generation of one prompt."""
    output = model.network.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        min_new_tokens=None,
        max_new_tokens=new,
        eos_token_id=None,
        pad_token_id=0,
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


def collect(batcher: Batcher, into: dict[int, list[int]], steps: int = 10_000) -> None:
    for _ in range(steps):
        if not batcher.has_work:
            return
        for key, delta in batcher.step():
            into.setdefault(key, []).extend(delta.token_ids)


def mixed_prompts(lengths: Iterable[int], vocabulary: int) -> list[list[int]]:
    chance = random.Random(11)
    return [[chance.randrange(vocabulary) for _ in range(length)] for length in lengths]


LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 7, 60, 4, 300)


def test_one_sequence_equals_generate(tiny_model: LoadedModel) -> None:
    prompt = mixed_prompts([20], 256)[0]
    batcher, got = Batcher(tiny_model, ROOMY), {}
    batcher.add(sequence(tiny_model, 0, prompt, 40))
    collect(batcher, got)
    assert got[0] == generate_alone(tiny_model, prompt, 40)


def test_sixteen_mixed_lengths_equal_generate(tiny_model: LoadedModel) -> None:
    prompts = mixed_prompts(LENGTHS, 256)
    batcher, got = Batcher(tiny_model, ROOMY), {}
    for key, prompt in enumerate(prompts):
        batcher.add(sequence(tiny_model, key, prompt, 30 + key))
    collect(batcher, got)
    for key, prompt in enumerate(prompts):
        assert got[key] == generate_alone(tiny_model, prompt, 30 + key), f"prompt {key}"


@pytest.mark.parametrize("seed", range(4))
def test_joining_leaving_and_aborting_disturb_nobody(tiny_model: LoadedModel, seed: int) -> None:
    """Sequences come and go at random; a small budget and small chunks force every path."""
    chance = random.Random(seed)
    limits = Limits(max_num_seqs=5, max_model_len=400, budget_tokens=600, prefill_tokens=48)
    batcher, got = Batcher(tiny_model, limits), {}
    prompts = mixed_prompts([chance.randrange(1, 200) for _ in range(14)], 256)
    news = [chance.randrange(1, 60) for _ in prompts]
    aborted = set()
    for key, prompt in enumerate(prompts):
        batcher.add(sequence(tiny_model, key, prompt, news[key]))
        collect(batcher, got, steps=chance.randrange(12))
        if chance.random() < 0.3:
            victim = chance.randrange(key + 1)
            if len(got.get(victim, ())) < news[victim]:
                batcher.abort(victim)
                aborted.add(victim)
    collect(batcher, got)
    assert not batcher.has_work
    for key, prompt in enumerate(prompts):
        wanted = generate_alone(tiny_model, prompt, news[key])
        tokens = got.get(key, [])
        assert tokens == (wanted[: len(tokens)] if key in aborted else wanted), f"prompt {key}"


def test_preempted_sequences_finish_unchanged(tiny_model: LoadedModel) -> None:
    """Two sequences that fit at first and cannot both stay when they grow."""
    prompts = mixed_prompts([100, 90], 256)
    limits = Limits(max_num_seqs=2, max_model_len=256, budget_tokens=300)
    batcher, got = Batcher(tiny_model, limits), {}
    for key, prompt in enumerate(prompts):
        batcher.add(sequence(tiny_model, key, prompt, 120))
    collect(batcher, got, steps=5)
    assert len(batcher.running) == 2
    collect(batcher, got, steps=60)
    assert len(batcher.running) == 1
    collect(batcher, got)
    for key, prompt in enumerate(prompts):
        assert got[key] == generate_alone(tiny_model, prompt, 120)


def test_a_seed_draws_the_same_tokens_alone_and_in_company(tiny_model: LoadedModel) -> None:
    def seeded(key: int) -> Sequence:
        chooser = Chooser(0.9, 0.8, random.Random(5))
        return sequence(tiny_model, key, [1, 2, 3], 40, chooser)

    alone, company = {}, {}
    batcher = Batcher(tiny_model, ROOMY)
    batcher.add(seeded(0))
    collect(batcher, alone)
    for key, prompt in enumerate(mixed_prompts(LENGTHS[:8], 256), start=1):
        chooser = Chooser(1, 1, random.Random(key))
        batcher.add(sequence(tiny_model, key, prompt, 50, chooser))
    collect(batcher, company, steps=3)
    batcher.add(seeded(0))
    collect(batcher, company)
    assert company[0] == alone[0]
    assert len(set(alone[0])) > 5


def test_progress_counts_every_token(tiny_model: LoadedModel) -> None:
    batcher, got = Batcher(tiny_model, ROOMY), {}
    for key in range(3):
        batcher.add(sequence(tiny_model, key, [key], 10))
    collect(batcher, got)
    assert batcher.tokens_generated == 30
    assert not batcher.running


def test_end_of_sequence_and_stop_strings(tiny_model: LoadedModel) -> None:
    prompt = mixed_prompts([12], 256)[0]
    tokens = generate_alone(tiny_model, prompt, 30)
    text = tiny_model.tokenizer.decode(tokens)
    stop = text[10:13]
    stopping = sequence(tiny_model, 0, prompt, 30)
    stopping.text = TextStream(lambda ids: tiny_model.tokenizer.decode(ids), [stop])
    batcher = Batcher(tiny_model, ROOMY)
    batcher.add(stopping)
    deltas: list[Delta] = []
    while batcher.has_work:
        deltas += [delta for _, delta in batcher.step()]
    assert "".join(d.text for d in deltas) == text[: text.index(stop)]
    assert deltas[-1].finish_reason == "stop"
    assert [d.finish_reason for d in deltas[:-1]] == [None] * (len(deltas) - 1)


@pytest.mark.timeout(600)
def test_smollm2_eight_mixed_lengths_equal_generate(smollm2_model: LoadedModel) -> None:
    words = [
        "The",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "the",
        "lazy",
        "dog",
        "while",
        "seven",
        "wizards",
        "watch.",
    ]
    questions = ["What is the capital of France?"] + [
        f"Question {n}: {' '.join((words * 20)[: 3 + 4 * n * n])} Explain." for n in range(7)
    ]
    tokenizer = smollm2_model.tokenizer
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": q}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for q in questions
    ]
    batcher, got = Batcher(smollm2_model, ROOMY), {}
    for key, prompt in enumerate(prompts):
        batcher.add(sequence(smollm2_model, key, prompt, 8))
    collect(batcher, got)
    assert tokenizer.decode(got[0][:7]) == "The capital of France is Paris."
    for key, prompt in enumerate(prompts):
        assert got[key] == generate_alone(smollm2_model, prompt, 8), questions[key]
