"""The command line and the README of the fake NVML: what a user who drills has in hand."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from fake_nvml import PROFILES, FakeNvml
from fake_nvml_build import HERE

README = (HERE / "README.md").read_text()


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(HERE / "fake_nvml.py"), *map(str, words)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60)


def test_the_drill_of_the_readme(tmp_path: Path, start_nvml_process: Any) -> None:
    shell = README.replace("/tmp/drill", str(tmp_path))
    lines = re.findall(r"^\$ python fake_nvml\.py (.*)$", shell, re.MULTILINE)
    assert len(lines) > 10
    for line in lines:
        done = command(*(word.strip("'") for word in line.split()))
        assert done.returncode == 0, (line, done.stderr)
    fake = FakeNvml(tmp_path / "state", library=tmp_path / "lib")
    process = start_nvml_process(fake)
    assert process.ask("n.nvmlDeviceGetCount()") == 7
    assert process.ask("n.nvmlDeviceGetTemperatureV(gpu(3), 0)") == 91
    assert process.ask("code(n.nvmlDeviceGetPowerUsage, gpu(0))") == 999


def test_a_line_appended_by_hand(fake_nvml: FakeNvml, nvml_process: Any) -> None:
    nvml_process.ask("events = n.nvmlEventSetCreate()")
    nvml_process.ask("n.nvmlDeviceRegisterEvents(gpu(3), 8, events)")
    with fake_nvml.path.open("a") as state:
        state.write("# it gets warm\ngpu 3 temperature_celsius 80\nevent 7 gpu 3 xid 79\n")
    assert nvml_process.ask("n.nvmlEventSetWait_v2(events, 20000).eventData") == 79
    assert nvml_process.ask("n.nvmlDeviceGetTemperatureV(gpu(3), 0)") == 80
    with fake_nvml.path.open("a") as state:
        state.write("gpu 3 return 999\ngpu 2 hang 0\n")
    assert nvml_process.ask("code(gpu, 3)") == 999
    fake_nvml.heal(3)
    assert nvml_process.ask("n.nvmlDeviceGetTemperatureV(gpu(3), 0)") == 80


def test_a_mistake_is_named(tmp_path: Path) -> None:
    done = command("lose", tmp_path / "nowhere", "3")
    assert done.returncode == 2
    assert "no such state file; make one with `create`" in done.stderr
    assert command("create", tmp_path / "state").returncode == 0
    for words, message in (
        (("create", tmp_path / "state"), "is there already; remove it to begin anew"),
        (("lose", tmp_path / "state", "8"), "8: no GPU of"),
        (("lose", tmp_path / "state", "gpu3"), "gpu3: no GPU of"),
        (("fail", tmp_path / "state", "3", "nvmlDeviceGetNothing", "999"), "no such function"),
    ):
        done = command(*words)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_every_key_is_in_the_readme() -> None:
    documented = set(re.findall(r"`([a-z0-9_.*A-Z]+)[` ]", README))
    placeholders = {
        "WHICH": r"[a-z_]+",
        "LINK": r"(\d+|\*)",
        "OTHER": r"(\d+|\*)",
        "POLICY": r"\d+",
        "SEVERITY": r"[a-z]+",
        "LIFETIME": r"[a-z]+",
        "PLACE": r"[a-z0-9_]+",
        "ID": r"\d+",
        "SCOPE": r"\d+",
        "CAUSE": r"(\d+|\*)",
        "INDEX": r"\d+",
        "KEY": r"[a-z_]+",
    }
    patterns = []
    for key in documented:
        words = (placeholders.get(word, re.escape(word)) for word in key.split("."))
        patterns.append(re.compile(r"\.".join(words)))
    keys = {
        line.split()[1 if line.startswith("system") else 2]
        for profile in PROFILES.glob("*.state")
        for line in profile.read_text().splitlines()
        if not line.startswith("#")
    }
    assert len(keys) > 100
    assert {key for key in keys if not any(p.fullmatch(key) for p in patterns)} == set()


def test_every_plain_key_of_the_readme_is_read() -> None:
    source = "".join(path.read_text() for path in HERE.glob("*.c"))
    table = README[README.index("### Values") : README.index("## In tests")]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    keys = {key.split(".")[0] for row in rows for key in re.findall(r"`([a-z0-9_.A-Z]+)`", row)}
    assert len(keys) > 60
    assert {key for key in keys if f'"{key}' not in source} == set()
