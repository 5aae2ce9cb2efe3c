"""What a loaded model holds, for the line in the log that MuAI reads after a start."""

import torch


def held_bytes(network: torch.nn.Module) -> dict[str, int]:
    """Bytes by term: weights and buffers, shared ones once, and no KV cache before a request.

    The peak of a forward pass is not among them: nothing of the size that is planned for has run.
    """
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in (*network.parameters(), *network.buffers())
    }
    return {"weights": sum(storages.values()), "kv_cache": 0}
