"""The program around the commands: help, suggestions, errors in one line, exit statuses."""

import json
import os
import signal
import subprocess
import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from muai_core.cli import main, plugin

HEAVY = ("pydantic", "aiohttp", "rich", "torch", "transformers", "yaml", "psutil", "pluggy")


@pytest.mark.parametrize("name", main.COMMANDS)
def test_the_table_of_commands_repeats_each_ones_name_and_summary(name: str) -> None:
    command = import_module(f"muai_core.cli.{name}").command
    told = command.get_short_help_str(limit=200)
    assert (command.name, told) == (name, main.COMMANDS[name])


@pytest.mark.parametrize("name", plugin.COMMANDS)
def test_so_does_the_table_of_commands_for_authors(name: str) -> None:
    command = import_module(f"muai_core.cli.plugin_{name}").command
    told = command.get_short_help_str(limit=200)
    assert (command.name, told) == (name, plugin.COMMANDS[name])


def test_a_group_of_commands_without_one_shows_its_help(muai: Any) -> None:
    done = muai("plugin")
    assert done.status == 2
    for name in plugin.COMMANDS:
        assert f"\n  {name} " in done.out + done.err
    assert muai("plugin", "--help").status == 0


def test_a_mistyped_command_of_a_group_is_told_the_nearest(muai: Any) -> None:
    done = muai("plugin", "chekc")
    assert (done.status, done.out) == (2, "")
    assert "no command 'chekc'; did you mean check?" in done.err


def test_help_lists_every_command(muai: Any) -> None:
    done = muai("--help")
    assert done.status == 0
    for name in main.COMMANDS:
        assert f"\n  {name} " in done.out
    assert muai("-h").out == done.out


@pytest.mark.parametrize("name", ["plan", "status", "check"])
def test_a_command_explains_itself_with_either_option(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([name, "--help"]) == 0
    long = capsys.readouterr().out
    assert main.run([name, "-h"]) == 0
    assert capsys.readouterr().out == long
    assert f"muai {name}" in long


def test_help_imports_nothing_heavy(environ: dict[str, str]) -> None:
    code = (
        "import sys; from muai_core.cli import main; main.run(['--help']);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    imported = set(done.stderr.split())
    assert "click" in imported
    assert not imported & {*HEAVY, "msgspec", "asyncio", "muai_core.config"}


def test_the_package_imports_nothing_heavy(environ: dict[str, str]) -> None:
    code = "import sys, muai_core; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & {*HEAVY, "click", "msgspec", "asyncio", "email"}


@pytest.mark.parametrize(
    "arguments", [["version"], ["plugins"], ["status"], ["stop"], ["devices", "--json"]]
)
def test_short_commands_import_neither_torch_nor_servers(
    arguments: list[str], environ: dict[str, str]
) -> None:
    code = (
        f"import sys; from muai_core.cli import main; main.run({arguments!r});"
        "print('modules', *sys.modules, file=sys.stderr)"
    )
    own = {name: value for name, value in environ.items() if name != "MUAI_DISABLE_PLUGINS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True
    )
    imported = set(done.stderr.rpartition("modules")[2].split())
    heavy = {"torch", "transformers", "aiohttp", "rich", "pydantic"}
    if arguments[0] == "devices":
        # An installed device source checks its options when it is opened.
        heavy.remove("pydantic")
    assert not imported & heavy


def test_a_mistyped_command_is_told_the_nearest(muai: Any) -> None:
    done = muai("plugns")
    assert (done.status, done.out) == (2, "")
    assert "no command 'plugns'; did you mean plugins?" in done.err


def test_a_command_like_no_other_is_told_all(muai: Any) -> None:
    done = muai("xyzzy")
    assert done.status == 2
    assert "there are: run, check" in done.err


def test_the_version_is_an_option_too(muai: Any) -> None:
    done = muai("--version")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("muai ")


def test_without_a_command_the_help_is_shown(muai: Any) -> None:
    done = muai()
    assert done.status == 2
    assert "Commands:" in done.out + done.err


class _Boom:
    """A command that ends in a way of our choice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: BaseException = ValueError("no more tea")
        module: Any = types.ModuleType("muai_core.cli.boom")

        @click.command("boom")
        def command() -> None:
            raise self.error

        module.command = command
        monkeypatch.setitem(sys.modules, "muai_core.cli.boom", module)
        monkeypatch.setitem(main.COMMANDS, "boom", "Fail.")


@pytest.fixture
def boom(monkeypatch: pytest.MonkeyPatch) -> _Boom:
    monkeypatch.delenv(main.TRACEBACK_VARIABLE, raising=False)
    return _Boom(monkeypatch)


def test_an_unexpected_error_is_one_line(boom: _Boom, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["boom"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        "muai: unexpected ValueError: no more tea (set MUAI_TRACEBACK=1 to see where)\n"
    )


def test_an_unexpected_error_shows_its_traceback_on_demand(
    boom: _Boom, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(main.TRACEBACK_VARIABLE, "1")
    assert main.run(["boom"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "raise self.error" in err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 1),
        (SystemExit(7), 7),
        (click.ClickException("no"), 1),
        (click.UsageError("no"), 2),
    ],
)
def test_the_exit_status_says_how_a_command_ended(
    boom: _Boom, error: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    boom.error = error
    assert main.run(["boom"]) == status
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "config", "plan", "devices", "plugins", "run"])
def test_a_config_that_is_not_there_is_one_line_and_status_2(command: str, muai: Any) -> None:
    done = muai(command, "nowhere.yaml")
    assert (done.status, done.out) == (2, "")
    assert "nowhere.yaml" in done.err
    assert "Traceback" not in done.err


def test_a_reader_that_leaves_is_no_error(environ: dict[str, str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "muai_core.cli.main", "schema"],
        env=environ,
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1


SLOW = """
import sys, time
from muai_core import DeviceSource, hookimpl

class Slow(DeviceSource):
    name = "slow"

    def observe(self, now_s):
        print("looking", file=sys.stderr, flush=True)
        time.sleep(60)

@hookimpl
def muai_device_sources():
    return [Slow()]
"""


def test_ctrl_c_ends_a_waiting_command_quietly(
    environ: dict[str, str], tmp_path: Path, fleet_config: Any
) -> None:
    file = tmp_path / fleet_config("  m: {source: weights, engine: fake}\n")
    (tmp_path / "slow.py").write_text(SLOW)
    file.write_text(file.read_text().replace("[fake]", "[slow]").replace("py]", "py, slow.py]"))
    process = subprocess.Popen(
        [sys.executable, "-m", "muai_core.cli.main", "devices", "muai.yaml"],
        env=environ,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "looking\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err


def test_versions_as_json(muai: Any) -> None:
    told = json.loads(muai("version", "--json").out)
    assert set(told) == {"muai", "python", "plugins"}
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
