"""The catalogue of GPUs: complete, and plausible."""

from typing import get_args

import pytest

from muai_core.model.cards import CARDS, CardName

GIB = 2**30


def test_every_card_is_there() -> None:
    assert set(CARDS) == set(get_args(CardName))


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_plausible(name: CardName) -> None:
    card = CARDS[name]
    nominal_gb = int(name.rsplit("-", 1)[1].removesuffix("GB"))
    # Named in GB or GiB, as marketing likes; what it reports lies within 8 % of either.
    assert nominal_gb * 10**9 * 0.92 < card.memory_total_bytes < nominal_gb * GIB * 1.025
    # The driver keeps something for itself, on no card more than 1.5 GiB.
    assert 0 < card.memory_reserved_bytes < 1.5 * GIB
    assert card.marketing_name.startswith(("NVIDIA ", "Tesla "))
    assert 0 < card.idle_watts < card.power_limit_watts
    assert card.compute_capability in {"7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"}
    assert 0 <= card.nvlinks <= 18
    # SXM boards are linked; cards for a slot are not, but for pairs under a bridge.
    if "PCIE" in name or name.startswith(("L4", "T4", "RTX", "A10", "A30", "A40")):
        assert card.nvlink == (name in {"A100-80GB", "A100-40GB"})
