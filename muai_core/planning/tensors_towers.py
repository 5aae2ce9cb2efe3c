"""Towers for images beside the language model, and what joins them to it. Pure.

Names and shapes as in published checkpoints (transformers, `modeling_*.py` of each family). A
family that is not known gets a plain vision transformer of the sizes in its `vision_config`; towers
for sound are not listed.
"""

from collections.abc import Callable

from muai_core.planning.tensors_settings import Facts
from muai_core.planning.tensors_table import TensorTable

_MAX_LAYERS = 1000
_MAX_TILES = 64


class _Tower:
    """Adds a tower's tensors; what it reads is of `vision_config`."""

    def __init__(self, facts: Facts, table: TensorTable) -> None:
        self.facts = facts
        self.table = table
        self.text = facts.architecture.hidden_size
        self.hidden = self.size("embed_dim", "hidden_size", default=1024)
        self.inner = self.size("intermediate_size", default=4 * self.hidden)
        self.depth = self.size(
            "depth", "num_hidden_layers", "num_layers", default=24, most=_MAX_LAYERS
        )
        self.patch = self.size("patch_size", default=14, most=1024, least=1)
        self.patches = (self.size("image_size", default=224, most=2**14) // self.patch) ** 2

    def size(self, *names: str, default: int, least: int = 0, most: int = 2**20) -> int:
        inside = tuple(f"vision_config.{name}" for name in names)
        return self.facts.whole(*inside, default=default, least=least, most=most)

    def linear(self, module: str, outputs: int, inputs: int, *, bias: bool = True) -> None:
        self.table.plain(f"{module}.weight", outputs, inputs)
        if bias:
            self.table.plain(f"{module}.bias", outputs)

    def norm(self, module: str, size: int = 0, *, bias: bool = True) -> None:
        self.table.plain(f"{module}.weight", size or self.hidden)
        if bias:
            self.table.plain(f"{module}.bias", size or self.hidden)

    def four(self, module: str, names: tuple[str, str, str, str], *, bias: bool = True) -> None:
        for name in names:
            self.linear(module + name, self.hidden, self.hidden, bias=bias)

    def two(self, module: str, up: str, down: str) -> None:
        self.linear(module + up, self.inner, self.hidden)
        self.linear(module + down, self.hidden, self.inner)


def add_towers(facts: Facts, table: TensorTable) -> None:
    """Of a multimodal model; nothing when its config has no `vision_config`."""
    if not (facts.has("vision_config.hidden_size") or facts.has("vision_config.depth")):
        return
    tower, wrapper = _Tower(facts, table), facts.wrapper
    for start, add in _BY_WRAPPER.items():
        if wrapper.startswith(start):
            add(tower)
            return
    _add_plain(tower)
    _add_two_layer_projector(tower)


def _add_plain(tower: _Tower) -> None:
    """CLIP (arXiv 2103.00020), or SigLIP (arXiv 2303.15343), which has no token for the class."""
    top = "vision_tower.vision_model."
    clip = "clip" in tower.facts.word("vision_config.model_type").replace("siglip", "")
    patch = (tower.hidden, 3, tower.patch, tower.patch)
    tower.table.plain(f"{top}embeddings.patch_embedding.weight", *patch)
    if clip:
        tower.table.plain(f"{top}embeddings.class_embedding", tower.hidden)
        tower.norm(f"{top}pre_layrnorm")
    else:
        tower.table.plain(f"{top}embeddings.patch_embedding.bias", tower.hidden)
    rows = tower.patches + (1 if clip else 0)
    tower.table.plain(f"{top}embeddings.position_embedding.weight", rows, tower.hidden)
    for index in range(tower.depth):
        layer = f"{top}encoder.layers.{index}."
        tower.norm(f"{layer}layer_norm1")
        tower.norm(f"{layer}layer_norm2")
        tower.four(f"{layer}self_attn.", ("q_proj", "k_proj", "v_proj", "out_proj"))
        tower.two(f"{layer}mlp.", "fc1", "fc2")
    tower.norm(f"{top}post_layernorm")


def _add_two_layer_projector(tower: _Tower) -> None:
    tower.linear("multi_modal_projector.linear_1", tower.text, tower.hidden)
    tower.linear("multi_modal_projector.linear_2", tower.text, tower.text)


def _add_llava_next(tower: _Tower) -> None:
    _add_plain(tower)
    _add_two_layer_projector(tower)
    tower.table.plain("image_newline", tower.text)


def _add_gemma3(tower: _Tower) -> None:
    _add_plain(tower)
    tower.table.plain("multi_modal_projector.mm_input_projection_weight", tower.hidden, tower.text)
    tower.norm("multi_modal_projector.mm_soft_emb_norm", bias=False)


def _add_paligemma(tower: _Tower) -> None:
    _add_plain(tower)
    width = tower.facts.whole("vision_config.projection_dim", "projection_dim", default=tower.text)
    tower.linear("multi_modal_projector.linear", width, tower.hidden)


def _add_pixtral(tower: _Tower) -> None:
    top, hidden, inner = "vision_tower.", tower.hidden, tower.inner
    tower.table.plain(f"{top}patch_conv.weight", hidden, 3, tower.patch, tower.patch)
    tower.norm(f"{top}ln_pre", bias=False)
    for index in range(tower.depth):
        layer = f"{top}transformer.layers.{index}."
        tower.four(f"{layer}attention.", ("q_proj", "k_proj", "v_proj", "o_proj"), bias=False)
        tower.linear(f"{layer}feed_forward.gate_proj", inner, hidden, bias=False)
        tower.linear(f"{layer}feed_forward.up_proj", inner, hidden, bias=False)
        tower.linear(f"{layer}feed_forward.down_proj", hidden, inner, bias=False)
        tower.norm(f"{layer}attention_norm", bias=False)
        tower.norm(f"{layer}ffn_norm", bias=False)
    bias = tower.facts.flag("multimodal_projector_bias", default=False)
    merged = hidden * tower.facts.whole("spatial_merge_size", default=2, most=64) ** 2
    join = "multi_modal_projector."
    tower.norm(f"{join}norm", bias=False)
    tower.linear(f"{join}patch_merger.merging_layer", hidden, merged, bias=False)
    tower.linear(f"{join}linear_1", tower.text, hidden, bias=bias)
    tower.linear(f"{join}linear_2", tower.text, tower.text, bias=bias)


def _add_qwen_blocks(tower: _Tower, top: str, *, gated: bool, names: tuple[str, str]) -> int:
    """Patches and blocks; gives the width of a group of patches that become one token."""
    hidden = tower.hidden
    times = tower.size("temporal_patch_size", default=2, most=64)
    channels = tower.size("in_channels", "in_chans", default=3, most=64)
    patch = (hidden, channels, times, tower.patch, tower.patch)
    tower.table.plain(f"{top}patch_embed.proj.weight", *patch)
    for index in range(tower.depth):
        block = f"{top}blocks.{index}."
        tower.norm(f"{block}norm1", bias=not gated)
        tower.norm(f"{block}norm2", bias=not gated)
        tower.linear(f"{block}attn.qkv", 3 * hidden, hidden)
        tower.linear(f"{block}attn.proj", hidden, hidden)
        if gated:
            tower.linear(f"{block}mlp.gate_proj", tower.inner, hidden)
        tower.two(f"{block}mlp.", *names)
    return hidden * tower.size("spatial_merge_size", default=2, most=64) ** 2


def _add_qwen2(tower: _Tower) -> None:
    tower.inner = tower.hidden * tower.size("mlp_ratio", default=4, most=64)
    width = _add_qwen_blocks(tower, "visual.", gated=False, names=("fc1", "fc2"))
    tower.norm("visual.merger.ln_q")
    tower.linear("visual.merger.mlp.0", width, width)
    tower.linear("visual.merger.mlp.2", tower.text, width)


def _add_qwen2_5(tower: _Tower) -> None:
    # Its hidden_size is the tower's own; some of its configs have no other.
    width = _add_qwen_blocks(tower, "visual.", gated=True, names=("up_proj", "down_proj"))
    tower.norm("visual.merger.ln_q", bias=False)
    tower.linear("visual.merger.mlp.0", width, width)
    tower.linear("visual.merger.mlp.2", tower.text, width)


def _add_qwen3(tower: _Tower) -> None:
    top = "model.visual."
    tower.patch = tower.size("patch_size", default=16, most=1024, least=1)
    width = _add_qwen_blocks(tower, top, gated=False, names=("linear_fc1", "linear_fc2"))
    tower.table.plain(f"{top}patch_embed.proj.bias", tower.hidden)
    rows = tower.size("num_position_embeddings", default=2304)
    tower.table.plain(f"{top}pos_embed.weight", rows, tower.hidden)
    deep = len(tower.facts.wholes("vision_config.deepstack_visual_indexes"))
    mergers = [(f"{top}merger.", tower.hidden)]
    mergers += [(f"{top}deepstack_merger_list.{index}.", width) for index in range(deep)]
    for merger, normed in mergers:
        tower.norm(f"{merger}norm", normed)
        tower.linear(f"{merger}linear_fc1", width, width)
        tower.linear(f"{merger}linear_fc2", tower.text, width)


def _add_llama4(tower: _Tower) -> None:
    top, hidden = "vision_model.", tower.hidden
    tower.table.plain(f"{top}class_embedding", hidden)
    tower.table.plain(f"{top}positional_embedding_vlm", tower.patches + 1, hidden)
    tower.table.plain(f"{top}patch_embedding.linear.weight", hidden, 3 * tower.patch**2)
    for norm in ("layernorm_pre", "layernorm_post"):
        tower.norm(top + norm)
    for index in range(tower.depth):
        _add_llama_layer(tower, f"{top}model.layers.{index}.", bias=True)
    inputs = tower.size("projector_input_dim", default=4096)
    outputs = tower.size("projector_output_dim", default=4096)
    tower.linear(f"{top}vision_adapter.mlp.fc1", inputs, tower.inner, bias=False)
    tower.linear(f"{top}vision_adapter.mlp.fc2", outputs, inputs, bias=False)
    width = tower.size("vision_output_dim", default=outputs)
    tower.linear("multi_modal_projector.linear_1", tower.text, width, bias=False)


def _add_llama_layer(tower: _Tower, layer: str, *, bias: bool) -> None:
    tower.four(f"{layer}self_attn.", ("q_proj", "k_proj", "v_proj", "o_proj"), bias=bias)
    tower.two(f"{layer}mlp.", "fc1", "fc2")
    tower.norm(f"{layer}input_layernorm")
    tower.norm(f"{layer}post_attention_layernorm")


def _add_mllama(tower: _Tower) -> None:
    top, hidden, plain = "vision_model.", tower.hidden, tower.table.plain
    tiles = tower.size("max_num_tiles", default=4, most=_MAX_TILES)
    # One row per way of arranging tiles, and one for none (MllamaVisionConfig).
    ratios = sum(tiles // rows for rows in range(1, tiles + 1)) + 1
    plain(f"{top}patch_embedding.weight", hidden, 3, tower.patch, tower.patch)
    plain(f"{top}class_embedding", hidden)
    positions = f"{top}gated_positional_embedding."
    plain(f"{positions}embedding", tower.patches + 1, hidden)
    plain(f"{positions}gate", 1)
    plain(f"{positions}tile_embedding.weight", ratios, tiles * (tower.patches + 1) * hidden)
    for where in ("pre", "post"):
        plain(f"{top}{where}_tile_positional_embedding.embedding.weight", ratios, tiles * hidden)
        plain(f"{top}{where}_tile_positional_embedding.gate", 1)
        tower.norm(f"{top}layernorm_{where}")
    for index in range(tower.depth):
        _add_llama_layer(tower, f"{top}transformer.layers.{index}.", bias=False)
    for index in range(tower.size("num_global_layers", default=8, most=_MAX_LAYERS)):
        layer = f"{top}global_transformer.layers.{index}."
        _add_llama_layer(tower, layer, bias=False)
        plain(f"{layer}gate_attn", 1)
        plain(f"{layer}gate_ffn", 1)
    width = tower.size("vision_output_dim", default=7680)
    tower.linear("multi_modal_projector", tower.text, width)


_BY_WRAPPER: dict[str, Callable[[_Tower], None]] = {
    "gemma3": _add_gemma3,
    "llava_next": _add_llava_next,
    "llama4": _add_llama4,
    "mistral3": _add_pixtral,
    "mllama": _add_mllama,
    "paligemma": _add_paligemma,
    "qwen2_vl": _add_qwen2,
    "qwen2_5_vl": _add_qwen2_5,
    "qwen2_5_omni": _add_qwen2_5,
    "qwen3_vl": _add_qwen3,
    "qwen3_5": _add_qwen3,
}
