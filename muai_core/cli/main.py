"""The program `muai`: its commands by name, its errors in one line, its exit status.

A command's module is imported when the command runs, so the table below repeats each one's summary;
a test holds the two equal.
"""

import os
import sys
from collections.abc import Sequence

import click

from muai_core.cli.command_table import CommandTable

#: Command → its summary. The command `x` is the object `command` in `muai_core.cli.x`.
COMMANDS = {
    "run": "Serve the models of a config FILE until stopped.",
    "check": "Check a config FILE and start nothing.",
    "config": "Print the effective config of FILE as YAML.",
    "schema": "Print the JSON schema of the config file, with the options of the installed "
    "plugins.",
    "plan": "Show what would be placed where, and start nothing.",
    "explain": "Explain why MODEL is where it is, or why it waits.",
    "memory": "Estimate what MODEL needs of each GPU, for every shape and context.",
    "devices": "List the devices and their health.",
    "reinstate": "Tell the running controller that DEVICE is fit again.",
    "plugins": "List the plugins and what they register.",
    "plugin": "Check a plugin against its contract, or write a new one.",
    "status": "Show the models, replicas and devices of a running controller.",
    "stop": "Stop a running controller.",
    "replay": "Replay a JOURNAL and print the digest it leads to.",
    "version": "Print the versions of MuAI, its plugins and Python.",
}

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_STDERR = 2

TRACEBACK_VARIABLE = "MUAI_TRACEBACK"


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        import muai_core

        click.echo(f"muai {muai_core.__version__}")
        ctx.exit()


@click.group(
    cls=CommandTable,
    summaries=COMMANDS,
    home="muai_core.cli.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`muai COMMAND --help` tells more. Exit status: 0 done, 1 failed, 2 wrong usage or "
    "config, 3 no controller is running, 130 interrupted.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version and exit.",
)
def cli() -> None:
    """Serve several models on the GPUs you have, behind one OpenAI-compatible endpoint."""


def main() -> None:
    """The console script."""
    _fill_standard_streams()
    status = run(sys.argv[1:])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more. Python would complain when it flushes again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = status or EXIT_FAILURE
    sys.exit(status)


def _fill_standard_streams() -> None:
    """Open what was closed (`2>&-`): the next file or socket would get its number, and its text."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)


def run(arguments: Sequence[str]) -> int:
    """Run one command; report whatever goes wrong; return the exit status."""
    try:
        result = cli.main(args=list(arguments), prog_name="muai", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_FAILURE
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else EXIT_FAILURE
    except Exception as error:  # noqa: BLE001 - the last line of defence
        return _report(error)
    # With standalone_mode off, click returns the status of ctx.exit() and else the command's value.
    return result if isinstance(result, int) else 0


def _report(error: Exception) -> int:
    from muai_core.config.errors import ConfigError

    if isinstance(error, ConfigError):
        click.echo(str(error), err=True)
        return EXIT_USAGE
    if os.environ.get(TRACEBACK_VARIABLE):
        import traceback

        traceback.print_exception(error)
    kind = type(error).__name__
    hint = f"set {TRACEBACK_VARIABLE}=1 to see where"
    click.echo(f"muai: unexpected {kind}: {error} ({hint})", err=True)
    return EXIT_FAILURE


if __name__ == "__main__":
    main()
