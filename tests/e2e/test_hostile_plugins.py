"""Plugins that raise what ends programs, or answer nonsense, in a running controller: each costs
its own turn, is named with a reason, and nothing else."""

import signal
from pathlib import Path
from typing import Any

HOSTILE_PLUGIN = str(Path(__file__).with_name("hostile_plugin.py"))

WORDS = {
    "raises": "RuntimeError: two lines",
    "exits": "SystemExit: 3",
    "interrupts": "KeyboardInterrupt: here",
    "cancels": "CancelledError: here",
    "iterates": "StopIteration: here",
    "nothing": "launch() returned NoneType, not LaunchSpec",
    "port": "LaunchSpec.port is 1000000",
    "argv": "at `$.argv[0]`",
}


def hostile(config: dict[str, Any], model_names: list[str]) -> dict[str, Any]:
    """The config with the hostile plugin and these models."""
    config["plugins"] = [HOSTILE_PLUGIN]
    model = {**config["models"]["chat"], "engine": "hostile"}
    config["models"] = dict.fromkeys(model_names, model)
    return config


def test_no_launch_of_an_engine_ends_the_controller_or_another_replica(
    run_muai: Any, simulated_config: Any
) -> None:
    running = run_muai(hostile(simulated_config(), list(WORDS)))

    running.wait_ready(*WORDS)
    told = running.text().splitlines()
    for name, words in WORDS.items():
        assert any(f"{name}.0: " in line and words in line for line in told), (name, told)
    running.signal(signal.SIGTERM)
    assert running.wait_end() == 0
    assert "Traceback" not in running.text()
    assert running.engines() == []


def test_hostile_sources_strategies_policies_and_sinks_are_named_and_survived(
    run_muai: Any, simulated_config: Any, eventually: Any
) -> None:
    config = hostile(simulated_config(), ["raises"])
    config["models"]["chat"] = simulated_config()["models"]["chat"]
    config["devices"] = {"sources": ["hostile"], "observe_interval_s": 0.2}
    config["allocation"] = {"strategy": "hostile"}
    config["recovery"] |= {"policy": "hostile", "backoff_max_s": 0.2}
    config["sinks"] = {"hostile": {}}
    running = run_muai(config)

    running.wait_ready("chat", "raises")
    for words in (
        "device source hostile: SystemExit: no driver",
        "Expected `int`, got `str` - at `$.devices[0].memory_total_bytes`",
        "observed_at_s is to come",
        "recovery policy hostile raised CancelledError: no decision",
        "sink hostile does not say where it is: SystemExit: no location",
    ):
        assert words in running.text(), running.text()
    eventually(
        "the sink's failure in the status",
        lambda: running.status()["sinks"][0]["last_failure"] == "KeyboardInterrupt",
    )
    running.signal(signal.SIGTERM)
    assert running.wait_end() == 0
    assert running.engines() == []


def test_impossible_facts_of_a_source_are_told(
    run_muai: Any, simulated_config: Any, eventually: Any, tmp_path: Path
) -> None:
    (tmp_path / "twice.py").write_text(
        "from muai_core import Device, DeviceSource, Inventory, hookimpl\n"
        "class Twice(DeviceSource):\n"
        "    name = 'twice'\n"
        "    def observe(self, now_s):\n"
        "        one = Device(uuid='T-0', node='box', index=0, kind='gpu', name='t',\n"
        "                     platform='simulated', memory_total_bytes=2**36)\n"
        "        return Inventory(source='twice', observed_at_s=now_s, devices=(one, one))\n"
        "@hookimpl\n"
        "def muai_device_sources():\n"
        "    return [Twice()]\n"
    )
    config = simulated_config()
    config["plugins"] = ["twice.py"]
    config["devices"] = {"sources": ["twice"]}
    running = run_muai(config)

    eventually("it is told", lambda: "source twice reports a device twice" in running.text())
