"""Options that a plugin owns inside the config file."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel


class Configurable:
    """Anything whose options stand in the config file.

    `options_model` is called when a config is loaded or the schema is printed: return a pydantic
    model with `extra="forbid"`. Import pydantic inside the method, so that importing the plugin
    stays light. Return None to accept no options.
    """

    #: The name users write in the config; lower case, unique among plugins of the same kind.
    name: str

    def options_model(self) -> "type[BaseModel] | None":
        return None
