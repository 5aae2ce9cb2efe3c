"""Starts that cannot work: one clear line, the right exit status, nothing left running."""

import socket
from pathlib import Path
from typing import Any

import yaml


def test_a_wrong_config_starts_nothing(run_muai: Any, simulated_config: Any) -> None:
    config = simulated_config()
    config["models"]["chat"]["max_modle_len"] = 100
    running = run_muai(config)

    assert running.wait_end() == 2
    assert "did you mean max_model_len?" in running.text()
    assert "Traceback" not in running.text()
    assert running.engines() == []


def test_a_taken_gateway_port_is_named(run_muai: Any, simulated_config: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = simulated_config()
        config["gateway"] = {"port": taken.getsockname()[1]}
        running = run_muai(config)

        assert running.wait_end() == 1
        assert str(config["gateway"]["port"]) in running.text()
        assert "gateway.port" in running.text()
        assert "Traceback" not in running.text()


def test_a_taken_metrics_port_is_named(run_muai: Any, simulated_config: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = simulated_config()
        config["sinks"] = {"prometheus": {"port": taken.getsockname()[1]}}
        running = run_muai(config)

        assert running.wait_end() == 1
        assert "sinks.prometheus.port" in running.text()
        assert "Traceback" not in running.text()


def test_one_controller_per_state_directory(run_muai: Any, simulated_config: Any) -> None:
    first = run_muai(simulated_config())
    first.wait_ready("chat")
    second = run_muai(simulated_config())

    assert second.wait_end() == 1
    assert f"pid {first.process.pid}" in second.text()
    assert first.process.poll() is None


def test_a_broken_installed_plugin_does_not_take_the_controller_down(
    run_muai: Any, simulated_config: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    info = tmp_path / "site" / "muai_bad-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: muai-bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[muai]\nbad = muai_bad_module\n")
    (info.parent / "muai_bad_module.py").write_text("raise SystemExit('broken on purpose')\n")
    monkeypatch.setenv("PYTHONPATH", str(info.parent))
    running = run_muai(simulated_config())

    running.wait_ready("chat")
    plugins = {plugin["name"]: plugin for plugin in running.status()["plugins"]}
    assert plugins["bad"]["status"] == "failed"
    assert "broken on purpose" in plugins["bad"]["reason"]


def test_a_strategy_that_raises_leaves_the_model_pending_with_the_reason(
    run_muai: Any, simulated_config: Any, eventually: Any, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from muai_core import AllocationStrategy, hookimpl\n"
        "class Mine(AllocationStrategy):\n"
        "    name = 'mine'\n"
        "    def place(self, request, fleet):\n"
        "        raise RuntimeError('out of ideas')\n"
        "@hookimpl\n"
        "def muai_allocation_strategies():\n"
        "    return [Mine()]\n"
    )
    config = simulated_config()
    config["plugins"] = ["mine.py"]
    config["allocation"] = {"strategy": "mine"}
    running = run_muai(config)

    eventually("the reason is told", lambda: "out of ideas" in running.text())
    status, body = running.get("/v1/models")
    assert status == 200
    assert body["data"][0]["muai"]["ready"] == 0


def test_a_state_directory_that_cannot_be_used_is_named(
    run_command: Any, simulated_config: Any, tmp_path: Path
) -> None:
    config = tmp_path / "muai.yaml"
    config.write_text(yaml.safe_dump(simulated_config()))
    (tmp_path / "state").write_text("a file")
    done = run_command("run", str(config), "--state-dir", str(tmp_path / "state"))

    assert done.returncode == 1
    assert f"the state directory {tmp_path / 'state'}" in done.stderr
    assert "--state-dir" in done.stderr
    assert "Traceback" not in done.stderr
