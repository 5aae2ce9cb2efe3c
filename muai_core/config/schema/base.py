"""What all sections share."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

MODEL_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$"


class Section(BaseModel):
    """A mapping of the config file: unknown keys and wrong types are errors, nothing changes."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def _selector(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    return value


class Words(NamedTuple):
    """Says in a message what a value should be, where its type alone does not."""

    words: str


def _size(value: Any) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 4096:
        return value
    # A word for pydantic only: what is told to people comes from `Words`.
    raise PydanticCustomError("parallel_size", "not a parallel size")


#: A device by UUID, or by its display index.
DeviceSelector = Annotated[
    str,
    BeforeValidator(_selector),
    Field(min_length=1, max_length=200),
    Words("the UUID or the index of a device"),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}),
]
Name = Annotated[str, Field(min_length=1, max_length=200)]
ParallelSize = Annotated[int, Field(ge=1, le=4096)]
#: A size, or that the planner chooses it.
PlannedSize = Annotated[
    int | Literal["auto"],
    PlainValidator(_size),
    Words("a whole number from 1 to 4096 or auto"),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 4096}, {"const": "auto"}]}
    ),
]
Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600)]
#: Options that a plugin owns; validated by the plugin's own model.
PluginOptions = dict[str, Any]
