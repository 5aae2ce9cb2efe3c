"""Names of a GGUF file's tensors, translated to those of a Hugging Face checkpoint. Pure.

GGUF has one set of names for all families, so the translation has, too: Llama's names, and for the
rest those of the family where a part came up first. Source of the GGUF names: llama.cpp,
gguf-py/gguf/constants.py (TENSOR_NAMES).
"""

_OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "position_embd": "model.embed_positions",
    "per_layer_token_embd": "model.embed_tokens_per_layer",
    "per_layer_model_proj": "model.per_layer_model_projection",
    "per_layer_proj_norm": "model.per_layer_projection_norm",
    "token_embd_norm": "model.embedding_norm",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_norm_2": "input_layernorm_2",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_gate": "self_attn.g_proj",
    "attn_sinks": "self_attn.sinks",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_k_b": "self_attn.k_b_proj",
    "attn_v_b": "self_attn.v_b_proj",
    "indexer.attn_k": "self_attn.indexer.wk",
    "indexer.attn_q_b": "self_attn.indexer.wq_b",
    "indexer.proj": "self_attn.indexer.weights_proj",
    "indexer.k_norm": "self_attn.indexer.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "exp_probs_b": "mlp.gate.e_score_correction_bias",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_gate_up_exps": "mlp.experts.gate_up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
    "ssm_in": "mamba.in_proj",
    "ssm_conv1d": "mamba.conv1d",
    "ssm_x": "mamba.x_proj",
    "ssm_dt": "mamba.dt_proj",
    "ssm_dt_norm": "mamba.dt_layernorm",
    "ssm_a": "mamba.A_log",
    "ssm_b_norm": "mamba.b_layernorm",
    "ssm_c_norm": "mamba.c_layernorm",
    "ssm_d": "mamba.D",
    "ssm_norm": "mamba.norm",
    "ssm_out": "mamba.out_proj",
    "ssm_ba": "linear_attn.in_proj_ba",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.conv": "conv.conv",
    "shortconv.out_proj": "conv.out_proj",
}
#: In a layer of constant state, these lead into the state.
_IN_LINEAR_LAYER = {
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
}
#: Gemma norms before and after the feed-forward part, so its `ffn_norm` is another one.
_WITH_POST_NORM = {"ffn_norm": "pre_feedforward_layernorm"}
_ENDINGS = (".weight", ".bias", ".scale")


class GgufName:
    """The parts of one name, as in `blk.3.attn_q.weight`: layer 3, `attn_q`, `.weight`."""

    __slots__ = ("base", "ending", "expert", "layer")

    def __init__(self, name: str) -> None:
        self.ending = next((ending for ending in _ENDINGS if name.endswith(ending)), "")
        self.base = name.removesuffix(self.ending) if self.ending else name
        self.layer: int | None = None
        #: Older files have each expert by itself: `blk.3.ffn_up.5.weight`.
        self.expert: int | None = None
        parts = self.base.split(".")
        if len(parts) > 2 and parts[0] == "blk" and _is_number(parts[1]):
            self.layer = int(parts[1])
            if parts[2].startswith("ffn_") and len(parts) == 4 and _is_number(parts[3]):
                self.expert = int(parts.pop())
            self.base = ".".join(parts[2:])


def hugging_face_name(name: GgufName, in_layer: frozenset[str]) -> str:
    """`in_layer` has the bases of all tensors of the same layer; unknown names keep their base."""
    if name.layer is None:
        return f"{_OUTSIDE.get(name.base, name.base)}{name.ending}"
    if is_linear(in_layer) and name.base in _IN_LINEAR_LAYER:
        module = _IN_LINEAR_LAYER[name.base]
    elif name.base in _WITH_POST_NORM and "post_attention_norm" in in_layer:
        module = _WITH_POST_NORM[name.base]
    else:
        module = _IN_LAYER.get(name.base, name.base)
    if name.expert is not None:
        module = module.replace("mlp.", f"mlp.experts.{name.expert}.")
    # A tensor without a module of its own keeps no ending: `self_attn.sinks`, `mamba.A_log`.
    ending = "" if module.endswith((".sinks", "A_log", ".D", "_bias")) else name.ending
    return f"model.layers.{name.layer}.{module}{ending}"


def has_state(in_layer: frozenset[str]) -> bool:
    return any(base.startswith(("ssm_", "shortconv")) for base in in_layer)


def has_attention(in_layer: frozenset[str]) -> bool:
    """Also when the output projection is all that tells attention from a linear layer."""
    keys = {"attn_k", "attn_kv_a_mqa"}
    return not keys.isdisjoint(in_layer) or {"attn_qkv", "attn_output"} <= in_layer


def is_linear(in_layer: frozenset[str]) -> bool:
    return has_state(in_layer) and not has_attention(in_layer)


def has_experts(in_layer: frozenset[str]) -> bool:
    return "ffn_gate_inp" in in_layer


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 7
