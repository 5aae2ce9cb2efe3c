"""`muai stop`: end a running controller and wait until it is gone."""

import os
import select
import time
from pathlib import Path

import click

from muai_core.cli.output import note
from muai_core.cli.state_directory import state_dir_option

DEFAULT_WAIT_S = 120.0


@click.command("stop")
@state_dir_option
@click.option("--now", is_flag=True, help="Kill the engines instead of draining them first.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=DEFAULT_WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="Longest time to wait until the controller is gone; 0 only asks.",
)
def command(state_dir: Path, now: bool, wait_s: float) -> None:
    """Stop a running controller.

    Requests in flight may finish, then every engine is stopped. Exits with status 0 when the
    controller's process is gone, 1 when it is still there after the wait, 3 when none was running.
    """
    from muai_core.cli.controller_client import post_stop

    deadline_s = time.monotonic() + wait_s
    pid = post_stop(state_dir, now)
    if wait_s == 0:
        click.echo(f"asked the controller (pid {pid}) to stop")
        return
    if pid == 0:
        raise click.ClickException(
            "asked the controller to stop, but its end cannot be seen from this pid namespace"
        )
    note(f"asked the controller (pid {pid}) to stop; waiting until it is gone")
    if not _wait_until_gone(pid, deadline_s):
        raise click.ClickException(
            f"the controller (pid {pid}) is still there after {wait_s:g} s; "
            "see `muai status`, or stop it with --now"
        )
    click.echo("stopped")


def _wait_until_gone(pid: int, deadline_s: float) -> bool:
    """Whether the process `pid` ended before the deadline."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        # The kernel closes a process's files, and so drops its lock, before it reports the end.
        return bool(poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000))
    finally:
        os.close(process)
