"""A group of commands whose modules are imported only when they are needed."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class CommandTable(click.Group):
    """Imports a command's module only to run it or to show its own help.

    The table repeats each command's summary; a test holds the two equal.
    """

    def __init__(self, *args: Any, summaries: Mapping[str, str], home: str, **kwargs: Any) -> None:
        """`summaries`: command → its summary. The command `x` is the object `command` in the
        module `home` + `x`.
        """
        super().__init__(*args, **kwargs)
        self.summaries = summaries
        self._home = home

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.summaries:
            return None
        command: click.Command = import_module(f"{self._home}{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.summaries and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, self.summaries, n=1, cutoff=0.5)
            there = ", ".join(self.summaries)
            meant = f"did you mean {near[0]}?" if near else f"there are: {there}"
            raise click.UsageError(f"no command {name!r}; {meant}", ctx)
        return super().resolve_command(ctx, args)
