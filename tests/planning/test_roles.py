"""What a tensor is for, from its name alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muai_core.planning.roles import Role, role_of

NAMES = [
    # name, layer, kind, part, expert
    ("model.embed_tokens.weight", None, "embedding", "weight", None),
    ("transformer.wpe.weight", None, "position_embedding", "weight", None),
    ("model.decoder.project_in.weight", None, "embedding_projection", "weight", None),
    ("lm_head.weight", None, "output_head", "weight", None),
    ("output.weight", None, "output_head", "weight", None),
    ("transformer.output_layer.weight", None, "output_head", "weight", None),
    ("model.norm.weight", None, "norm", "weight", None),
    ("model.layers.3.self_attn.q_proj.weight", 3, "attention_q", "weight", None),
    ("model.layers.3.self_attn.k_proj.bias", 3, "attention_k", "bias", None),
    ("model.layers.3.self_attn.v_proj.qweight", 3, "attention_v", "weight", None),
    ("model.layers.3.self_attn.q_norm.weight", 3, "norm", "weight", None),
    ("model.layers.3.self_attn.k_scale", 3, "scalar", "scale", None),
    ("model.layers.3.self_attn.k_proj.k_scale", 3, "attention_k", "scale", None),
    ("model.layers.3.self_attn.sinks", 3, "attention_sink", "weight", None),
    ("model.layers.3.self_attn.rotary_emb.inv_freq", 3, "buffer", "weight", None),
    ("transformer.h.0.attn.c_attn.bias", 0, "attention_qkv", "bias", None),
    ("h.0.attn.bias", 0, "buffer", "bias", None),
    ("gpt_neox.layers.2.attention.masked_bias", 2, "buffer", "bias", None),
    ("transformer.h.0.attn.c_proj.weight", 0, "attention_o", "weight", None),
    ("transformer.h.0.mlp.c_proj.weight", 0, "mlp_down", "weight", None),
    ("model.layers.0.attention.wqkv.weight", 0, "attention_qkv", "weight", None),
    ("model.layers.9.self_attn.q_a_proj.weight", 9, "mla_down", "weight", None),
    ("model.layers.9.self_attn.kv_b_proj.weight_scale_inv", 9, "mla_up", "scale", None),
    ("model.layers.9.self_attn.indexer.wq_b.weight", 9, "attention_indexer", "weight", None),
    ("model.layers.1.mlp.gate.weight", 1, "router", "weight", None),
    ("model.layers.1.mlp.gate.e_score_correction_bias", 1, "router", "bias", None),
    ("model.layers.1.mlp.shared_expert_gate.weight", 1, "router", "weight", None),
    ("model.layers.1.mlp.shared_expert.gate_proj.weight", 1, "shared_expert_gate", "weight", None),
    ("model.layers.1.shared_mlp.input_linear.weight", 1, "shared_expert_gate_up", "weight", None),
    ("model.layers.1.mlp.experts.17.gate_proj.weight", 1, "expert_gate", "weight", 17),
    ("model.layers.1.block_sparse_moe.experts.3.w2.qzeros", 1, "expert_down", "zero_point", 3),
    ("model.layers.1.mlp.experts.gate_up_proj_blocks", 1, "expert_gate_up", "weight", None),
    ("model.layers.1.mlp.experts.gate_up_proj_scales", 1, "expert_gate_up", "scale", None),
    ("model.layers.1.mlp.experts.down_proj_bias", 1, "expert_down", "bias", None),
    ("model.layers.1.block_sparse_moe.input_linear.weight", 1, "expert_gate_up", "weight", None),
    ("transformer.blocks.2.ffn.experts.mlp.v1", 2, "expert_up", "weight", None),
    ("model.layers.0.mlp.gate_up_proj.weight", 0, "mlp_gate_up", "weight", None),
    ("model.layers.0.mlp.up_proj.g_idx", 0, "mlp_up", "index", None),
    ("model.layers.0.mlp.down_proj.weight.absmax", 0, "mlp_down", "scale", None),
    ("layers.0.mlp.down_proj.weight.quant_state.bitsandbytes__nf4", 0, "mlp_down", "index", None),
    ("model.layers.0.linear_attn.in_proj_qkvz.weight", 0, "linear_attention_in", "weight", None),
    ("model.layers.0.linear_attn.norm.weight", 0, "linear_attention_norm", "weight", None),
    ("model.layers.0.linear_attn.out_proj.weight", 0, "linear_attention_out", "weight", None),
    ("model.layers.0.linear_attn.dt_bias", 0, "linear_attention_state", "bias", None),
    ("backbone.layers.0.mixer.A_log", 0, "linear_attention_state", "weight", None),
    ("backbone.layers.0.mixer.x_proj.weight", 0, "linear_attention_x", "weight", None),
    ("backbone.layers.0.mixer.conv1d.bias", 0, "linear_attention_conv", "bias", None),
    ("backbone.layers.0.mixer.q_proj.weight", 0, "attention_q", "weight", None),
    ("backbone.layers.0.norm.weight", 0, "norm", "weight", None),
    ("model.layers.0.mamba.dt_layernorm.weight", 0, "norm", "weight", None),
    ("model.visual.blocks.0.attn.qkv.weight", None, "vision", "weight", None),
    ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", None, "vision", "weight", None),
    ("multi_modal_projector.linear_1.bias", None, "vision", "bias", None),
    ("language_model.model.layers.4.cross_attn.k_proj.weight", 4, "attention_k", "weight", None),
    ("language_model.model.layers.4.cross_attn_mlp_gate", 4, "scalar", "weight", None),
    ("mtp.layers.0.mlp.experts.2.up_proj.weight", 0, "mtp", "weight", 2),
    ("model.layers.61.eh_proj.weight", 61, "mtp", "weight", None),
    ("model.layers.61.shared_head.head.weight", 61, "mtp", "weight", None),
    ("something.never.seen", None, "other", "weight", None),
    ("", None, "other", "weight", None),
]


@pytest.mark.parametrize(("name", "layer", "kind", "part", "expert"), NAMES)
def test_a_name_says_what_the_tensor_is_for(
    name: str, layer: int | None, kind: str, part: str, expert: int | None
) -> None:
    role = role_of(name)
    assert (role.layer, role.kind, role.part, role.expert) == (layer, kind, part, expert)


def test_layers_beyond_the_models_own_guess_further_tokens() -> None:
    name = "model.layers.61.mlp.experts.0.up_proj.weight"
    assert role_of(name).kind == "expert_up"
    assert role_of(name, 62).kind == "expert_up"
    assert role_of(name, 61).kind == "mtp"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["model", "layers", "experts", "self_attn", "mlp", "weight", "gate", "7", "9" * 5000]
        )
        | st.text(max_size=8),
        max_size=9,
    )
)
def test_any_name_has_a_role(components: list[str]) -> None:
    name = ".".join(components)
    assert isinstance(role_of(name, 8), Role)
    assert role_of(name, 8) == role_of(name, 8)
