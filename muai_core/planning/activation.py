"""Peak memory of one forward pass on one rank. Pure."""

from math import ceil

from msgspec import Struct

from muai_core.model.architecture import Architecture
from muai_core.planning.formats import ACTIVATION_BYTES
from muai_core.plugin.memory import OverheadTerms

#: For each logit: itself in float32, its place in the sorted row with an index of 8 bytes, and its
#: probability (vLLM, v1/sample/ops/topk_topp_sampler.py, apply_top_k_top_p_pytorch; the profile run
#: samples with top-k and top-p).
_LOGIT_BYTES = 4 + 4 + 8 + 4


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
    Logits are gathered on every rank, so they are not divided (layers/logits_processor.py).
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
    factor = overhead.activation_factor
    layer = ceil(factor * tokens * (hidden + overhead.ffn_factor * inner / ranks) * size)
    logits = ceil(factor * overhead.logit_tokens * architecture.vocabulary_size * _LOGIT_BYTES)
    return RankActivation(layer, max(layer, logits))
