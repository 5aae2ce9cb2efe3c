"""muai plan and muai explain FILE: what would be placed where, and why not."""

import json
from pathlib import Path
from typing import Any

import pytest

from muai_core.config.subject import OFFICIAL

GOLDEN = Path(__file__).parent / "golden"
GIB = 1024**3

FITS = """\
  chat:
    source: weights
    tensor_parallel_size: 2
  small:
    source: weights
    engine: fake
    replicas: 2
    memory_gib: 20
"""
TOO_WIDE = """\
  chat:
    source: weights
    tensor_parallel_size: 4
  small: {source: weights}
"""


def golden(name: str, text: str) -> None:
    """The text is what the file holds; a missing file is written, to be read by a person."""
    file = GOLDEN / name
    if not file.exists():
        file.write_text(text)
        pytest.fail(f"{file} did not exist; it was written, look at it")
    assert text == file.read_text()


def without_absent_engines(text: str) -> str:
    """MuAI's own engines are told of, too; how many there are is no matter of these texts."""
    rows = text.splitlines(keepends=True)
    absent = [row for row in rows if row.split(" ", 1)[0] in OFFICIAL["engine"]]
    assert len(absent) == len(OFFICIAL["engine"])
    assert all("not available: plugin" in row for row in absent)
    return "".join(row for row in rows if row not in absent)


def test_the_plan_is_a_table_of_models_replicas_and_devices(muai: Any, fleet_config: Any) -> None:
    done = muai("plan", fleet_config(FITS))
    assert (done.status, done.err) == (0, "")
    golden("plan_fits.txt", done.out)


def test_what_finds_no_devices_is_told_with_every_refusal(muai: Any, fleet_config: Any) -> None:
    done = muai("plan", fleet_config(TOO_WIDE))
    assert (done.status, done.err) == (1, "")
    golden("plan_too_wide.txt", done.out)


def test_the_plan_as_json(muai: Any, fleet_config: Any) -> None:
    done = muai("plan", fleet_config(FITS), "--json")
    assert done.status == 0
    plan = json.loads(done.out)
    chat, small = plan["models"]["chat"], plan["models"]["small"]
    assert chat["engine"] == "fake"
    assert chat["placement"] == [[["GPU-fake-0", "GPU-fake-1"]]]
    assert (chat["tensor_parallel_size"], chat["pipeline_parallel_size"]) == (2, 1)
    assert chat["engines"][0] == {
        "engine": "picky",
        "chosen": False,
        "reason": "serves only poems",
    }
    assert len(small["placement"]) == small["replicas"] == 2
    assert all(isinstance(reason, str) for reason in small["reasons"])
    first, last = plan["devices"]["GPU-fake-0"], plan["devices"]["GPU-fake-3"]
    assert first["claims"] == {"chat.0": 30 * GIB}
    assert first["capacity_bytes"] == 80 * GIB
    assert first["foreign_bytes"] == GIB
    assert first["free_bytes"] == 49 * GIB
    assert (last["health"], last["claims"]) == ("failed", {})
    assert plan["unplaced"] == []


def test_what_is_unplaced_as_json(muai: Any, fleet_config: Any) -> None:
    done = muai("plan", fleet_config(TOO_WIDE), "--json")
    assert done.status == 1
    (unplaced,) = json.loads(done.out)["unplaced"]
    assert (unplaced["model"], unplaced["replica"]) == ("chat", "chat.0")
    assert "at most 3 are eligible" in unplaced["summary"]
    assert unplaced["reason"] == "health"
    of_fleet, refused = unplaced["refusals"]
    assert (of_fleet["device"], of_fleet["filter"]) == (None, "shape")
    assert [refused] == [
        {
            "device": "GPU-fake-3",
            "filter": "health",
            "message": "failed: fell off the bus (XID 79); reboot the node",
        }
    ]


def test_overrides_reach_the_plan(muai: Any, fleet_config: Any) -> None:
    done = muai("plan", fleet_config(FITS), "--set", "models.small.replicas=1", "--json")
    assert len(json.loads(done.out)["models"]["small"]["placement"]) == 1


def test_the_strategy_can_be_named(muai: Any, fleet_config: Any) -> None:
    file = fleet_config(FITS)
    assert muai("plan", file, "--strategy", "balanced").status == 0
    done = muai("plan", file, "--strategy", "balance")
    assert (done.status, done.out) == (2, "")
    assert "did you mean balanced?" in done.err


def test_a_wrong_config_is_json_when_json_is_wanted(muai: Any, fleet_config: Any) -> None:
    done = muai("plan", fleet_config("  chat: {sauce: weights}\n"), "--json")
    assert (done.status, done.err) == (2, "")
    told = json.loads(done.out)
    assert told["ok"] is False
    assert any("sauce" in problem["path"] for problem in told["problems"])


def test_a_model_that_no_engine_suits_is_a_config_error(muai: Any, fleet_config: Any) -> None:
    file = fleet_config("  chat: {source: weights}\n")
    done = muai("plan", file, "--set", "devices.sources=[cpu]")
    assert (done.status, done.out) == (2, "")
    assert "models.chat.engine" in done.err
    assert "runs on cuda; found cpu" in done.err


def test_a_source_that_fails_is_told_even_when_nothing_can_be_planned(
    muai: Any, fleet_config: Any, tmp_path: Path
) -> None:
    file = fleet_config("  chat: {source: weights}\n")
    plugin = tmp_path / "fake_fleet.py"
    plugin.write_text(
        plugin.read_text().replace(
            "        devices = tuple(", "        raise OSError('driver')\n        devices = tuple("
        )
    )
    done = muai("plan", file)
    assert (done.status, done.out) == (2, "")
    assert "device source fake: OSError: driver" in done.err
    assert "found no devices" in done.err


def test_explain_tells_the_engine_the_devices_and_the_others(
    muai: Any, fleet_config: Any, tmp_path: Path
) -> None:
    done = muai("explain", "chat", fleet_config(FITS))
    assert (done.status, done.err) == (0, "")
    golden("explain_fits.txt", without_absent_engines(done.out.replace(str(tmp_path), "FOLDER")))


def test_explain_tells_why_a_model_waits(muai: Any, fleet_config: Any, tmp_path: Path) -> None:
    done = muai("explain", "chat", fleet_config(TOO_WIDE))
    assert (done.status, done.err) == (0, "")
    told = without_absent_engines(done.out.replace(str(tmp_path), "FOLDER"))
    golden("explain_too_wide.txt", told)


def test_explain_as_json_judges_every_device(muai: Any, fleet_config: Any) -> None:
    told = json.loads(muai("explain", "chat", fleet_config(FITS), "--json").out)
    assert told["planned"] is True
    (replica,) = told["replicas"]
    verdicts = {one["device"]["uuid"]: one["verdict"] for one in replica["considered"]}
    assert verdicts == {
        "GPU-fake-0": "chosen",
        "GPU-fake-1": "chosen",
        "GPU-fake-2": "eligible",
        "GPU-fake-3": "refused",
    }


def test_explain_names_the_models_that_exist(muai: Any, fleet_config: Any) -> None:
    done = muai("explain", "chart", fleet_config(FITS))
    assert (done.status, done.out) == (2, "")
    assert "no model 'chart'" in done.err
    assert "chat, small" in done.err
