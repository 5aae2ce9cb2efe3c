"""`muai explain`: why a model is where it is, or why it waits."""

from pathlib import Path
from typing import Any

import click

from muai_core.cli.configured import EXIT_CONFIG_ERROR
from muai_core.cli.output import json_option, paragraph, print_json, print_table
from muai_core.cli.state_directory import state_dir_option
from muai_core.cli.verdicts import print_verdicts
from muai_core.cli.wording import device_ranges, duration, memory, shape


class UnknownModel(click.ClickException):
    """Nobody asked for a model of that name."""

    exit_code = EXIT_CONFIG_ERROR


@click.command("explain")
@click.argument("model")
@click.argument("file", required=False)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="PATH=VALUE",
    help="Override one value of FILE, as in allocation.strategy=balanced. Repeatable.",
)
@state_dir_option
@json_option
def command(
    model: str, file: str | None, settings: tuple[str, ...], state_dir: Path, as_json: bool
) -> None:
    """Explain why MODEL is where it is, or why it waits.

    With a config FILE, as `muai plan` would place it; without one, as it is in the running
    controller: which engine and why not the others, every device with the filter that refused it,
    the last failure with the end of its log, and when the next start is due.
    """
    if file is not None:
        view = _planned(model, file, settings, as_json)
    elif settings:
        raise click.UsageError("--set needs a config FILE; a running controller has its own")
    else:
        view = _running(model, state_dir)
    if as_json:
        print_json(view)
    else:
        print_explanation(view)


def _planned(model: str, file: str, settings: tuple[str, ...], as_json: bool) -> dict[str, Any]:
    from muai_core.cli.plan import dry_run_or_exit
    from muai_core.runtime.explain import explain_view

    result = dry_run_or_exit(file, settings, as_json)
    choices = result.resolved.choices.get(model, ())
    view = explain_view(result.state, model, choices, result.now_s, planned=True)
    if view is None:
        known = ", ".join(result.state.deployments)
        raise UnknownModel(f"there is no model {model!r} in {file}; there are: {known}")
    return view


def _running(model: str, state_dir: Path) -> dict[str, Any]:
    from muai_core.cli.controller_client import NotFound, get_explanation

    try:
        return get_explanation(state_dir, model)
    except NotFound as error:
        raise UnknownModel(error.message) from None


def print_explanation(view: dict[str, Any]) -> None:
    """The model, its engines, then one paragraph for each replica."""
    ready = "" if view["planned"] else f": {view['state']}, {view['ready']} of {view['desired']} up"
    paragraph(f"{view['model']}{ready}")
    paragraph(f"source {view['source']}")
    need_bytes = view["memory_bytes_per_device"]
    need = "whole devices" if need_bytes is None else f"{memory(need_bytes)} of each device"
    sizes = shape(view["tensor_parallel_size"], view["pipeline_parallel_size"])
    paragraph(f"{sizes}, needs {need}, placed by strategy {view['strategy']}")
    paragraph()
    rows = [
        [choice["engine"], "chosen" if choice["chosen"] else "not chosen", choice["reason"]]
        for choice in view["engines"]
    ]
    print_table(["engine", "verdict", "because"], rows)
    for replica in view["replicas"]:
        paragraph()
        _print_replica(replica, view["planned"])


def _print_replica(replica: dict[str, Any], planned: bool) -> None:
    paragraph(_headline(replica, planned))
    if replica["devices"] is not None and replica["placement_reason"]:
        paragraph(f"why: {replica['placement_reason']}")
    if replica["blocked"] is not None:
        paragraph(f"why: {replica['blocked']}")
    if replica["retry_in_s"] is not None and replica["state"] == "backoff":
        reason = replica["recovery_reason"] or "no reason given"
        paragraph(f"starts again in {duration(replica['retry_in_s'])}: {reason}")
    elif replica["state"] == "abandoned":
        paragraph(f"why: {replica['recovery_reason'] or 'the recovery policy gave up'}")
    failure = replica["last_failure"]
    if failure is not None:
        ago = duration(failure["ago_s"])
        paragraph(f"last failure {ago} ago, epoch {failure['epoch']}: {failure['cause']}")
        for line in failure["log_tail"].splitlines():
            paragraph(f"    {line}")
    print_verdicts(replica["considered"])


def _headline(replica: dict[str, Any], planned: bool) -> str:
    stages = replica["devices"]
    where = "" if stages is None else " | ".join(device_ranges(stage) for stage in stages)
    if planned:
        return f"{replica['id']} would {f'go to {where}' if where else 'wait for devices'}"
    text = f"{replica['id']} {replica['state']} for {duration(replica['for_s'])}"
    if where:
        text += f" on {where}"
    if replica["stage"] is not None:
        text += f", stage {replica['stage']}"
    if replica["detail"] is not None:
        text += f": {replica['detail']}"
    return text
