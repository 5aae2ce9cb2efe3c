"""Options that a plugin owns inside the config file."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel


class Configurable:
    """Anything whose options stand in the config file."""

    #: The name users write in the config; lower case, unique among plugins of the same kind.
    name: str

    def options_model(self) -> "type[BaseModel] | None":
        """Called when a config is loaded, and when the schema is printed.

        Return a pydantic model with `extra="forbid"`, or None to accept no options. Import pydantic
        inside the method, so that importing the plugin stays light. It must not block. A raise is
        a config error with the exception as its reason.
        """
        return None
