"""`muai reinstate`: an operator's word that a device is fit again."""

from pathlib import Path

import click

from muai_core.cli.output import json_option, paragraph, print_json
from muai_core.cli.state_directory import state_dir_option


class WrongDevice(click.ClickException):
    """The name is not that of one device; the text says which there are."""

    exit_code = 2


@click.command("reinstate")
@click.argument("device")
@state_dir_option
@json_option
def command(device: str, state_dir: Path, as_json: bool) -> None:
    """Tell the running controller that DEVICE is fit again.

    DEVICE is a UUID, or a name as in `muai devices`, like box/gpu3. All that was found on it is
    forgotten; what the next reading finds counts anew. For after a reset or a repair.
    """
    from muai_core.cli.controller_client import Ambiguous, NotFound, post_reinstate
    from muai_core.runtime.device_names import device_name

    try:
        found = post_reinstate(state_dir, device)
    except (NotFound, Ambiguous) as error:
        raise WrongDevice(error.message) from None
    if as_json:
        print_json(found)
        return
    reason = f", {found['health_reason']}" if found["health_reason"] else ""
    paragraph(
        f"{device_name(found)} is reinstated; it was {found['health']}{reason}. "
        "What the next reading finds counts anew; see `muai devices`."
    )
