"""docs/cli.md has a section for each command, with its summary, its options and its JSON keys."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from muai_core.cli import main, plugin
from muai_core.cli.replay import Replayed
from muai_core.model.device import DeviceLink

#: By the words behind `muai`.
COMMANDS = {**main.COMMANDS, **{f"plugin {word}": told for word, told in plugin.COMMANDS.items()}}
DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")


def section(command: str) -> str:
    _, found, rest = DOCUMENT.partition(f"\n## muai {command}\n")
    assert found, f"docs/cli.md has no section '## muai {command}'"
    return rest.partition("\n## ")[0]


def names(parameter: click.Parameter) -> str:
    """What the first column of the table of options must hold."""
    metavar = str(parameter.make_metavar(click.Context(click.Command("x"))))
    if isinstance(parameter, click.Argument):
        return metavar.strip("[]")
    assert isinstance(parameter, click.Option)
    return parameter.opts[-1] if parameter.is_flag else f"{parameter.opts[-1]} {metavar}"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_documented_with_all_its_options(name: str) -> None:
    command = import_module(f"muai_core.cli.{name.replace(' ', '_')}").command
    text = section(name)
    told = " ".join(text.split())
    assert f"```\nmuai {name}" in text
    assert COMMANDS[name] in told
    wanted = {names(parameter) for parameter in command.params}
    assert keys(text, "option") == wanted
    usage = text.split("```")[1]
    for option in wanted:
        assert option.split(" ")[0] in usage


def test_nothing_is_documented_that_does_not_exist() -> None:
    assert set(re.findall(r"^## muai ([\w ]+)$", DOCUMENT, re.MULTILINE)) == set(COMMANDS)


def keys(text: str, heading: str) -> set[str]:
    """The names in the first column of the table whose first heading is `heading`."""
    _, found, rest = text.partition(f"| {heading} |")
    if not found:
        return set()
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])}


def documented(view: str) -> set[str]:
    found = keys(DOCUMENT, f"key of `{view}`")
    assert found, f"docs/cli.md has no table 'key of `{view}`'"
    return found


def assert_documented(view: str, value: dict[str, Any]) -> None:
    assert set(value) == documented(view), f"keys of {view}"


PLAN = """\
  chat: {source: weights}
  wide: {source: weights, tensor_parallel_size: 4}
"""


def test_the_json_of_plan_is_documented(plan_json: Any) -> None:
    plan = plan_json(PLAN)
    assert_documented("plan", plan)
    assert_documented("plan.models.NAME", plan["models"]["chat"])
    assert_documented("plan.devices.UUID", next(iter(plan["devices"].values())))
    assert_documented("plan.models.NAME.alternatives[]", plan["models"]["chat"]["alternatives"][0])
    assert_documented("plan.unplaced[]", plan["unplaced"][0])


def test_the_json_of_memory_is_documented(muai_json: Any) -> None:
    model = str(Path(__file__).parents[2] / "examples" / "models" / "llama-3.1-8b.json")
    told = muai_json("memory", model, "--tensor-parallel", "2", "--pipeline-parallel", "2")
    assert_documented("memory", told)
    assert_documented("memory.model", told["model"])
    (shape,) = told["shapes"]
    assert_documented("memory.shapes[]", shape)
    assert_documented("memory.shapes[].ranks[]", shape["ranks"][0])
    assert_documented("memory.shapes[].contexts[]", shape["contexts"][0])
    for key in told["terms"]:
        assert f"`{key}`" in section("memory")


def test_the_json_of_a_what_if_is_documented(muai_json: Any, fleet_config: Any) -> None:
    answer = muai_json("plan", fleet_config(PLAN), "--without", "gpu0")
    assert_documented("plan", answer)
    assert_documented("plan.what_if", answer["what_if"])
    model = answer["what_if"]["models"]["chat"]
    for key in {**model, **model["replicas"][0]}:
        assert f"`{key}`" in section("plan")


def test_the_json_of_explain_is_documented(explain_json: Any) -> None:
    told = explain_json("chat", PLAN)
    assert_documented("explain", told)
    replica = told["replicas"][0]
    status_keys = documented("status.models.NAME.replicas[]") - {
        "requests_in_flight",
        "memory",
    }
    more = keys(DOCUMENT, "more keys of `explain.replicas[]`")
    assert set(replica) == status_keys | more
    for key in replica["considered"][0]:
        assert f"`{key}`" in section("explain")


def test_the_json_of_lists_is_documented(muai_json: Any) -> None:
    assert_documented("devices[]", muai_json("devices")[0])
    assert_documented("plugins[]", muai_json("plugins")[0])
    for key in muai_json("version"):
        assert f"`{key}`" in section("version")


def test_the_json_of_plugin_check_is_documented(muai_json: Any) -> None:
    told = muai_json("plugin", "check", "muai-core", "--kind", "recovery")
    assert_documented("plugin check", told)
    assert_documented("plugin check.parts[]", told["parts"][0])
    assert_documented("plugin check.parts[].clauses[]", told["parts"][0]["clauses"][0])


def test_the_json_of_unwell_devices_is_documented(muai_json: Any, fleet_config: Any) -> None:
    failed = muai_json("devices", fleet_config(PLAN))[3]
    assert_documented("devices[]", failed)
    assert_documented("devices[].findings[]", failed["findings"][0])


def test_the_json_of_links_is_documented() -> None:
    assert documented("links[]") == {"source", *DeviceLink.__struct_fields__}


def test_the_json_of_config_commands_is_documented(muai_json: Any, fleet_config: Any) -> None:
    file = fleet_config(PLAN)
    assert_documented("check", muai_json("check", file))
    assert_documented("config", muai_json("config", file))


def test_the_json_of_replay_is_documented() -> None:
    assert documented("replay") == set(Replayed.__struct_fields__)
