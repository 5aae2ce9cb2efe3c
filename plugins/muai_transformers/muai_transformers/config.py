"""The plugin's part of the config schema. Import it only when options are validated."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class TransformersOptions(BaseModel):
    """Options of engine `transformers`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    max_num_seqs: Annotated[int, Field(ge=1, le=1024)] = 16
    """Requests that are served together; more wait."""
    kv_cache_gib: Annotated[float, Field(gt=0, le=4096)] | None = None
    """Memory for the context of all running requests. Unset: room for `max_num_seqs` full contexts,
    but at most 1 GiB or one full context, whichever is more."""
    num_threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads. Unset: as many of the usable cores as make it fastest, tuned while it runs."""
    keep_unpacked: bool = True
    """Keep the unpacked weights of a GGUF file under the user's cache folder for the next start."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
