"""Tokens are drawn from the distribution that was asked for."""

import random
from collections import Counter

import pytest
import torch
from muai_torch.sampling import choose, score
from muai_torch.sequence import Chooser


def draws(logits: list[float], count: int, temperature: float, top_p: float) -> Counter[int]:
    chooser = Chooser(temperature, top_p, random.Random(3))
    row = torch.tensor([logits])
    return Counter(choose(row, [chooser])[0] for _ in range(count))


def test_temperature_zero_takes_the_best() -> None:
    assert draws([0.1, 2.0, 1.9], 20, 0, 1) == {1: 20}


def test_frequencies_follow_the_probabilities() -> None:
    probabilities = [0.5, 0.3, 0.15, 0.05]
    seen = draws(torch.tensor(probabilities).log().tolist(), 4000, 1, 1)
    for token, probability in enumerate(probabilities):
        assert seen[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().tolist()
    assert set(draws(logits, 500, 1, 0.5)) == {1}
    assert set(draws(logits, 500, 1, 0.6)) == {1, 3}
    assert set(draws(logits, 500, 1, 0.81)) == {0, 1, 3}
    assert set(draws(logits, 500, 1, 0.99)) == {0, 1, 2, 3}


def test_top_p_over_a_flat_vocabulary_needs_more_than_the_first_candidates() -> None:
    seen = draws([0.0] * 1000, 3000, 1, 0.9)
    assert 600 < len(seen) <= 901


def test_tiny_temperatures_do_not_overflow() -> None:
    assert set(draws([5.0, 6.0, 4.0], 20, 1e-30, 1)) == {1}


def test_rows_keep_their_own_settings_and_draws() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))

    def row(number: int, seed: int) -> Chooser:
        return Chooser((0, 0.7, 1, 1.3)[number], (1, 0.5, 1, 0.9)[number], random.Random(seed))

    together = choose(logits, [row(n, n) for n in range(4)])
    alone = [choose(logits[n : n + 1], [row(n, n)])[0] for n in range(4)]
    assert together == alone


def test_scores_are_log_probabilities_best_first() -> None:
    logits = torch.tensor([0.7, 0.2, 0.1]).log() + 5
    scores = score(logits, 2, 2)
    assert scores.top_ids == [0, 1]
    assert scores.logprob == pytest.approx(torch.tensor(0.1).log().item(), abs=1e-5)
    assert score(logits, 0, 0).top_ids == []
