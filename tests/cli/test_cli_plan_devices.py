"""muai plan --devices and --without: planning without hardware, and what if a part of it died."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from muai_core.model.cards import CARDS

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")
GIB = 1024**3

PAIR = "  chat: {source: weights, engine: fake, tensor_parallel_size: 2, memory_gib: 10}\n"
MODELS = PAIR + "  small: {source: weights, engine: fake, replicas: 2, memory_gib: 10}\n"


@pytest.fixture
def planned(muai: Any, fleet_config: Any) -> Any:
    """The plan of these models on the given devices, as JSON; its exit status as `status`."""

    def plan(models: str, *arguments: str) -> Any:
        done = muai("plan", fleet_config(models), "--json", *arguments)
        assert done.err == ""
        return {**json.loads(done.out), "status": done.status}

    return plan


def names(view: Any) -> list[str]:
    return [f"{one['node']}/{one['label']}" for one in view["devices"].values()]


# --- specs --------------------------------------------------------------------------------------


def test_a_spec_is_a_box_with_what_nvml_reports(planned: Any) -> None:
    view = planned(MODELS, "--devices", "4xA100-40GB,2xL4-24GB")
    assert view["status"] == 0
    assert names(view) == [f"box/{index}" for index in range(6)]
    devices = list(view["devices"].values())
    assert [one["name"] for one in devices] == ["NVIDIA A100-SXM4-40GB"] * 4 + ["NVIDIA L4"] * 2
    assert {one["platform"] for one in devices} == {"cuda"}
    first = devices[0]
    card = CARDS["A100-40GB"]
    assert first["capacity_bytes"] == 40_960 * 2**20
    assert first["driver_reserved_bytes"] == card.memory_reserved_bytes
    assert first["allocatable_bytes"] == card.memory_usable_bytes
    assert [one["island"] for one in devices] == ["box/nvlink-0"] * 4 + [None] * 2
    assert [one["numa_node"] for one in devices] == [0, 0, 0, 1, 1, 1]
    used = [uuid for stage in view["models"]["chat"]["placement"][0] for uuid in stage]
    assert {view["devices"][uuid]["island"] for uuid in used} == {"box/nvlink-0"}


@pytest.mark.parametrize(
    ("specs", "nodes"),
    [
        (["2x8xH100-80GB"], {"box-0": 8, "box-1": 8}),
        (["2*8xh100-80gb"], {"box-0": 8, "box-1": 8}),
        (["rack=2x4xL4-24GB"], {"rack-0": 4, "rack-1": 4}),
        (["a=8xL4-24GB", "b=T4-16GB"], {"a": 8, "b": 1}),
        (["8xL4-24GB", "T4-16GB"], {"box-0": 8, "box-1": 1}),
    ],
)
def test_several_boxes(planned: Any, specs: list[str], nodes: dict[str, int]) -> None:
    view = planned(PAIR, *(word for spec in specs for word in ("--devices", spec)))
    found: dict[str, int] = {}
    for device in view["devices"].values():
        found[device["node"]] = found.get(device["node"], 0) + 1
    assert found == nodes
    assert len({device["uuid"] for device in view["devices"].values()}) == sum(nodes.values())


def test_equal_specs_give_equal_plans(planned: Any) -> None:
    first, second = (planned(MODELS, "--devices", "2x8xH100-80GB") for _ in range(2))
    for view in (first, second):
        view.pop("device_sources")
    assert first == second


def test_every_card_is_documented() -> None:
    told = DOCUMENT.partition("Cards:\n")[2].partition("Without `PCIE`")[0]
    found = told.replace(" and ", ", ").replace("\n", " ").rstrip(". ").split(",")
    assert [name.strip() for name in found] == list(CARDS)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("8xH100", "there is no card 'H100'; did you mean H100-80GB? known: B200-180GB, "),
        ("8xTurbo", "there is no card 'Turbo'; known: B200-180GB, "),
        ("0xL4-24GB", "there must be at least one GPU"),
        ("999999999xL4-24GB", "at most 64 are possible"),
        ("99999x64xL4-24GB", "at most 10000 are possible"),
        ("9999999999999999xL4-24GB", "is not understood; write COUNTxCARD"),
        ("8x", "is not understood; write COUNTxCARD"),
        ("8xL4-24GB,", "'' is not understood"),
        ("", "names no devices"),
        ("2x4xL4-24GB,T4-16GB", "cannot stand beside a comma"),
        ("x" * 5000, "is too long"),
        ("x" * 300, "there is no card 'xxx"),
        ("~nobody-here/x.yaml", "no such file"),
        ("no/such.yaml", "no/such.yaml: no such file"),
        ("missing.json", "missing.json: no such file"),
    ],
)
def test_a_wrong_spec_is_one_line(muai: Any, fleet_config: Any, spec: str, words: str) -> None:
    done = muai("plan", fleet_config(PAIR), "--devices", spec)
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("Error: --devices: ")
    assert words in line


def test_two_boxes_of_one_name_are_a_mistake(muai: Any, fleet_config: Any) -> None:
    devices = ("--devices", "a=L4-24GB", "--devices", "a=T4-16GB")
    done = muai("plan", fleet_config(PAIR), *devices)
    assert (done.status, done.err) == (
        2,
        "Error: --devices: two boxes are called 'a'; give each a name of its own\n",
    )


def test_a_wrong_spec_is_json_when_json_is_wanted(muai: Any, fleet_config: Any) -> None:
    done = muai("plan", fleet_config(PAIR), "--devices", "8xH100", "--json")
    assert (done.status, done.err) == (2, "")
    told = json.loads(done.out)
    assert (told["ok"], told["problems"][0]["override"]) == (False, "--devices")


def test_a_rehearsal_is_planned_on_real_gpus() -> None:
    """The simulated plugin is not among those that the other tests have."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "muai_core.cli.main", "plan", "--json"),
            *(str(EXAMPLES / "rehearsal.yaml"), "--devices", "8xA100-80GB"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    view = json.loads(done.stdout)
    assert (done.returncode, done.stderr, view["unplaced"]) == (0, "", [])
    assert {one["platform"] for one in view["devices"].values()} == {"cuda"}
    for model in view["models"].values():
        for rank in model["ranks"]:
            kinds = ("weights_bytes", "kv_cache_bytes", "activation_bytes", "overhead_bytes")
            assert sum(rank[kind] for kind in kinds) == rank["total_bytes"]
            assert rank["weights_bytes"] > 0
        for replica in model["placed"]:
            claims = {rank["device"]: rank["total_bytes"] for rank in replica["ranks"]}
            assert claims == replica["claims"]
            assert replica["kv_tokens_possible"] >= model["concurrency"] * model["context_tokens"]
        chosen = [one for one in model["alternatives"] if one["verdict"] == "chosen"]
        shape = (model["tensor_parallel_size"], model["pipeline_parallel_size"])
        assert [(one["tensor_parallel_size"], one["pipeline_parallel_size"]) for one in chosen] == [
            shape
        ]
    for device in view["devices"].values():
        assert device["claimed_bytes"] == sum(device["claims"].values())
        assert device["claimed_bytes"] <= device["allocatable_bytes"]
        for replica_id, kinds in device["claims_by_kind"].items():
            assert sum(kinds.values()) == device["claims"][replica_id]
    table = DOCUMENT.partition("| key of `plan.models.NAME.ranks[]` |")[2].partition("\n\n")[0]
    assert all(f"`{key}`" in table for key in view["models"]["llama-70b"]["ranks"][0])


# --- inventory files ----------------------------------------------------------------------------


def test_a_recorded_inventory_gives_the_plan_of_its_machine(
    muai: Any, planned: Any, fleet_config: Any, tmp_path: Path
) -> None:
    file = fleet_config(MODELS)
    (tmp_path / "devices.json").write_text(muai("devices", file, "--json").out)
    there, elsewhere = planned(MODELS), planned(MODELS, "--devices", "devices.json")
    for view in (there, elsewhere):
        view.pop("device_sources")
    assert elsewhere["devices"]["GPU-fake-3"]["health"] == "failed"
    assert elsewhere == there


def test_links_may_come_from_a_second_file(planned: Any, muai: Any, tmp_path: Path) -> None:
    view = planned(PAIR, "--devices", "2xL4-24GB")
    uuids = list(view["devices"])
    rows = [
        {"uuid": uuid, "node": "n", "index": i, "kind": "gpu", "platform": "cuda", "name": "L4"}
        for i, uuid in enumerate(uuids)
    ]
    devices = [{**row, "memory_total_bytes": 20 * GIB, "new_key": 1} for row in rows]
    links = [{"source": "nvml", "a": uuids[0], "b": uuids[1], "kind": "PIX", "nvlinks": 0}]
    (tmp_path / "devices.json").write_text(json.dumps(devices))
    (tmp_path / "links.json").write_text(json.dumps(links))
    both = ("--devices", "devices.json", "--devices", "links.json")
    assert planned(PAIR, *both)["status"] == 0
    (tmp_path / "links.json").write_text(json.dumps([{**links[0], "b": "GPU-other"}]))
    done = muai("plan", "muai.yaml", *both)
    assert done.status == 2
    assert "a link names the device 'GPU-other', which is not listed" in done.err


def test_an_inventory_on_the_standard_input(
    fleet_config: Any, environ: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "muai_core.cli.main", "plan", fleet_config(PAIR), "--json"]
    done = subprocess.run(
        [*command, "--devices", "-"],
        cwd=tmp_path,
        env=environ,
        input="nodes: [{gpus: [2xL4-24GB]}]",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["devices"]) == 2


def test_the_example_inventory_is_what_it_says(planned: Any, tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "inventories" / "mixed.yaml", tmp_path)
    view = planned(PAIR, "--devices", "mixed.yaml")
    assert view["status"] == 0
    by_name = dict(zip(names(view), view["devices"].values(), strict=True))
    assert len(by_name) == 21
    assert by_name["attic/0"]["foreign_bytes"] == 12 * GIB
    assert by_name["attic/2"]["foreign_bytes"] == by_name["attic/3"]["foreign_bytes"] == 1.5 * GIB
    assert by_name["attic/4"]["capacity_bytes"] == 96 * GIB
    assert by_name["dgx-1/7"]["island"] == "dgx-1/nvlink-0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected the output of `muai devices --json`"),
        ("[]", "found no devices in it"),
        ('{"x": 1}', "found the keys x"),
        ("[1]", "[0]: expected `object`, got `int`"),
        ('[{"uuid": "a"}]', "missing field `node`"),
        ('[{"uuid": ', "no JSON: "),
        ("[" * 100_000, "no JSON: "),
        ("nodes: []", "there must be at least one node"),
        ("nodes: {}", "expected `array`, got `object`"),
        ("nodes:\n  - gpus: []", "there must be at least one GPU"),
        ("nodes:\n  - gpus: [8xH100]", "file.yaml:2: there is no card 'H100'; did you mean"),
        ("nodes:\n  - gpu: [L4-24GB]", "unknown field `gpu`; known: gpus, name, count, "),
        ("nodes:\n  - gpus:\n      - {card: L4-24GB, count: x}", "file.yaml:3: nodes[0].gpus[0]."),
        ("nodes: [{gpus: [{card: L4-24GB, foreign_gib: 99}]}]", "99 is not possible"),
        ("nodes: [{gpus: [{card: L4-24GB, foreign_gib: -1}]}]", "-1 is not possible"),
        ("nodes: [{gpus: [{card: L4-24GB, island_size: 2}]}]", "only of cards with NVLink"),
        ("nodes: [{gpus: [{card: {name: X, memory_gib: 1.0e+99}}]}]", "is not possible"),
        ("nodes: [{gpus: [L4-24GB], foreign_gib: {7: 1}}]", "'7' is no GPU of this node"),
        ("nodes: [{gpus: [L4-24GB], name: 'a b'}]", "'a b' is no name of a node"),
        ("nodes: [{gpus: [L4-24GB], count: 0}]", "at least one GPU"),
        ("nodes: [{gpus: [L4-24GB], count: 99999999}]", "at most 10000 are possible"),
        ("nodes: [{gpus: [2xL4-24GB], links: [{between: [0, 9], kind: PIX}]}]", "0 to 1"),
        ("nodes: [{gpus: [2xL4-24GB], links: [{between: [0, 1], kind: X}]}]", "kind: "),
        ("nodes: [", "not YAML"),
        ("\x00", "not allowed in YAML"),
    ],
)
def test_a_wrong_inventory_is_one_line(
    muai: Any, fleet_config: Any, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "file.yaml").write_text(text)
    done = muai("plan", fleet_config(PAIR), "--devices", "file.yaml")
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("Error: --devices: file.yaml")
    assert words in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([{}, {}], "two devices have the UUID 'a'"),
        ([{}, {"uuid": "b"}], "two devices have the name 'n/gpu0'"),
        ([{"memory_total_bytes": -1}], "memory_total_bytes is -1"),
        ([{"memory_total_bytes": 2**62}], "memory_total_bytes is 4611686018427387904"),
        ([{"memory_used_bytes": 2 * GIB}], "memory_used_bytes is 2147483648"),
        ([{"memory_total_bytes": "80 GB"}], "[0].memory_total_bytes: expected `int | null`"),
        ([{"platform": "rocm"}], "[0].platform: invalid enum value 'rocm'"),
        ([{"health": "ill"}], "[0].health: invalid enum value 'ill'"),
        ([{"index": -1}], "an index from 0"),
    ],
)
def test_a_wrong_record_is_one_line(
    muai: Any, fleet_config: Any, tmp_path: Path, changes: list[Any], words: str
) -> None:
    row = {"uuid": "a", "node": "n", "index": 0, "kind": "gpu", "platform": "cuda", "name": "X"}
    rows = [{**row, "memory_total_bytes": GIB, **change} for change in changes]
    (tmp_path / "devices.json").write_text(json.dumps(rows))
    done = muai("plan", fleet_config(PAIR), "--devices", "devices.json")
    assert (done.status, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert words in line


def test_a_folder_or_a_pipe_is_no_inventory(muai: Any, fleet_config: Any, tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    done = muai("plan", fleet_config(PAIR), "--devices", "folder.json")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "this is a directory" in done.err


# --- what if ------------------------------------------------------------------------------------


def verdicts(view: Any) -> dict[str, str]:
    return {
        one["replica"]: one["verdict"]
        for model in view["what_if"]["models"].values()
        for one in model["replicas"]
    }


def test_the_loss_of_an_unused_gpu_changes_nothing(planned: Any) -> None:
    before = planned(MODELS, "--devices", "8xH100-80GB")
    unused = [uuid for uuid, one in before["devices"].items() if not one["claims"]]
    view = planned(MODELS, "--devices", "8xH100-80GB", "--without", unused[-1])
    assert view["status"] == 0
    assert set(verdicts(view).values()) == {"unaffected"}
    assert [one["uuid"] for one in view["what_if"]["without"]] == [unused[-1]]
    assert len(view["devices"]) == 7
    for name, model in view["models"].items():
        assert model["placement"] == before["models"][name]["placement"]


def test_only_what_is_lost_moves(planned: Any) -> None:
    before = planned(MODELS, "--devices", "8xH100-80GB")
    lost = before["models"]["chat"]["placement"][0][0][0]
    view = planned(MODELS, "--devices", "8xH100-80GB", "--without", lost[:12])
    told = verdicts(view)
    here = set(before["devices"][lost]["claims"])
    assert {replica for replica, verdict in told.items() if verdict != "unaffected"} == here
    assert told["chat.0"] == "moved"
    assert lost not in json.dumps(view["models"])
    assert view["status"] == 0


def test_what_has_no_place_left_is_not_served(planned: Any) -> None:
    view = planned(MODELS, "--devices", "2xL4-24GB", "--without", "box/gpu1")
    assert view["status"] == 1
    assert view["what_if"]["models"]["chat"]["verdict"] == "not_served"
    assert verdicts(view)["chat.0"] == "lost"
    assert view["unplaced"][0]["replica"] == "chat.0"


def test_a_whole_node_and_several_gpus_may_be_lost_at_once(planned: Any) -> None:
    view = planned(
        MODELS, "--devices", "2x4xH100-80GB", "--without", "box-0", "--without", "box-1/0"
    )
    assert [f"{one['node']}/{one['label']}" for one in view["what_if"]["without"]] == [
        *(f"box-0/{index}" for index in range(4)),
        "box-1/0",
    ]
    assert names(view) == ["box-1/1", "box-1/2", "box-1/3"]
    assert (view["status"], view["unplaced"]) == (0, [])


def test_a_model_may_shrink_to_what_is_left() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "muai_core.cli.main", "plan", "--json"),
            *(str(EXAMPLES / "rehearsal.yaml"), "--devices", "4xA100-80GB"),
            *("--set", "models.llama-8b.replicas=0", "--set", "models.qwen-32b.replicas=0"),
            *("--without", "3"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    view = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    (replica,) = view["what_if"]["models"]["llama-70b"]["replicas"]
    assert replica["verdict"] == "reduced"
    assert sum(map(len, replica["before"])) == 4
    assert sum(map(len, replica["after"])) == 3


def test_for_people_the_answer_stands_first(muai: Any, fleet_config: Any) -> None:
    done = muai("plan", fleet_config(MODELS), "--without", "gpu0")
    lines = done.out.splitlines()
    assert lines[0] == "Without box/gpu0:"
    assert lines[1].split() == ["MODEL", "REPLICA", "VERDICT", "BEFORE", "AFTER"]
    assert lines[2].split()[:3] == ["chat", "chat.0", "moves"]


@pytest.mark.parametrize("name", ["77", "box/gpu9", "GPU-none", ""])
def test_an_unknown_gpu_is_one_line(muai: Any, fleet_config: Any, name: str) -> None:
    done = muai("plan", fleet_config(MODELS), "--without", name)
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        f"Error: --without: there is no device {name!r}; there are: box/gpu0, box/gpu1, box/gpu2, "
        "box/gpu3; or a whole node: box\n"
    )
