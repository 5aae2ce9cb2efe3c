"""`muai plan --strategy cpsat`, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "models"
CONFIG = f"""
devices: {{sources: [simulated], simulated: {{gpus: 4, profile: H100-80GB}}}}
models:
  a: {{source: {EXAMPLES}/qwen2.5-32b.json, engine: simulated, max_model_len: 8192}}
  b: {{source: {EXAMPLES}/llama-3.1-8b.json, engine: simulated, replicas: 2, max_model_len: 8192}}
"""


def plan(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    config = folder / "muai.yaml"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "muai_core.cli.main", "plan", str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)


def test_muai_plan_takes_the_strategy_and_shows_what_is_proven(tmp_path: Path) -> None:
    done = plan(tmp_path, "--strategy", "cpsat", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    models = json.loads(done.stdout)["models"]
    assert "proven optimal" in json.dumps(models)
    assert all(models[name]["placement"] for name in ("a", "b"))


def test_a_bad_option_is_a_config_error(tmp_path: Path) -> None:
    done = plan(
        tmp_path, "--strategy", "cpsat", "--set", "allocation.options.deterministic_time_limit=0"
    )
    assert done.returncode == 2
    assert "deterministic_time_limit" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
