"""Size of the state that a linear-attention or Mamba layer keeps per sequence. Pure.

Source: vLLM model_executor/layers/mamba/mamba_utils.py (MambaStateShapeCalculator): the last inputs
of the convolution, and the recurrent state.
"""

from muai_core.planning.architecture_values import MAX_FEED_FORWARD, MAX_HEADS, ConfigValues

_KERNEL_MAX = 1024
_TWO_BYTES = frozenset({"bfloat16", "float16"})


def linear_state_values(values: ConfigValues, hidden_size: int, heads: int, dtype: str) -> int:
    """Values per sequence of one linear layer, each counted in the activations' format.

    A recurrent state that is kept in float32 beside activations of 2 bytes counts twice. Raises
    ModelError when the sizes are there but absurd.
    """
    conv, state = _conv_and_state(values, hidden_size, heads)
    kept_in = values.word("mamba_ssm_dtype", "mamba_ssm_cache_dtype")
    return conv + state * (2 if kept_in == "float32" and dtype in _TWO_BYTES else 1)


def _conv_and_state(values: ConfigValues, hidden_size: int, heads: int) -> tuple[int, int]:
    if _has(values, "linear_num_value_heads"):
        return _gated_delta_net(values)
    linear = values.section("linear_attn_config")
    if linear is not None:
        width = _size(linear, "num_heads") * _size(linear, "head_dim")
        kernel = linear.whole("short_conv_kernel_size", most=_KERNEL_MAX) or 4
        return 3 * width * (kernel - 1), width * _size(linear, "head_dim")
    if _has(values, "conv_L_cache"):
        return hidden_size * (values.required("conv_L_cache", most=_KERNEL_MAX) - 1), 0
    if _has(values, "mamba_d_state", "state_size", "ssm_state_size"):
        return _mamba(values, hidden_size)
    if _has(values, "lru_width", "conv1d_width"):
        width = values.whole("lru_width", most=MAX_FEED_FORWARD) or hidden_size
        kernel = values.whole("conv1d_width", most=_KERNEL_MAX) or 4
        return width * (kernel - 1), width
    # Lightning attention (MiniMax): a square matrix per head.
    head_size = values.whole("head_dim", most=MAX_FEED_FORWARD) or hidden_size // max(heads, 1)
    return 0, heads * head_size * head_size


def _gated_delta_net(values: ConfigValues) -> tuple[int, int]:
    """Qwen3-Next and its successors."""
    key_size, value_heads = (
        _size(values, "linear_key_head_dim"),
        _size(values, "linear_num_value_heads"),
    )
    key_width = _size(values, "linear_num_key_heads") * key_size
    value_width = value_heads * _size(values, "linear_value_head_dim")
    kernel = values.required("linear_conv_kernel_dim", most=_KERNEL_MAX)
    return (2 * key_width + value_width) * (kernel - 1), value_width * key_size


def _mamba(values: ConfigValues, hidden_size: int) -> tuple[int, int]:
    """Mamba has no heads; Mamba 2 has, and its convolution sees B and C of each group, too."""
    state = values.required("mamba_d_state", "state_size", "ssm_state_size", most=MAX_FEED_FORWARD)
    kernel = values.whole("mamba_d_conv", "conv_kernel", most=_KERNEL_MAX) or 4
    heads = values.whole(
        "mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads", most=MAX_HEADS
    )
    width = values.whole("mamba_d_ssm", most=MAX_FEED_FORWARD)
    if width is None:
        head_size = values.find("mamba_d_head", "mamba_head_dim", "mamba_headdim")[1]
        if heads is not None and head_size is not None and head_size != "auto":
            width = heads * values.required(
                "mamba_d_head", "mamba_head_dim", "mamba_headdim", most=MAX_FEED_FORWARD
            )
        else:
            expand = values.decimal("mamba_expand", "expand", least=0.01, most=100) or 2
            width = int(expand * hidden_size)
    if heads is None:
        return width * (kernel - 1), width * state
    groups = values.whole("mamba_n_groups", "n_groups", "mamba_ngroups", most=MAX_HEADS) or 1
    return (width + 2 * groups * state) * (kernel - 1), width * state


def _has(values: ConfigValues, *names: str) -> bool:
    return values.find(*names)[1] is not None


def _size(values: ConfigValues, name: str) -> int:
    return values.required(name, most=MAX_FEED_FORWARD)
