"""What the stored tensors say better than the config. Pure."""

from collections import defaultdict
from collections.abc import Sequence

from msgspec.structs import replace

from muai_core.model.architecture import Architecture, TensorInfo

_HEADS = frozenset({"lm_head", "embed_out", "output_layer"})
_HEADS_AT_THE_TOP = frozenset({"output", "model.output", "language_model.output", "head"})
_EMBEDDINGS = frozenset({"embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings"})
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def with_weights(architecture: Architecture, tensors: Sequence[TensorInfo]) -> Architecture:
    """Corrected by the weights: embeddings are tied where no output head is stored.

    The other way round the config is right: engines leave out a stored head that is tied.
    """
    names = [tensor.name.rpartition(".")[0] for tensor in tensors]
    leaves = frozenset(name.rpartition(".")[2] for name in names)
    has_head = not leaves.isdisjoint(_HEADS) or not _HEADS_AT_THE_TOP.isdisjoint(names)
    if not has_head and not leaves.isdisjoint(_EMBEDDINGS):
        return replace(architecture, tied_embeddings=True)
    return architecture


def stored_dtype(tensors: Sequence[TensorInfo]) -> str | None:
    """Format of most bytes that are not quantised; None when there are none such."""
    stored: dict[str, int] = defaultdict(int)
    for tensor in tensors:
        # Norms are often kept in a wider format than the rest.
        if tensor.dtype in _DTYPES and len(tensor.shape) > 1:
            stored[tensor.dtype] += tensor.size_bytes
    if not stored:
        return None
    return _DTYPES[max(sorted(stored), key=lambda dtype: stored[dtype])]
