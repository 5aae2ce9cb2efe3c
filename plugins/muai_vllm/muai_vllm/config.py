"""The plugin's part of the config schema. Import it only when options are validated."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class VllmOptions(BaseModel):
    """Options of engine `vllm`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    max_num_seqs: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Requests that are served together; more wait. Unset: vLLM's own default."""
    max_num_batched_tokens: Annotated[int, Field(ge=1, le=2**24)] | None = None
    """Tokens of one pass. Unset: vLLM's own default."""
    enforce_eager: bool = False
    """Neither compile nor capture CUDA graphs: starts sooner, serves slower."""
    quantization: str | None = None
    """How vLLM quantizes, as in `fp8`. Unset: as the model's files say."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    arguments: dict[str, JsonValue] = {}
    """More arguments of vLLM's server by name, as in `enable_prefix_caching: true`. They are
    checked against the installed version; those that MuAI sets itself are refused."""
