"""`muai check`, `muai config`, `muai schema` as a user or a script meets them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from muai_core.cli.main import cli

GOOD = "models:\n  chat: {source: 'simulated:llama', engine: simulated}\n"
BAD = "models:\n  chat: {source: 'simulated:llama', engine: simulated, replicas: -1}\n  b:\n"


@pytest.fixture
def muai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command in an empty directory; gives its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MUAI_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout, result.stderr

    return run


def test_check_says_ok(muai) -> None:
    Path("muai.yaml").write_text(GOOD + "sinks: {prometheus: {}}\n")
    told = "muai.yaml: ok, 1 model (chat), sink prometheus\n"
    assert muai("check", "muai.yaml") == (0, told, "")


def test_check_tells_all_mistakes_on_stderr(muai) -> None:
    Path("muai.yaml").write_text(BAD)
    assert muai("check", "muai.yaml", "--set", "gateway.prot=1") == (
        2,
        "",
        "muai.yaml:2  models.chat.replicas   expected a whole number from 0 to 1024, got -1\n"
        "muai.yaml:3  models.b.source   is required\n"
        "--set gateway.prot   unknown option; did you mean port?\n"
        "3 errors, nothing was started.\n",
    )


def test_check_as_json(muai, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("muai.yaml").write_text(BAD)
    monkeypatch.setenv("MUAI__GATEWAY__PROT", "1")
    status, out, err = muai("check", "muai.yaml", "--json")
    assert (status, err) == (2, "")
    outcome = json.loads(out)
    assert (outcome["file"], outcome["ok"]) == ("muai.yaml", False)
    assert outcome["problems"][0] == {
        "severity": "error",
        "file": "muai.yaml",
        "line": 2,
        "override": None,
        "path": "models.chat.replicas",
        "message": "expected a whole number from 0 to 1024, got -1",
        "suggestion": None,
    }
    assert outcome["problems"][2] == {
        "severity": "error",
        "file": None,
        "line": None,
        "override": "MUAI__GATEWAY__PROT",
        "path": "gateway.prot",
        "message": "unknown option",
        "suggestion": "port",
    }


def test_check_json_of_a_good_config_holds_its_warnings(muai) -> None:
    Path("keys").write_text("k\n")
    Path("keys").chmod(0o644)
    Path("muai.yaml").write_text(GOOD + "gateway: {api_keys_file: keys}\n")
    status, out, _ = muai("check", "muai.yaml", "--json")
    outcome = json.loads(out)
    assert (status, outcome["ok"], outcome["models"]) == (0, True, ["chat"])
    assert [problem["severity"] for problem in outcome["problems"]] == ["warning"]
    status, out, err = muai("check", "muai.yaml")
    assert (status, out) == (0, "muai.yaml: ok, 1 model (chat), 1 warning\n")
    assert "warning: every user of this machine can read the keys" in err


def test_config_prints_values_with_their_origins(muai, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("muai.yaml").write_text(GOOD)
    monkeypatch.setenv("MUAI__GATEWAY__PORT", "8001")
    status, out, err = muai("config", "muai.yaml", "--set", "models.chat.replicas=2")
    assert (status, err) == (0, "")
    effective = yaml.safe_load(out)
    assert effective["models"]["chat"]["replicas"] == 2
    assert effective["gateway"]["port"] == 8001
    origins = [line.split("  # ")[1] for line in out.splitlines() if "  # " in line]
    assert {"muai.yaml:2", "MUAI__GATEWAY__PORT", "--set models.chat.replicas"} < set(origins)
    told = json.loads(muai("config", "muai.yaml", "--json")[1])
    assert told["provenance"]["models.chat.source"]["line"] == 2


def test_config_of_a_broken_file_is_refused_alike(muai) -> None:
    Path("muai.yaml").write_text(BAD)
    status, out, err = muai("config", "muai.yaml")
    assert (status, out) == (2, "")
    assert err.endswith("2 errors, nothing was started.\n")


def test_schema_is_valid_and_knows_installed_plugins(muai) -> None:
    status, out, _ = muai("schema")
    schema = json.loads(out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(GOOD), schema)
    assert status == 0
    assert "simulated" in schema["$defs"]["ModelConfig"]["properties"]["engine"]["enum"]


def test_schema_of_a_config_knows_its_local_plugins(muai) -> None:
    Path("own.py").write_text(
        "from muai_core import AllocationStrategy, hookimpl\n"
        "class Own(AllocationStrategy):\n"
        "    name = 'own'\n"
        "    def place(self, request, fleet): ...\n"
        "@hookimpl\ndef muai_allocation_strategies():\n    return [Own()]\n"
    )
    text = GOOD + "plugins: [own.py]\nallocation: {strategy: own}\n"
    Path("muai.yaml").write_text(text)
    status, out, _ = muai("schema", "muai.yaml")
    assert status == 0
    jsonschema.validate(yaml.safe_load(text), json.loads(out))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), json.loads(muai("schema")[1]))


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"models: [", b"a: &a [*a]", b"- 1", None]
)
def test_a_bad_file_never_ends_in_a_traceback(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "muai.yaml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    result = subprocess.run(
        [sys.executable, "-m", "muai_core.cli.main", "check", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    assert result.stderr.endswith("1 error, nothing was started.\n")


def test_naming_the_commands_does_not_import_pydantic() -> None:
    script = (
        "import sys\n"
        "import muai_core.config, muai_core.cli.check, muai_core.cli.config, muai_core.cli.schema\n"
        "print(sorted({'pydantic', 'yaml', 'torch'} & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "[]\n"
