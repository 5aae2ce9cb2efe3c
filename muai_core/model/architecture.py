"""A model as its files describe it: what it is made of, before any engine has cut it."""

from typing import Literal

from msgspec import Struct

#: How a layer remembers what came before. `full`: keys and values of every token; `sliding`: those
#: of the last `sliding_window` tokens; `mla`: one latent vector per token for all heads; `linear`:
#: a state of constant size per sequence (Mamba, linear attention); `none`: nothing.
LayerKind = Literal["full", "sliding", "mla", "linear", "none"]

#: A value of config.json under its own name.
Setting = bool | int | float | str | tuple[int, ...]


class TensorInfo(Struct, frozen=True, gc=False):
    """One stored tensor, from a header; its values are never read."""

    #: Its name in a Hugging Face checkpoint, as in `model.layers.0.self_attn.q_proj.weight`. Names
    #: of a GGUF file are translated to these.
    name: str
    #: As stored: a safetensors dtype ("BF16", "F8_E4M3", "I32") or a GGUF type ("Q4_K").
    dtype: str
    #: As in the checkpoint: (outputs, inputs) for a linear layer.
    shape: tuple[int, ...]
    #: As stored.
    size_bytes: int


class Quantization(Struct, frozen=True, kw_only=True):
    """How weights are packed, from `quantization_config` or a GGUF file's types."""

    #: In the checkpoint's own words: "fp8", "awq", "gptq", "mxfp4", "compressed-tensors",
    #: "bitsandbytes", "gguf".
    method: str
    bits: int | None = None
    #: Inputs that share one scale; None: a whole row or tensor.
    group_size: int | None = None
    #: (outputs, inputs) of a block that shares one scale.
    block_shape: tuple[int, int] | None = None
    #: Modules left as they were: names, parts of names, or `re:` patterns, as the checkpoint says.
    unquantized: tuple[str, ...] = ()
    #: Format of keys and values if the checkpoint brings one, such as "fp8".
    kv_cache_dtype: str | None = None


class Architecture(Struct, frozen=True, kw_only=True):
    """What `config.json` or a GGUF header says, in one set of words for all families."""

    #: `model_type` of config.json, or `general.architecture` of a GGUF file.
    model_type: str
    #: Class names, as in `LlamaForCausalLM`; empty when the files do not say.
    class_names: tuple[str, ...] = ()
    layer_count: int
    #: One per layer.
    layer_kinds: tuple[LayerKind, ...]
    hidden_size: int
    #: Of the dense feed-forward part.
    intermediate_size: int
    vocabulary_size: int
    attention_heads: int
    kv_heads: int
    #: Values per head of a query or key, and of a value.
    key_head_size: int
    value_head_size: int
    #: MLA: size of the latent vector, and of the part of a key that carries the position.
    kv_lora_rank: int | None = None
    qk_rope_head_size: int | None = None
    q_lora_rank: int | None = None
    #: Tokens that a `sliding` layer looks back.
    sliding_window: int | None = None
    #: Layers that use the keys and values of an earlier one and store none (by index).
    kv_shared_layers: tuple[int, ...] = ()
    #: Values of a `linear` layer's state per sequence, each 1 value in the activations' format.
    linear_state_values: int = 0
    #: Whether layers with attention hold such a state beside their keys and values (Falcon-H1).
    state_beside_attention: bool = False
    #: Mixture of experts: routed experts per layer, how many see a token, the size of each, and of
    #: the shared one (0: none). `expert_layers` are the layers that have them.
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate_size: int = 0
    shared_expert_intermediate_size: int = 0
    expert_layers: tuple[int, ...] = ()
    tied_embeddings: bool = False
    #: Longest sequence that the model is made for, in tokens.
    context_tokens: int | None = None
    #: Format of the unquantised weights: "bfloat16", "float16", "float32".
    dtype: str = "bfloat16"
    quantization: Quantization | None = None
    #: Whether it also takes images or sound: its other towers count as weights of the first stage.
    multimodal: bool = False
    #: What config.json says beyond these words, under its own names, with dots for nested objects
    #: (`vision_config.depth`); empty for a GGUF file. Only `tensors_of` looks at them.
    settings: tuple[tuple[str, Setting], ...] = ()


class ModelDescription(Struct, frozen=True, kw_only=True):
    """A model without its values: enough to say what any rank of any engine will hold."""

    architecture: Architecture
    tensors: tuple[TensorInfo, ...]
    #: Where the tensors are known from; `config`: worked out from config.json, no weights at hand.
    origin: Literal["safetensors", "gguf", "config"]

    @property
    def stored_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)


class ModelError(ValueError):
    """The files do not describe a model that can be understood; one line says where and what."""


class UnknownFamily(ModelError):
    """A model of a family that MuAI does not know: an engine may, but its memory cannot be told."""
