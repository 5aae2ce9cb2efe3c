"""What all sections share."""

from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

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
Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600)]
#: Options that a plugin owns; validated by the plugin's own model.
PluginOptions = dict[str, Any]
