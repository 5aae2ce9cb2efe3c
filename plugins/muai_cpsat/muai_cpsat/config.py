"""The options under `allocation.options` with `allocation.strategy: cpsat`."""

from pydantic import BaseModel, ConfigDict, Field

#: CP-SAT's own unit of work: about a second on a common core, but the same work on every machine.
DETERMINISTIC_TIME_LIMIT = 1.0
MAX_VARIABLES = 20_000


class CpSatOptions(BaseModel):
    """How much work a plan may cost."""

    model_config = ConfigDict(extra="forbid")

    deterministic_time_limit: float = Field(
        default=DETERMINISTIC_TIME_LIMIT,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="Work that the solver may do for one plan, in CP-SAT's deterministic time: "
        "about a second each on a common core, and equal on every machine, so that equal fleets "
        "get equal plans. The control plane waits for it. What is found by then is used, with its "
        "distance from the bound in the placement's reason.",
    )
    max_variables: int = Field(
        default=MAX_VARIABLES,
        ge=1,
        le=1_000_000,
        description="Size of the question at most: ways to place each replica, and devices for "
        "them. On a fleet that has more, only a part of the ways is weighed, and the placement's "
        "reason says so.",
    )
