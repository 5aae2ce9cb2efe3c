"""A rehearsal with an estimate that is too low: it is measured, shown, kept, and counted with."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

GIB = 2**30
EXTRA_GIB = 3
MUAI = Path(sys.executable).with_name("muai")
CONFIG = {
    "num_hidden_layers": 4,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "torch_dtype": "bfloat16",
}


class Rehearsal:
    """`muai` with a state directory of its own."""

    def __init__(self, folder: Path, source: str, options: dict[str, Any], ports: list[int]):
        self.url = f"http://127.0.0.1:{ports[1]}/metrics"
        self.state_dir = folder / "state"
        self.log = folder / "log"
        self.config = folder / "muai.yaml"
        self.config.write_text(
            json.dumps(
                {
                    "devices": {
                        "sources": ["simulated"],
                        "observe_interval_s": 0.2,
                        "simulated": {"gpus": 2},
                    },
                    "recovery": {"stop_grace_s": 1},
                    "gateway": {"port": ports[0]},
                    "sinks": {"prometheus": {"port": ports[1]}},
                    "models": {
                        "m": {
                            "source": source,
                            "engine": "simulated",
                            "engine_options": {
                                "load_s": 0.1,
                                "extra_memory_gib": EXTRA_GIB,
                                **options,
                            },
                        }
                    },
                }
            )
        )

    def muai(self, *arguments: str) -> Any:
        done = subprocess.run(
            [MUAI, *arguments], env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "MUAI_STATE_DIR": str(self.state_dir)}

    def claim_bytes(self) -> int:
        """What `muai plan` would claim now."""
        plan = self.muai("plan", str(self.config), "--json")
        (device,) = [one for one in plan["devices"].values() if one["claimed_bytes"]]
        return int(device["claimed_bytes"])

    def series(self) -> dict[tuple[str, str], float]:
        """Predicted or measured, and kind → bytes, of the only rank."""
        try:
            text = httpx.get(self.url, timeout=30).text
        except httpx.TransportError:
            return {}
        found = {}
        for line in text.splitlines():
            if line.startswith("muai_memory_"):
                name = line.partition("{")[0].split("_")[2]
                found[name, line.partition('kind="')[2].partition('"')[0]] = float(line.split()[-1])
        return found

    def run(self, eventually: Callable[..., Any]) -> dict[tuple[str, str], float]:
        """One run until the start is measured and kept; the metrics by then."""
        kept = self.starts()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [MUAI, "run", self.config], stdout=log, stderr=log, env=self.environment
            )
        try:

            def measured() -> dict[tuple[str, str], float] | None:
                assert process.poll() is None, self.log.read_text()
                series = self.series()
                done = ("measured", "total") in series and len(self.starts()) == len(kept) + 1
                return series if done else None

            found: dict[tuple[str, str], float] = eventually(measured, "the start is measured")
            status = self.muai("status", "--json")
            (replica,) = status["models"]["m"]["replicas"]
            (rank,) = replica["memory"]
            assert rank["measured_bytes"]["total"] == found["measured", "total"]
            assert rank["predicted_bytes"]["total"] == found["predicted", "total"]
            self.muai("stop")
            assert process.wait(30) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return found

    def starts(self) -> list[Any]:
        path = self.state_dir / "measured-starts.json"
        return json.loads(path.read_bytes())["starts"] if path.exists() else []


@pytest.fixture
def rehearsal(tmp_path: Path, two_free_ports: list[int]) -> Callable[..., Rehearsal]:
    return lambda source, **options: Rehearsal(tmp_path, source, options, two_free_ports)


def test_an_estimate_by_kind_is_corrected_by_what_a_start_held(
    rehearsal: Callable[..., Rehearsal], tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    one = rehearsal(str(model))
    before = one.claim_bytes()
    first = one.run(eventually)
    assert first["predicted", "total"] == before
    assert first["measured", "total"] == before + EXTRA_GIB * GIB
    for kind in ("weights", "kv_cache", "activation"):
        assert first["measured", kind] == pytest.approx(first["predicted", kind], abs=1024)
    parts = [first["predicted", kind] for kind in ("graphs", "runtime")]
    assert all(part > 0 for part in parts)
    assert "the next estimate counts with it" in one.log.read_text()

    after = one.claim_bytes()
    assert after >= first["measured", "total"]
    reason = one.muai("plan", str(one.config), "--json")["models"]["m"]["memory_reason"]
    assert "; calibrated by 1 start of this model on NVIDIA H100 80GB HBM3: runtime " in reason

    # The next start holds the same, as predicted now, so nothing grows any more.
    second = one.run(eventually)
    assert second["predicted", "total"] == after
    assert second["measured", "total"] == first["measured", "total"]
    assert one.claim_bytes() == after


def test_a_number_is_raised_to_what_a_start_held(
    rehearsal: Callable[..., Rehearsal], eventually: Callable[..., Any]
) -> None:
    one = rehearsal("simulated:m", memory_gib=20)
    assert one.claim_bytes() == 20 * GIB
    found = one.run(eventually)
    assert found == {
        ("predicted", "total"): 20 * GIB,
        ("measured", "total"): (20 + EXTRA_GIB) * GIB,
    }
    assert one.claim_bytes() > (20 + EXTRA_GIB) * GIB
