"""muai devices --topology: who reaches whom how."""

import json
from pathlib import Path
from typing import Any

import pytest

PLUGIN = """
from muai_core import Device, DeviceLink, DeviceSource, Inventory, hookimpl

def gpu(index, **fields):
    return Device(uuid=f"GPU-{index}", node="box", index=index, kind="gpu", platform="cuda",
                  name="G", memory_total_bytes=1, **fields)

class Linked(DeviceSource):
    name = "linked"
    def observe(self, now_s):
        devices = (
            gpu(0, numa_node=0, cpu_affinity="0-31,64-95", island="a"),
            gpu(1, numa_node=0, cpu_affinity="0-31,64-95", island="a"),
            gpu(2, numa_node=1, cpu_affinity="32-63", island="b"),
            gpu(3, island="b"),
        )
        links = (
            DeviceLink(a="GPU-0", b="GPU-1", kind="NVL", nvlinks=18, p2p=True),
            DeviceLink(a="GPU-0", b="GPU-2", kind="SYS", p2p=False),
            DeviceLink(a="GPU-2", b="GPU-1", kind="NODE"),
        )
        return Inventory(source="linked", observed_at_s=now_s, devices=devices, links=links)

@hookimpl
def muai_device_sources():
    return [Linked()]
"""


@pytest.fixture
def config(tmp_path: Path, fleet_config: Any) -> str:
    file: str = fleet_config("  chat: {source: weights, engine: fake}\n")
    (tmp_path / "linked.py").write_text(PLUGIN)
    text = (tmp_path / file).read_text()
    text = text.replace("[fake_fleet.py]", "[fake_fleet.py, linked.py]")
    (tmp_path / file).write_text(text.replace("sources: [fake]", "sources: [linked]"))
    return file


def test_the_topology_is_a_matrix_with_numa_nodes_cpus_and_a_legend(muai: Any, config: str) -> None:
    done = muai("devices", "--topology", config)
    assert (done.status, done.err) == (0, "")
    assert (
        done.out
        == """\
node box
TO    GPU0  GPU1  GPU2  GPU3  NUMA NODE  CPUS
gpu0  X     NV18  SYS   -     0          0-31,64-95
gpu1  NV18  X     NODE  -     0          0-31,64-95
gpu2  SYS   NODE  X     NVL   1          32-63
gpu3  -     -     NVL   X     -          -

X    itself
NV#  # NVLinks
NVL  NVLink or the like, how many is unknown
NODE through several host bridges of one NUMA node
SYS  across NUMA nodes
-    unknown
"""
    )


def test_the_links_as_json(muai_json: Any, config: str) -> None:
    links = muai_json("devices", config, "--topology")
    assert links[0] == {
        "source": "linked",
        "a": "GPU-0",
        "b": "GPU-1",
        "kind": "NVL",
        "nvlinks": 18,
        "p2p": True,
    }
    assert [(link["kind"], link["p2p"]) for link in links[1:]] == [("SYS", False), ("NODE", None)]


def test_without_a_gpu_there_are_no_links(muai: Any) -> None:
    done = muai("devices", "--topology")
    assert done.status == 0
    assert done.out == "No GPU was found, so there are no links between GPUs.\n"
    assert json.loads(muai("devices", "--topology", "--json").out) == []


def test_the_topology_cannot_be_watched(muai: Any) -> None:
    done = muai("devices", "--topology", "--watch")
    assert done.status == 2
    assert "nothing to --watch" in done.err
