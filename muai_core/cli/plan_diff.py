"""`muai plan --diff`: what a config would change in the running controller."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muai_core.cli.configured import load_or_exit, report_and_exit
from muai_core.cli.output import UNKNOWN, note, paragraph, print_table
from muai_core.cli.plan_report import print_moves
from muai_core.cli.verdicts import print_verdicts
from muai_core.cli.wording import counted, device_ranges, text

if TYPE_CHECKING:
    from muai_core.config.loaded import LoadedConfig
    from muai_core.control.state import State
    from muai_core.runtime.resolution import Resolved

View = Mapping[str, Any]


def diff_of(file: str, settings: Sequence[str], state_dir: Path, as_json: bool) -> dict[str, Any]:
    """What would change, as documented in docs/cli.md.

    Exits with status 2 on a wrong config. Raises click.ClickException when the controller does not
    answer, or cannot be understood.
    """
    import msgspec

    from muai_core.cli.controller_client import NotFound, get_snapshot
    from muai_core.control.state import State
    from muai_core.runtime.plan_diff import diff_view, difference

    loaded = load_or_exit(file, settings, as_json)
    try:
        answer = get_snapshot(state_dir)
        snapshot = msgspec.json.encode(answer.body)
        state = msgspec.json.decode(snapshot, type=State)
        resolved = _resolved(file, loaded, state, state_dir, as_json)
        found = difference(snapshot, loaded, resolved)
    except (NotFound, msgspec.ValidationError):
        raise click.ClickException(
            f"the controller in {state_dir} is of another version than this command; "
            "see `muai status` and `muai version`"
        ) from None
    except KeyError as error:
        raise click.ClickException(
            f"the controller in {state_dir} uses {error}, which no plugin registers here; "
            "run this with the same plugins"
        ) from None
    return {"config": file, "controller_pid": answer.pid, **diff_view(found)}


def _resolved(
    file: str, loaded: "LoadedConfig", state: "State", state_dir: Path, as_json: bool
) -> "Resolved":
    """The config's models on the devices that the controller sees."""
    from muai_core.config import ConfigError
    from muai_core.runtime.measured_starts import MeasuredStarts
    from muai_core.runtime.resolution import resolve

    present = [record.device for record in state.devices.values() if record.present]
    names: dict[Any, list[str]] = {}
    for device in present:
        if device.name not in names.setdefault(device.platform, []):
            names[device.platform].append(device.name)
    measured = MeasuredStarts.load(state_dir, note, keep_broken=False)
    try:
        return resolve(loaded, {one.platform for one in present}, measured.calibrator(names))
    except ConfigError as error:
        report_and_exit(file, error, as_json)


def print_diff(view: View) -> None:
    """What changes, model by model; what stays is only counted."""
    if not view["changed"]:
        paragraph("Nothing would change.")
        return
    _print_fields(view)
    rows = [
        [
            name,
            one["replica"],
            one["verdict"],
            _where(one["before"], view),
            _where(one["after"], view),
        ]
        for name, model in view["models"].items()
        for one in model["replicas"]
        if one["verdict"] != "stays"
    ]
    if rows:
        print_table(["model", "replica", "verdict", "now", "then"], rows)
        paragraph()
    for unplaced in view["unplaced"]:
        paragraph(f"{unplaced['replica']} would find no devices: {unplaced['summary']}")
        print_verdicts(
            {**one, "verdict": "refused", "device": view["devices"].get(one["device"])}
            for one in unplaced["refusals"]
        )
        paragraph()
    for name, moves in view["proposed_moves"].items():
        print_moves(name, moves, view["devices"])
        paragraph()
    paragraph(_summary(view))


def _print_fields(view: View) -> None:
    rows = [
        [name, model["verdict"], UNKNOWN, UNKNOWN, UNKNOWN]
        for name, model in view["models"].items()
        if model["verdict"] in ("new", "gone")
    ]
    rows += [
        [name, model["verdict"], *_field(one)]
        for name, model in view["models"].items()
        for one in model["fields"]
    ]
    rows += [[UNKNOWN, "changed", *_field(one)] for one in view["settings"]]
    if rows:
        print_table(["model", "verdict", "what", "now", "then"], rows)
        paragraph()


def _field(change: View) -> tuple[str, str, str]:
    return change["field"], _short(change["before"]), _short(change["after"])


def _short(value: object) -> str:
    return text(value)[:60]


def _where(stages: list[list[str]] | None, view: View) -> str:
    if stages is None:
        return UNKNOWN
    devices = view["devices"]
    return " | ".join(device_ranges(devices[uuid] for uuid in stage) for stage in stages)


def _summary(view: View) -> str:
    verdicts = [one["verdict"] for model in view["models"].values() for one in model["replicas"]]
    told = [
        f"{counted(verdicts.count(verdict), 'replica')} {words}"
        for verdict, words in (
            ("stays", "would stay"),
            ("moves", "would move"),
            ("starts", "would start"),
            ("stops", "would stop"),
            ("waits", "would wait"),
        )
        if verdict in verdicts
    ]
    return f"{', '.join(told) or 'no replica is touched'}; nothing was done."
