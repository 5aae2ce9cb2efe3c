"""The plugin's part of the config schema. Import it only when options are validated."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class DeepSpeedOptions(BaseModel):
    """Options of engine `deepspeed`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    max_num_seqs: Annotated[int, Field(ge=1, le=1024)] = 16
    """Requests that are served together; more wait."""
    num_threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads of each rank. Unset: the usable cores, dealt out evenly."""
    rank_timeout_s: Annotated[float, Field(ge=0.1, le=86_400)] = 30.0
    """How long a rank may be silent, or keep others waiting, before the replica is given up."""
    self_check: bool = True
    """Compare logits with one process at the start, for families that are not known to be split
    correctly."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
