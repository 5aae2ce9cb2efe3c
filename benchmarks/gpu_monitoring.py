"""What it costs to watch GPUs: CPU time per sample and per scrape, beside nvitop-exporter.

The GPUs are played by the fake NVML of the tests, so no GPU is needed, but gcc and nvidia-ml-py
are. nvitop-exporter is measured too where it is installed (`pip install nvitop-exporter`).

    python benchmarks/gpu_monitoring.py [--seconds 60] [--gpus 8 64 1024]

Prints the section "GPU monitoring" of docs/benchmarks.md. Exits with status 1 when a target is
missed. CPU time is user and system time of a program and all its children, to the nanosecond, from
the clock that Linux keeps for each process; a real driver's own time comes on top for everyone.
"""

import argparse
import contextlib
import gzip
import http.client
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

if TYPE_CHECKING:
    from fake_nvml import FakeNvml

FAKE = Path(__file__).resolve().parents[1] / "plugins/muai_nvml/tests/fake_nvml"
#: `devices.observe_interval_s` and `create_gpu_monitor` without arguments.
DEFAULT_INTERVAL_S = 5.0
#: nvitop-exporter's own.
NVITOP_INTERVAL_S = 1.0
#: How often Prometheus scrapes in the second comparison.
SCRAPE_EVERY_S = 15.0
#: Between two scrapes whose cost is taken: by then every program has new values to show.
SCRAPE_PAUSE_S = 6.0
#: What Prometheus 2 and 3 send.
AS_PROMETHEUS = {
    "Accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
    "Accept-Encoding": "gzip",
}
GZIP = b"\x1f\x8b"
#: A program may still be busy with a scrape that has been answered.
SETTLE_S = 0.01
HELD_BYTES = 64 * 2**30
#: Of a core, for 8 GPUs at the default interval.
MOST_OVERHEAD = 0.005
LEAST_TIMES_LESS = 5.0
START_DEADLINE_S = 180.0
PROBE = "muai_nvml.probe"
OBSERVATIONS = r'muai_device_source_observe_duration_seconds_count\{source="nvml"\} (\S+)'
NVITOP = shutil.which("nvitop-exporter", path=str(Path(sys.executable).parent))

#: What a Python program does that serves GPU metrics with MuAI; the port and the interval follow.
EXPORTER = """
import sys, threading
from muai_core.api import create_gpu_monitor
from muai_prometheus import PrometheusExporter
exporter = PrometheusExporter(port=int(sys.argv[1]))
exporter.start_server()
create_gpu_monitor(prometheus_exporter=exporter, monitoring_interval=float(sys.argv[2]))
threading.Event().wait()
"""


class Cost(NamedTuple):
    """CPU seconds so far, by what the process does."""

    probe_s: float
    rest_s: float

    @property
    def total_s(self) -> float:
        return self.probe_s + self.rest_s

    def since(self, before: "Cost") -> "Cost":
        return Cost(self.probe_s - before.probe_s, self.rest_s - before.rest_s)


class Scraped(NamedTuple):
    """What one scrape was like."""

    took_ms: float
    cpu_ms: float
    series: int


class Scrapes(NamedTuple):
    """What scrapes of a program were like, each of metrics that were new since the last."""

    median_ms: float
    slowest_ms: float
    cpu_ms: float
    series: int


class Program:
    """A program that watches GPUs and serves metrics at `/metrics` of `port`, or at none."""

    def __init__(
        self, arguments: list[str], env: dict[str, str], port: int, interval_s: float
    ) -> None:
        self.port = port
        self.interval_s = interval_s
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.process = subprocess.Popen(
            arguments, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def cost(self) -> Cost:
        """Of the processes that are there now."""
        probe_s = rest_s = 0.0
        leader = psutil.Process(self.process.pid)
        for process in [leader, *leader.children(recursive=True)]:
            with contextlib.suppress(psutil.Error, OSError):
                if PROBE in process.cmdline():
                    probe_s += cpu_s(process.pid)
                else:
                    rest_s += cpu_s(process.pid)
        return Cost(probe_s, rest_s)

    def wait_for(self, text: str, times: int) -> None:
        """Until the metrics hold this text so many times."""
        give_up_at_s = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < give_up_at_s:
            if self.process.poll() is not None:
                raise SystemExit(f"ended with {self.process.returncode}: {self.process.args}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if plain(self.scrape()).count(text) >= times:
                    return
            time.sleep(0.2)
        raise SystemExit(f"not ready after {START_DEADLINE_S:g} s: {self.process.args}")

    def scrape(self) -> bytes:
        """As Prometheus does: over a connection that stays open where the program lets it. What
        comes is compressed where the program does that; see `plain`."""
        try:
            self._connection.request("GET", "/metrics", headers=AS_PROMETHEUS)
            return self._connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise

    def samples(self) -> int:
        """How often `muai run` has looked at the GPUs."""
        return int(float(re.findall(OBSERVATIONS, plain(self.scrape()))[0]))

    def scrape_and_time(self) -> Scraped:
        before, began_s = self.cost(), time.perf_counter()
        body = self.scrape()
        took_s = time.perf_counter() - began_s
        time.sleep(SETTLE_S)
        series = sum(not line.startswith("#") for line in plain(body).splitlines())
        return Scraped(took_s * 1000, self.cost().since(before).total_s * 1000, series)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def plain(body: bytes) -> str:
    """The text of a scrape, which may be compressed."""
    return (gzip.decompress(body) if body.startswith(GZIP) else body).decode()


def cpu_s(pid: int) -> float:
    """User and system time of all threads that the process has or had. Raises OSError.

    The clock's number is MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of linux/posix-timers_types.h.
    """
    return time.clock_gettime((~pid << 3) | 2)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Bench:
    """Fake drivers, and programs that run on them until the end of `with`."""

    def __init__(self, folder: Path) -> None:
        from fake_nvml_build import build

        self._folder = folder
        self._library = build(folder / "library").parent
        self._made = 0
        self._running: list[Program] = []

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._running:
            program.stop()

    def gpus(self, many: int) -> "FakeNvml":
        """Each with one process that holds memory on it: this one."""
        from fake_nvml import FakeNvml

        fake = FakeNvml(self._new("nvml") / "state", gpus=many, library=self._library)
        with fake.changes():
            for gpu in range(many):
                fake.set(gpu, memory_used_bytes=HELD_BYTES, utilization_percent=90)
                fake.processes(gpu, (os.getpid(), HELD_BYTES))
        return fake

    def muai(self, fake: "FakeNvml", interval_s: float, *sources: str) -> Program:
        """`muai run` without a replica: the controller, the gateway and the sink."""
        folder, port = self._new("muai"), free_port()
        folder.mkdir()
        config = {
            "models": {"none": {"source": "simulated:none", "engine": "simulated", "replicas": 0}},
            "devices": {"sources": list(sources), "observe_interval_s": interval_s},
            "gateway": {"port": free_port()},
            "sinks": {"prometheus": {"port": port}},
        }
        file = folder / "muai.yaml"
        file.write_text(json.dumps(config))
        command = [sys.executable, "-m", "muai_core.cli.main", "run", str(file)]
        return self._start([*command, "--state-dir", str(folder)], fake, port, interval_s)

    def exporter(self, fake: "FakeNvml", interval_s: float) -> Program:
        """A process with `create_gpu_monitor` and `PrometheusExporter`, and nothing else."""
        port = free_port()
        command = [sys.executable, "-c", EXPORTER, str(port), str(interval_s)]
        return self._start(command, fake, port, interval_s)

    def nvitop(self, fake: "FakeNvml", interval_s: float) -> Program:
        port = free_port()
        command = [str(NVITOP), "--bind-address", "127.0.0.1", "--hostname", "here"]
        command += ["--port", str(port), "--interval", str(interval_s)]
        return self._start(command, fake, port, interval_s)

    def _start(self, command: list[str], fake: "FakeNvml", port: int, interval_s: float) -> Program:
        self._running.append(Program(command, fake.env(), port, interval_s))
        return self._running[-1]

    def _new(self, name: str) -> Path:
        self._made += 1
        return self._folder / f"{name}-{self._made}"


def spent(programs: list[Program], seconds: float) -> list[Cost]:
    """What each of them costs in this time, while each is scraped now and then."""
    before = [program.cost() for program in programs]
    began_s = time.monotonic()
    for number in range(1, int(seconds / SCRAPE_EVERY_S) + 1):
        time.sleep(max(0.0, began_s + number * SCRAPE_EVERY_S - time.monotonic()))
        for program in programs:
            program.scrape()
    time.sleep(max(0.0, began_s + seconds - time.monotonic()))
    return [
        program.cost().since(earlier) for program, earlier in zip(programs, before, strict=True)
    ]


def scraped(programs: list[Program], seconds: float) -> list[Scrapes]:
    """Scrapes each of them for so long, with pauses. The CPU time is the median's: a sample that
    happens to be taken meanwhile does not count."""
    found: list[list[Scraped]] = [[] for _ in programs]
    for _ in range(max(1, int(seconds / SCRAPE_PAUSE_S))):
        time.sleep(SCRAPE_PAUSE_S)
        for program, its in zip(programs, found, strict=True):
            its.append(program.scrape_and_time())
    return [
        Scrapes(
            statistics.median(one.took_ms for one in its),
            max(one.took_ms for one in its),
            statistics.median(one.cpu_ms for one in its),
            its[-1].series,
        )
        for its in found
    ]


def by_size(folder: Path, many: int, seconds: float) -> tuple[str, float]:
    """The row of so many GPUs, and what watching them costs as a share of a core."""
    with Bench(folder) as bench:
        fake = bench.gpus(many)
        programs = [
            bench.muai(fake, DEFAULT_INTERVAL_S, "nvml", "cpu"),
            bench.muai(fake, DEFAULT_INTERVAL_S, "cpu"),
        ]
        programs[0].wait_for("gpu_temperature_celsius{", many)
        programs[1].wait_for("muai_device_source_observe_duration_seconds_count", 1)
        samples = -programs[0].samples()
        watching, not_watching = spent(programs, seconds)
        samples += programs[0].samples()
        (scrapes,) = scraped(programs[:1], seconds)
    controller_s = watching.rest_s - not_watching.rest_s
    share = (watching.probe_s + controller_s) / seconds
    cells = (
        f"{many:,}",
        f"{watching.probe_s / samples * 1000:.1f}",
        f"{controller_s / samples * 1000:.1f}",
        f"{share:.2%}",
        f"{scrapes.series:,}",
        f"{scrapes.median_ms:.1f} ({scrapes.slowest_ms:.1f})",
        f"{scrapes.cpu_ms:.2f}",
    )
    return f"| {' | '.join(cells)} |", share


def beside_nvitop(folder: Path, seconds: float) -> tuple[list[str], float]:
    """Rows at 8 GPUs, all programs at once, and how many times less a scrape costs."""
    with Bench(folder) as bench:
        fake = bench.gpus(8)
        programs = {
            "nvitop-exporter": bench.nvitop(fake, NVITOP_INTERVAL_S),
            "nvitop-exporter ": bench.nvitop(fake, DEFAULT_INTERVAL_S),
            "`PrometheusExporter` of MuAI": bench.exporter(fake, DEFAULT_INTERVAL_S),
            "`PrometheusExporter` of MuAI ": bench.exporter(fake, NVITOP_INTERVAL_S),
            "`muai run`, everything that it does": bench.muai(
                fake, DEFAULT_INTERVAL_S, "nvml", "cpu"
            ),
        }
        for program in programs.values():
            program.wait_for("\ngpu_temperature_", 8)
        costs = spent(list(programs.values()), seconds)
        its = scraped(list(programs.values()), seconds)
        scrapes = dict(zip(programs, its, strict=True))
    theirs_ms, rows = scrapes["nvitop-exporter"].cpu_ms, []
    for (name, program), cost in zip(programs.items(), costs, strict=True):
        one = scrapes[name]
        cells = (
            name.strip(),
            f"{program.interval_s:g} s",
            f"{one.series:,}",
            f"{one.cpu_ms:.2f}",
            f"{theirs_ms / one.cpu_ms:.1f}",
            f"{cost.total_s / seconds * SCRAPE_EVERY_S * 1000:.0f}",
            f"{costs[0].total_s / cost.total_s:.1f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    ours_ms = max(one.cpu_ms for name, one in scrapes.items() if "nvitop" not in name)
    return rows, theirs_ms / ours_ms


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="per measurement (default 60)")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 1024])
    asked = parser.parse_args()
    sys.path.insert(0, str(FAKE))
    missed = []
    print("## GPU monitoring\n")
    print(
        f"Fake H200 with one process each, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {asked.seconds:g} s each. "
        "`python benchmarks/gpu_monitoring.py`\n"
    )
    print(
        "| GPUs | probe, CPU ms/sample | controller, CPU ms/sample | of a core at "
        f"{DEFAULT_INTERVAL_S:g} s | series | scrape ms, median (slowest) | CPU ms/scrape |"
    )
    print("| ---: " * 7 + "|")
    with tempfile.TemporaryDirectory(prefix="muai-") as folder:
        for many in asked.gpus:
            row, share = by_size(Path(folder, str(many)), many, asked.seconds)
            print(row, flush=True)
            if many == 8 and share > MOST_OVERHEAD:
                missed.append(f"watching 8 GPUs takes {share:.2%} of a core")
        if NVITOP is None:
            missed.append("nvitop-exporter is not installed: pip install nvitop-exporter")
        else:
            rows, times_less = beside_nvitop(Path(folder, "beside"), asked.seconds)
            print(
                "\n| 8 GPUs | interval | series | CPU ms/scrape | times less | "
                f"CPU ms per {SCRAPE_EVERY_S:g} s, one scrape in them | times less |"
            )
            print("| --- " + "| ---: " * 6 + "|")
            print("\n".join(rows))
            if times_less < LEAST_TIMES_LESS:
                missed.append(f"a scrape takes only {times_less:.1f} times less CPU time")
    for complaint in missed:
        print(complaint, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
