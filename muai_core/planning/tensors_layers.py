"""Attention and feed-forward parts of one layer, in the words of a family's style. Pure."""

from muai_core.planning.formats import ceil_div
from muai_core.planning.tensors_settings import Facts
from muai_core.planning.tensors_style import Style, Switch
from muai_core.planning.tensors_table import TensorTable


class LayerTensors:
    """Adds the parts of layers to a table; each method takes the layer's prefix, with its dot."""

    def __init__(self, facts: Facts, style: Style, table: TensorTable) -> None:
        self.facts = facts
        self.architecture = facts.architecture
        self.style = style
        #: Layers that look at the image's tokens and not at the text's (mllama).
        self.cross_layers = frozenset(facts.wholes("cross_attention_layers"))
        self.table = table
        self.hidden = facts.architecture.hidden_size
        self.expert_layers = frozenset(facts.architecture.expert_layers)
        self.qkv_bias = self.on(style.qkv_bias)
        self.o_bias = self.on(style.o_bias)
        self.mlp_bias = self.on(style.mlp_bias)
        self.norm_bias = self.on(style.norm_bias)
        self.qk_norm = style.qk_norm if self.on(style.qk_norm_switch) else ""

    def on(self, switch: Switch) -> bool:
        name, default = switch
        return self.facts.flag(name, default=default) if name else default

    def norm(self, module: str, size: int = 0) -> None:
        self.table.plain(f"{module}.weight", size or self.hidden)
        if self.norm_bias:
            self.table.plain(f"{module}.bias", size or self.hidden)

    def linear(self, module: str, outputs: int, inputs: int, *, bias: bool = False) -> None:
        """One of a layer: (outputs, inputs), or the other way round in the style of GPT-2."""
        if not self.style.transposed:
            self.table.linear(module, outputs, inputs, bias=bias)
            return
        self.table.plain(f"{module}.weight", inputs, outputs)
        if bias:
            self.table.plain(f"{module}.bias", outputs)

    def attention(
        self, layer: str, *, heads: int = 0, kv_heads: int = 0, shared: bool = False
    ) -> None:
        """Of the style's own module; `shared`: with the keys and values of an earlier layer."""
        style, architecture = self.style, self.architecture
        module = layer + style.attention
        heads, kv_heads = heads or architecture.attention_heads, kv_heads or architecture.kv_heads
        keys, values = architecture.key_head_size, architecture.value_head_size
        queries = heads * keys * (2 if style.gated_queries else 1)
        if style.qkv:
            rows = queries + kv_heads * (keys + values)
            self.linear(module + style.qkv, rows, self.hidden, bias=self.qkv_bias)
        else:
            self.linear(module + style.q, queries, self.hidden, bias=self.qkv_bias)
            if not shared:
                self.linear(module + style.k, kv_heads * keys, self.hidden, bias=self.qkv_bias)
                self.linear(module + style.v, kv_heads * values, self.hidden, bias=self.qkv_bias)
        self.linear(module + style.o, self.hidden, heads * values, bias=self.o_bias)
        if style.attention_gate:
            self.linear(module + style.attention_gate, heads * values, self.hidden)
        if style.sinks:
            self.table.plain(module + style.sinks, heads)
        if style.sub_norms[0]:
            self.norm(module + style.sub_norms[0], heads * values)
        self._qk_norms(module, heads, kv_heads, shared=shared)

    def _qk_norms(self, module: str, heads: int, kv_heads: int, *, shared: bool) -> None:
        size = self.architecture.key_head_size
        shapes = {
            "head": ((size,), (size,)),
            "each_head": ((heads, size), (kv_heads, size)),
            "all_heads": ((heads * size,), (kv_heads * size,)),
        }.get(self.qk_norm)
        if shapes is None:
            return
        for name, shape in list(zip(self.style.qk_norm_names, shapes, strict=True))[: 2 - shared]:
            self.table.plain(f"{module}{name}.weight", *shape)
            if self.style.qk_norm_bias:
                self.table.plain(f"{module}{name}.bias", *shape)

    def cross_attention(self, layer: str) -> None:
        """Of mllama (modeling_mllama.py, MllamaCrossAttentionDecoderLayer)."""
        architecture, hidden, module = self.architecture, self.hidden, f"{layer}cross_attn."
        size = architecture.key_head_size
        queries, keys = architecture.attention_heads * size, architecture.kv_heads * size
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            self.linear(module + name, rows, hidden)
        self.linear(f"{module}o_proj", hidden, queries)
        for name in ("q_norm", "k_norm"):
            self.table.plain(f"{module}{name}.weight", size)
        for name in ("cross_attn_attn_gate", "cross_attn_mlp_gate"):
            self.table.plain(layer + name, 1)

    def latent_attention(self, layer: str) -> None:
        """Multi-head latent attention, as in DeepSeek-V2 (arXiv 2405.04434, section 2.1)."""
        architecture, hidden = self.architecture, self.hidden
        module = layer + self.style.attention
        rank = architecture.kv_lora_rank or self.facts.whole("kv_lora_rank", default=256)
        rope = architecture.qk_rope_head_size or self.facts.whole("qk_rope_head_dim", default=32)
        keys, heads = architecture.key_head_size, architecture.attention_heads
        # Where engines pad values to the size of keys, the checkpoint has them as they are.
        values = self.facts.whole("v_head_dim", default=architecture.value_head_size)
        query_rank = architecture.q_lora_rank or self.facts.whole("q_lora_rank", default=0)
        if query_rank:
            self.linear(f"{module}q_a_proj", query_rank, hidden, bias=self.qkv_bias)
            self.table.plain(f"{module}q_a_layernorm.weight", query_rank)
            self.linear(f"{module}q_b_proj", heads * keys, query_rank)
        else:
            self.linear(f"{module}q_proj", heads * keys, hidden)
        self.linear(f"{module}kv_a_proj_with_mqa", rank + rope, hidden, bias=self.qkv_bias)
        self.table.plain(f"{module}kv_a_layernorm.weight", rank)
        self.linear(f"{module}kv_b_proj", heads * (keys - rope + values), rank)
        self.linear(f"{module}o_proj", hidden, heads * values, bias=self.o_bias)
        if self.facts.has("index_n_heads"):
            self._indexer(f"{module}indexer.", query_rank or hidden)

    def _indexer(self, module: str, query_rank: int) -> None:
        """What picks the tokens to look at in DeepSeek-V3.2 (modeling_deepseek_v32.py)."""
        heads = self.facts.whole("index_n_heads", default=64)
        size = self.facts.whole("index_head_dim", default=128)
        self.linear(f"{module}wq_b", heads * size, query_rank)
        self.linear(f"{module}wk", size, self.hidden)
        self.table.plain(f"{module}k_norm.weight", size)
        self.table.plain(f"{module}k_norm.bias", size)
        self.table.plain(f"{module}weights_proj.weight", heads, self.hidden)

    @property
    def dense_size(self) -> int:
        """Inner size of a dense part: some configs say what it is worked out from.

        Source: modeling_lfm2.py (Lfm2MLP), modeling_recurrent_gemma.py (RecurrentGemmaMlp).
        """
        size = self.architecture.intermediate_size
        if self.architecture.model_type == "recurrent_gemma":
            return size // 2
        if self.architecture.model_type != "lfm2":
            return size
        size = self.facts.whole("block_ff_dim", default=size)
        if not self.facts.flag("block_auto_adjust_ff_dim", default=True):
            return size
        multiple = self.facts.whole("block_multiple_of", default=256, least=1)
        scaled = self.facts.scaled("block_ffn_dim_multiplier", 2 * size // 3)
        return ceil_div(scaled, multiple) * multiple

    def feed_forward(self, module: str, size: int) -> None:
        """A dense part; `module` with its dot."""
        style, hidden = self.style, self.hidden
        if style.gate_up:
            self.linear(module + style.gate_up, 2 * size, hidden, bias=self.mlp_bias)
        else:
            if style.gate:
                self.linear(module + style.gate, size, hidden, bias=self.mlp_bias)
            self.linear(module + style.up, size, hidden, bias=self.mlp_bias)
        self.linear(module + style.down, hidden, size, bias=self.mlp_bias)
        for name, shape in style.activation:
            self.table.plain(f"{module}act_fn.{name}", *shape)
        if style.sub_norms[1]:
            self.norm(module + style.sub_norms[1], size)
