"""A plan for people: the models, what their ranks hold, where the replicas go, and the devices."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from muai_core.cli.output import UNKNOWN, note, paragraph, print_table
from muai_core.cli.plan_bars import legend, print_bars
from muai_core.cli.verdicts import print_verdicts
from muai_core.cli.wording import counted, device_ranges, memory, shape, text
from muai_core.model.health import Health
from muai_core.runtime.device_names import device_name
from muai_core.runtime.memory_views import KINDS

View = Mapping[str, Any]


def print_plan(view: View) -> None:
    """The whole plan; what found no devices stands last, before the summary."""
    for rejected in view["events_rejected"]:
        note(rejected)
    _print_models(view)
    _print_ranks(view)
    if any(model["placement"] for model in view["models"].values()):
        paragraph()
        _print_replicas(view)
    if view["devices"]:
        names = list(view["models"])
        paragraph()
        print_bars(view["devices"], names)
        paragraph(legend(names, view["devices"]))
    _print_alternatives(view)
    _print_unplaced(view)
    paragraph()
    paragraph(_summary(view))


def _print_models(view: View) -> None:
    rows = [
        [
            name,
            model["engine"],
            shape(model["tensor_parallel_size"], model["pipeline_parallel_size"]),
            f"{len(model['placement'])}/{model['replicas']}",
            _per_device(model),
            model["engine_reason"],
        ]
        for name, model in view["models"].items()
    ]
    headings = ["model", "engine", "shape", "placed", "per device", "why this engine"]
    print_table(headings, rows, right="per device")


def _per_device(model: View) -> str:
    """What a rank claims: as estimated, or as somebody said."""
    found = [rank["total_bytes"] for rank in model["ranks"]]
    if not found:
        return memory(model["memory_bytes_per_device"])
    least, most = memory(min(found)), memory(max(found))
    return most if least == most else f"{least} to {most}"


def _print_ranks(view: View) -> None:
    """By kind, stage by stage: of the first replica of each model whose memory was estimated."""
    rows = []
    for name, model in view["models"].items():
        for stage, rank in stages_of(model["ranks"]):
            rows.append(
                [
                    name,
                    stage,
                    str(rank["layers"]),
                    *(memory(rank[kind]) for kind in KINDS),
                    memory(rank["total_bytes"]),
                    _tokens(model),
                ]
            )
    if rows:
        paragraph()
        headings = ["rank of", "stage", "layers", *KINDS.values(), "total", "KV tokens"]
        print_table(headings, rows, right=", ".join(["layers", *KINDS.values(), "total"]))


def stages_of(ranks: Sequence[View]) -> Iterator[tuple[str, View]]:
    """The ranks of a stage are alike; stages that are alike stand together."""
    runs: list[list[View]] = []
    for rank in ranks:
        kinds = [*KINDS, "layers"]
        if runs and all(runs[-1][-1][kind] == rank[kind] for kind in kinds):
            runs[-1].append(rank)
        else:
            runs.append([rank])
    for run in runs:
        first, last = run[0]["stage"], run[-1]["stage"]
        yield (str(first) if first == last else f"{first}-{last}"), run[0]


def _tokens(model: View) -> str:
    """What the KV cache is planned for, and for what there would be room."""
    if model["context_tokens"] is None:
        return UNKNOWN
    planned = f"{model['concurrency']} x {model['context_tokens']}"
    possible = [one["kv_tokens_possible"] for one in model["placed"]]
    known = [tokens for tokens in possible if tokens is not None]
    return f"{planned}, room for {min(known)}" if known else planned


def _print_replicas(view: View) -> None:
    rows = []
    for model in view["models"].values():
        for replica in model["placed"]:
            stages = [
                device_ranges(view["devices"][uuid] for uuid in stage)
                for stage in replica["stages"]
            ]
            claims = sorted(set(replica["claims"].values()))
            claimed = memory(claims[0]) if len(claims) == 1 else "differs"
            rows.append(
                [
                    replica["replica"],
                    shape(replica["tensor_parallel_size"], replica["pipeline_parallel_size"]),
                    " | ".join(stages),
                    claimed,
                    text(replica["reason"]),
                ]
            )
    headings = ["replica", "shape", "devices by stage", "claims", "why these devices"]
    print_table(headings, rows, right="claims")


def _print_alternatives(view: View) -> None:
    """The runner-up shapes of each model that has a choice: the few that tell most."""
    rows = [
        [name, *row]
        for name, model in view["models"].items()
        for row in alternative_rows(_runners_up(model["alternatives"] or ()))
    ]
    if rows:
        paragraph()
        print_table(["model", *ALTERNATIVE_HEADINGS], rows, right="per rank, all ranks")


def _runners_up(found: Sequence[View]) -> list[View]:
    """Those that would be preferred to the chosen one, and the next that fit."""
    place = next((i for i, one in enumerate(found) if one["verdict"] == "chosen"), 0)
    fits = [one for one in found[place + 1 :] if one["verdict"] == "fits"]
    return [*found[:place][-_RUNNERS_UP:], *fits[:_RUNNERS_UP]]


_RUNNERS_UP = 3
ALTERNATIVE_HEADINGS = ("other shape", "verdict", "per rank", "all ranks", "because")


def alternative_rows(found: Sequence[View]) -> Iterator[list[str]]:
    """The cells of those that were not chosen."""
    for one in found:
        if one["verdict"] != "chosen":
            yield [
                shape(one["tensor_parallel_size"], one["pipeline_parallel_size"]),
                one["verdict"],
                memory(one["rank_bytes"]),
                memory(one["total_bytes"]),
                text(one["reason"]),
            ]


def print_moves(waiting: str, moves: Sequence[View], devices: Mapping[str, View]) -> None:
    """What would serve the waiting model; nothing of it is done."""
    paragraph(f"{waiting} would be served if these moved:")
    rows = [
        [
            one["replica"],
            _where(one["before"], devices),
            _where(one["after"], devices),
            memory(one["moved_bytes"]),
        ]
        for one in moves
    ]
    print_table(["replica", "from", "to", "claims"], rows, right="claims")


def _print_unplaced(view: View) -> None:
    devices = view["devices"]
    for unplaced in view["unplaced"]:
        paragraph()
        paragraph(f"{unplaced['replica']} finds no devices: {unplaced['summary']}")
        print_verdicts(
            {**refusal, "verdict": "refused", "device": devices.get(refusal["device"])}
            for refusal in unplaced["refusals"]
        )


def _summary(view: View) -> str:
    placed = sum(len(model["placement"]) for model in view["models"].values())
    wanted = sum(model["replicas"] for model in view["models"].values())
    used = sum(bool(device["claims"]) for device in view["devices"].values())
    there = counted(len(view["devices"]), "device")
    return (
        f"{placed} of {counted(wanted, 'replica')} placed on {used} of {there} "
        f"by strategy {view['strategy']}{_left(view)}; nothing was started."
    )


def _left(view: View) -> str:
    """How much is left, and where most of it."""
    devices = [
        one
        for one in view["devices"].values()
        if one["free_bytes"] > 0 and Health(one["health"]).placeable
    ]
    if not devices:
        return ""
    free = sum(device["free_bytes"] for device in devices)
    most = max(devices, key=lambda device: device["free_bytes"])
    return f"; {memory(free)} left, at most {memory(most['free_bytes'])} on {device_name(most)}"


# --- what if ------------------------------------------------------------------------------------

_WORDS = {
    "unaffected": "unaffected",
    "moved": "moves",
    "reduced": "reduced",
    "reshaped": "reshaped",
    "lost": "not served",
    "unplaced": "waits, as before",
}


def print_what_if(view: View) -> None:
    """What the loss changes for each replica."""
    answer = view["what_if"]
    gone = {device["uuid"]: device for device in answer["without"]}
    devices = {**gone, **view["devices"]}
    paragraph(f"Without {device_ranges(answer['without'])}:")
    rows = []
    for name, model in answer["models"].items():
        for one in model["replicas"]:
            rows.append(
                [
                    name,
                    one["replica"],
                    _verdict(one),
                    _where(one["before"], devices),
                    _where(one["after"], devices),
                ]
            )
    print_table(["model", "replica", "verdict", "before", "after"], rows)
    paragraph()


def _verdict(one: View) -> str:
    words = _WORDS[one["verdict"]]
    if one["verdict"] in ("reduced", "reshaped"):
        return f"{words} to {shape(len(one['after'][0]), len(one['after']))}"
    return words


def _where(stages: list[list[str]] | None, devices: Mapping[str, View]) -> str:
    if stages is None:
        return UNKNOWN
    return " | ".join(device_ranges(devices[uuid] for uuid in stage) for stage in stages)
