"""What an engine says it can do. `muai plugin check` verifies what is declared."""

from typing import Literal, get_args

Capability = Literal[
    "tensor_parallel",
    "pipeline_parallel",
    "streaming",
    "abort",
    "stop_strings",
    "seed",
    "logprobs",
    "token_ids",
    "continue_final_message",
    "tools",
    "json_mode",
    "guided_decoding",
]
CAPABILITIES: tuple[Capability, ...] = get_args(Capability)
