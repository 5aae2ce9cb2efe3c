"""What a loaded model holds, for the line in the log that MuAI reads after a start."""

from collections.abc import Iterator

import torch


def held_bytes(network: torch.nn.Module) -> dict[str, int]:
    """Bytes by term: weights and buffers, shared ones once, and no KV cache before a request.

    Weights that were packed for the CPU's matrix kernels count as they are, also where they are a
    second copy of tied embeddings. The peak of a forward pass is not among the terms: nothing of
    the size that is planned for has run.
    """
    sizes: dict[tuple[str, int], int] = {}
    for tensor in _tensors(network):
        if tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            sizes["storage", storage.data_ptr()] = storage.nbytes()
        else:  # its layout is the kernels' own secret, and it has no storage to ask
            sizes["packed", id(tensor)] = tensor.numel() * tensor.element_size()
    return {"weights": sum(sizes.values()), "kv_cache": 0}


def _tensors(network: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from network.parameters()
    yield from network.buffers()
    for module in network.modules():
        yield from (value for value in vars(module).values() if isinstance(value, torch.Tensor))
