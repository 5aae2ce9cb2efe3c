"""How the devices of a node reach each other, as a matrix like that of `nvidia-smi topo -m`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from muai_core.cli.output import UNKNOWN, paragraph, print_table
from muai_core.cli.wording import text

Device = Mapping[str, Any]

#: What the words of the matrix mean, best first.
LEGEND = {
    "X": "itself",
    "NV#": "# NVLinks",
    "NVL": "NVLink or the like, how many is unknown",
    "PIX": "through one PCIe switch",
    "PXB": "through several PCIe switches",
    "PHB": "through a PCIe host bridge",
    "NODE": "through several host bridges of one NUMA node",
    "SYS": "across NUMA nodes",
    UNKNOWN: "unknown",
}


def print_topology(devices: Sequence[Device], links: Iterable[Mapping[str, Any]]) -> None:
    """A matrix for each node with GPUs, then what its words mean."""
    words = _words(links)
    gpus = [device for device in devices if device["kind"] == "gpu"]
    if not gpus:
        paragraph("No GPU was found, so there are no links between GPUs.")
        return
    nodes = dict.fromkeys(device["node"] for device in gpus)
    used: dict[str, None] = {}
    for node in nodes:
        here = [device for device in gpus if device["node"] == node]
        rows = _rows(here, words)
        for row in rows:
            used.update((_in_legend(word), None) for word in row[1 : len(here) + 1])
        paragraph(f"node {node}")
        names = [_name(device) for device in here]
        print_table(["to", *names, "numa node", "cpus"], rows)
        paragraph()
    for word, meaning in LEGEND.items():
        if word in used:
            paragraph(f"{word:<4} {meaning}")


def _words(links: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """(UUID, UUID) → the word for the link between them, both ways round."""
    found = {}
    for link in links:
        word = link["kind"]
        if word == "NVL" and link["nvlinks"]:
            word = f"NV{link['nvlinks']}"
        found[link["a"], link["b"]] = found[link["b"], link["a"]] = word
    return found


def _rows(devices: Sequence[Device], words: Mapping[tuple[str, str], str]) -> list[list[str]]:
    return [
        [
            _name(device),
            *(_word(device, other, words) for other in devices),
            text(device["numa_node"]),
            text(device["cpu_affinity"]),
        ]
        for device in devices
    ]


def _word(device: Device, other: Device, words: Mapping[tuple[str, str], str]) -> str:
    if device["uuid"] == other["uuid"]:
        return "X"
    known = words.get((device["uuid"], other["uuid"]))
    if known is not None:
        return known
    same_island = device["island"] is not None and device["island"] == other["island"]
    return "NVL" if same_island else UNKNOWN


def _name(device: Device) -> str:
    return f"{device['kind']}{device['label']}"


def _in_legend(word: str) -> str:
    return word if word in LEGEND else "NV#"
