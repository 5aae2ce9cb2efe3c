"""Peak memory of one forward pass on one rank. Pure."""

from math import ceil

from msgspec import Struct

from muai_core.model.architecture import Architecture
from muai_core.planning.formats import ACTIVATION_BYTES, ceil_div
from muai_core.plugin.memory import OverheadTerms

#: Engines compute logits in float32 before they sample (vLLM, v1/sample/sampler.py).
_LOGIT_BYTES = 4


class RankActivation(Struct, frozen=True):
    """In bytes."""

    any_stage: int
    last_stage: int


def rank_activation(
    architecture: Architecture, overhead: OverheadTerms, dtype: str, ranks: int
) -> RankActivation:
    """The formula of OverheadTerms.

    In a mixture of experts each token is copied for every expert that sees it, and the inner size
    is that of all of them together (vLLM, fused_moe: workspaces of tokens × experts per token).
    """
    tokens, size = overhead.batched_tokens, ACTIVATION_BYTES[dtype]
    hidden = overhead.hidden_factor * architecture.hidden_size
    inner = architecture.intermediate_size
    if architecture.expert_layers:
        per_token = architecture.experts_per_token
        hidden += per_token * architecture.hidden_size
        experts = per_token * architecture.expert_intermediate_size
        dense_layers = architecture.layer_count > len(architecture.expert_layers)
        inner = max(
            experts + architecture.shared_expert_intermediate_size, inner if dense_layers else 0
        )
    layer = ceil(tokens * (hidden + overhead.ffn_factor * inner / ranks) * size)
    logits = overhead.logit_tokens * ceil_div(architecture.vocabulary_size, ranks) * _LOGIT_BYTES
    return RankActivation(layer, max(layer, logits))
