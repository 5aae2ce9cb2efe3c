"""Faster kernels for the same mathematics: grouped attention, and packed weights on the CPU."""

import logging
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

GROUPED = "muai_grouped_sdpa"

_logger = logging.getLogger(__name__)


def accelerate(network: PreTrainedModel) -> None:
    """Changes a loaded model in place, where its architecture and its device allow it."""
    config = network.config.get_text_config(decoder=True)
    if config._attn_implementation == "sdpa":
        ALL_ATTENTION_FUNCTIONS.register(GROUPED, grouped_attention)
        ALL_MASK_ATTENTION_FUNCTIONS.register(GROUPED, sdpa_mask)
        network.set_attn_implementation(GROUPED)
    if network.device.type == "cpu" and network.dtype == torch.bfloat16:
        with torch.inference_mode():
            _pack_linears(network)


def grouped_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' sdpa attention, except that decoding does not copy keys and values.

    With one query token, the query heads that share a key head are that head's queries: the
    same sums, without repeating keys and values for every query head. On 2 CPU cores, 16 rows of
    100 tokens, 9 heads on 3: 77 µs a layer instead of 248.

    Shapes: query (rows, heads, tokens, size), key and value (rows, key heads, cached tokens, size);
    returns (rows, tokens, heads, size).
    """
    rows, heads, tokens, size = query.shape
    key_heads = key.shape[1]
    shared_mask = attention_mask is not None and attention_mask.shape[1] == 1
    if tokens != 1 or not shared_mask or heads == key_heads or key.shape[3] != value.shape[3]:
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
        return output
    grouped = nn.functional.scaled_dot_product_attention(
        query.view(rows, key_heads, heads // key_heads, size),
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
    )
    return grouped.reshape(rows, 1, heads, size), None


class PackedLinear(nn.Module):
    """`nn.Linear` with its weight in the layout of the CPU's matrix kernels.

    Plain linear layers are laid out anew in every call, which for a few rows costs about as much
    as the product itself.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.data)
        self._bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self._bias, "none", [], ""
        )
        return output


def _pack_linears(network: nn.Module) -> None:
    if not _packing_works():
        _logger.info("this torch build cannot pack linear weights; using plain ones")
        return
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))


def _packing_works() -> bool:
    """The operators are private to torch: try them on this CPU before relying on them."""
    plain = nn.Linear(64, 32, dtype=torch.bfloat16)
    x = torch.ones(3, 1, 64, dtype=torch.bfloat16)
    try:
        return torch.allclose(PackedLinear(plain)(x), plain(x), atol=0.05)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
