"""The families that are served without a self-check: each gives what one process gives."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from muai_deepspeed.families import BROKEN, VERIFIED
from muai_torch.testing import save_random_model

pytestmark = pytest.mark.alone

PROGRAM = Path(__file__).with_name("split_families.py")
#: The sum of rounding; a model that is split wrongly is off by about 1.
TOLERANCE = 1e-4
DEADLINE_S = 150

_ALTERNATING = ["sliding_attention", "full_attention"] * 2
_GEMMA = {
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 16,
    "layer_types": _ALTERNATING,
}
#: Name of the class and what its config has beside the sizes.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 16}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "gemma2": ("Gemma2", _GEMMA),
    "gemma3_text": ("Gemma3Text", _GEMMA),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Any]]:
    """By family and shape, what each of two shards tells."""
    made = tmp_path_factory.mktemp("families")
    folders = [
        str(save_random_model(made / family, name, num_hidden_layers=4, **more))
        for family, (name, more) in MODELS.items()
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logs = [made / f"log-{shard}" for shard in range(2)]
    shards = []
    for shard, log in enumerate(logs):
        with log.open("wb") as err:
            command = [sys.executable, "-P", str(PROGRAM), str(shard), str(port), *folders]
            shards.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err))
    found: dict[tuple[str, str], list[Any]] = {}
    try:
        for process, log in zip(shards, logs, strict=True):
            out, _ = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0, log.read_text()
            for line in out.decode().splitlines():
                if line.startswith("{"):  # DeepSpeed prints, too
                    told = json.loads(line)
                    case = (Path(told["folder"]).name, told["shape"])
                    found.setdefault(case, []).append(told)
    finally:
        for process in shards:
            process.kill()
            process.wait()
    return found


@pytest.mark.parametrize("shape", ["1x1", "2x1", "1x2", "2x2"])
@pytest.mark.parametrize("family", sorted(VERIFIED))
def test_a_verified_family_gives_the_tokens_and_logits_of_one_process(
    family: str, shape: str, found: dict[tuple[str, str], list[Any]]
) -> None:
    told = found[family, shape]
    assert len(told) == 2
    assert all(one["same_tokens"] for one in told)
    assert max(one["error"] for one in told) < TOLERANCE


def test_no_family_is_verified_and_broken() -> None:
    assert not VERIFIED & BROKEN.keys()
