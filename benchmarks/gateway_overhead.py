"""What the gateway costs: a mock engine alone, behind the gateway, and behind other proxies.

Everything runs on this machine in the same run, in rounds, so that noise hits all alike:

    python benchmarks/gateway_overhead.py [--rounds 3] [--seconds 4] [--sglang-router smg]

The load comes from wrk when it is installed, else from a small client in a process of its own.
sglang-router (Rust, from PyPI) takes part when its `smg` command is found.
"""

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from gateway_parts import EVENT_INTERVAL_S, EVENTS, request_body

PARTS = str(Path(__file__).with_name("gateway_parts.py"))
WRK_DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"duration_us":%d,"p50_us":%f,"p99_us":%f,"errors":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Scenario:
    name: str
    connections: int
    streamed: bool


SCENARIOS = (
    Scenario("unary c=1", 1, False),
    Scenario("unary c=16", 16, False),
    Scenario("unary c=64", 64, False),
    Scenario("streams c=200", 200, True),
    Scenario("streams c=1000", 1000, True),
)


@dataclass(frozen=True)
class Sample:
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    #: CPU time of the proxy's process per request; 0 for the engine alone.
    cpu_us: float


@dataclass(frozen=True)
class Target:
    name: str
    port: int
    pid: int | None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is ended with the block."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_for_port(port: int, child: subprocess.Popen[bytes], deadline_s: float = 60) -> None:
    until = time.monotonic() + deadline_s
    while time.monotonic() < until and child.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"{child.args} did not listen on port {port}")


def start_targets(stack: ExitStack, smg: str | None) -> list[Target]:
    engine_port = free_port()
    engine = stack.enter_context(process(sys.executable, PARTS, "engine", str(engine_port)))
    wait_for_port(engine_port, engine)
    engine_url = f"http://127.0.0.1:{engine_port}"
    commands = {
        name: [sys.executable, PARTS, part, "PORT", engine_url]
        for name, part in (
            ("MuAI gateway", "muai"),
            ("MuAI gateway, every request traced", "traced"),
            ("25 lines of aiohttp", "plain"),
        )
    }
    if smg is not None:
        flags = ["--worker-urls", engine_url, "--host", "127.0.0.1", "--port", "PORT"]
        flags += ["--policy", "round_robin", "--prometheus-port", str(free_port())]
        commands["sglang-router (Rust)"] = [smg, "launch", *flags, "--log-level", "error"]
    targets = [Target("engine alone", engine_port, None)]
    for name, command in commands.items():
        port = free_port()
        words = [str(port) if word == "PORT" else word for word in command]
        child = stack.enter_context(process(*words))
        wait_for_port(port, child)
        targets.append(Target(name, port, child.pid))
    return targets


def cpu_s(pid: int | None) -> float:
    if pid is None:
        return 0.0
    root = psutil.Process(pid)
    times = [one.cpu_times() for one in (root, *root.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def load_command(url: str, scenario: Scenario, seconds: float, scripts: Path) -> list[str]:
    wrk = shutil.which("wrk")
    kind = "streamed" if scenario.streamed else "plain"
    if wrk is None:
        count = str(scenario.connections)
        return [sys.executable, PARTS, "load", url, count, str(seconds), kind]
    script = scripts / f"{kind}.lua"
    body = request_body(scenario.streamed).decode().replace("'", "\\'")
    script.write_text(
        "wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\n"
        f"wrk.body = '{body}'\n{WRK_DONE}"
    )
    duration = f"-d{max(1, round(seconds))}"
    count = f"-c{scenario.connections}"
    return [wrk, "-t1", count, duration, "--timeout", "30", "-s", str(script), url]


def measure(target: Target, scenario: Scenario, seconds: float, scripts: Path) -> Sample:
    url = f"http://127.0.0.1:{target.port}/v1/chat/completions"
    if scenario.streamed:
        # Whole streams only: with less time, what is cut at the end would weigh too much.
        seconds = max(seconds, 6 * EVENTS * EVENT_INTERVAL_S)
    before_s = cpu_s(target.pid)
    command = load_command(url, scenario, seconds, scripts)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used_s = cpu_s(target.pid) - before_s
    result = json.loads(output.strip().splitlines()[-1])
    return Sample(
        requests_per_s=result["requests"] / result["duration_us"] * 1e6,
        p50_ms=result["p50_us"] / 1e3,
        p99_ms=result["p99_us"] / 1e3,
        errors=result["errors"],
        cpu_us=used_s / max(1, result["requests"]) * 1e6,
    )


def median(samples: list[Sample]) -> Sample:
    return Sample(
        requests_per_s=statistics.median(one.requests_per_s for one in samples),
        p50_ms=statistics.median(one.p50_ms for one in samples),
        p99_ms=statistics.median(one.p99_ms for one in samples),
        errors=sum(one.errors for one in samples),
        cpu_us=statistics.median(one.cpu_us for one in samples),
    )


def table(results: dict[str, dict[str, Sample]]) -> str:
    ours = results["MuAI gateway"]
    lines = [
        "| | | req/s | p50 ms | p99 ms | proxy CPU µs/req | MuAI req/s relative | errors |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for scenario in SCENARIOS:
        for name, samples in results.items():
            one = samples.get(scenario.name)
            if one is None:
                continue
            ratio = ours[scenario.name].requests_per_s / max(one.requests_per_s, 1e-9)
            cpu = f"{one.cpu_us:,.0f}" if one.cpu_us else ""
            lines.append(
                f"| {scenario.name} | {name} | {one.requests_per_s:,.0f} | {one.p50_ms:,.2f} "
                f"| {one.p99_ms:,.2f} | {cpu} | {ratio:.2f} | {one.errors} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--sglang-router", default=shutil.which("smg"), metavar="SMG")
    parser.add_argument("--only", default="", help="run scenarios whose name holds this")
    arguments = parser.parse_args()
    taken: dict[str, dict[str, list[Sample]]] = {}
    with ExitStack() as stack:
        scripts = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        targets = start_targets(stack, arguments.sglang_router)
        chosen = [one for one in SCENARIOS if arguments.only in one.name]
        for target in targets:
            measure(target, SCENARIOS[1], 1.0, scripts)
        for scenario in chosen:
            for _ in range(arguments.rounds):
                for target in targets:
                    sample = measure(target, scenario, arguments.seconds, scripts)
                    taken.setdefault(target.name, {}).setdefault(scenario.name, []).append(sample)
    results = {
        name: {scenario: median(samples) for scenario, samples in by_scenario.items()}
        for name, by_scenario in taken.items()
    }
    generator = "wrk, one thread" if shutil.which("wrk") else "the client in gateway_parts.py"
    print(f"Load from {generator}; median of {arguments.rounds} rounds.\n\n{table(results)}")


if __name__ == "__main__":
    main()
