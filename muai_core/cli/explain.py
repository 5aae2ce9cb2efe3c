"""`muai explain`: why a model is where it is, or why it waits."""

from pathlib import Path
from typing import Any

import click

from muai_core.cli.configured import EXIT_CONFIG_ERROR
from muai_core.cli.output import json_option, paragraph, print_json, print_table
from muai_core.cli.state_directory import state_dir_option
from muai_core.cli.verdicts import print_verdicts
from muai_core.cli.wording import device_ranges, duration, memory, shape
from muai_core.runtime.memory_views import KINDS


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
    paragraph(f"{_shape(view)}, needs {_need(view)}, placed by strategy {view['strategy']}")
    paragraph()
    rows = [
        [choice["engine"], "chosen" if choice["chosen"] else "not chosen", choice["reason"]]
        for choice in view["engines"]
    ]
    print_table(["engine", "verdict", "because"], rows)
    _print_shapes(view)
    for replica in view["replicas"]:
        paragraph()
        _print_replica(replica, view["planned"])


def _shape(view: dict[str, Any]) -> str:
    """Of the first replica that holds devices, else the preferred one."""
    for replica in view["replicas"]:
        if replica["devices"]:
            return shape(len(replica["devices"][0]), len(replica["devices"]))
    return shape(view["tensor_parallel_size"], view["pipeline_parallel_size"])


def _need(view: dict[str, Any]) -> str:
    need_bytes = view["memory_bytes_per_device"]
    if need_bytes is not None:
        return f"{memory(need_bytes)} of each device"
    for replica in view["replicas"]:
        if replica["ranks"]:
            most = memory(max(rank["total_bytes"] for rank in replica["ranks"]))
            return f"up to {most} of each device"
    return "whole devices"


def _print_shapes(view: dict[str, Any]) -> None:
    """The other shapes, and what would have to move for a model that waits."""
    from muai_core.cli.plan_report import ALTERNATIVE_HEADINGS, alternative_rows, print_moves

    found = view["alternatives"] or ()
    if len(found) > 1:
        paragraph()
        print_table(
            ALTERNATIVE_HEADINGS, list(alternative_rows(found)), right="per rank, all ranks"
        )
    if view["proposed_moves"]:
        considered = view["replicas"][0]["considered"]
        devices = {one["device"]["uuid"]: one["device"] for one in considered if one["device"]}
        paragraph()
        print_moves(view["model"], view["proposed_moves"], devices)


def _print_ranks(replica: dict[str, Any]) -> None:
    from muai_core.cli.plan_report import stages_of

    rows = [
        [stage, str(rank["layers"]), *(memory(rank[kind]) for kind in (*KINDS, "total_bytes"))]
        for stage, rank in stages_of(replica["ranks"])
    ]
    if rows:
        headings = ["stage", "layers", *KINDS.values(), "total"]
        print_table(headings, rows, right=", ".join(headings[1:]))


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
    _print_ranks(replica)
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
