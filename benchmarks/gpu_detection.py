"""How soon MuAI notices that a GPU fails, and whether the others wait for one that hangs.

The GPUs are played by the fake NVML of the tests, so no GPU is needed, but gcc and nvidia-ml-py
are. Each failure is injected into the driver while `muai run` watches eight GPUs; what is timed is
until the gateway's /health says so, and until the controller has told it in words.

    python benchmarks/gpu_detection.py [--trials 24] [--hang-seconds 20]

Prints the section "GPU failures" of docs/benchmarks.md. Exits with status 1 when a target is
missed.
"""

import argparse
import contextlib
import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from fake_nvml import FakeNvml

FAKE = Path(__file__).resolve().parents[1] / "plugins/muai_nvml/tests/fake_nvml"
#: The default, which events of the driver do not wait for.
EVENTS_INTERVAL_S = 5.0
#: Losses without an event are found by looking; a shorter interval gives more trials.
LOOKS_INTERVAL_S = 1.0
GPUS = 8
DEADLINE_S = 60.0
POLL_S = 0.001
EVENT_TARGET_S = 0.2
FRESH_TARGET_S = LOOKS_INTERVAL_S + 1.0
#: One look takes milliseconds, and the answer has to be polled for.
LOOK_S = 0.1
MUAI = (sys.executable, "-m", "muai_core.cli.main")


class Noticed(NamedTuple):
    """Seconds after the injection."""

    health_s: float
    words_s: float


class Watched:
    """`muai run` without a replica, watching the GPUs of a fake driver; ends with `with`."""

    def __init__(self, folder: Path, fake: "FakeNvml", interval_s: float) -> None:
        self.fake = fake
        self._folder = folder
        self._env = fake.env() | {"NO_COLOR": "1"}
        port = _free_port()
        config = {
            "models": {"none": {"source": "simulated:none", "engine": "simulated", "replicas": 0}},
            "devices": {
                "sources": ["nvml"],
                "observe_interval_s": interval_s,
                "health": {"self_test": "off"},
            },
            "gateway": {"port": port},
        }
        file, self._log = folder / "muai.yaml", folder / "log"
        file.write_text(json.dumps(config))
        command = [*MUAI, "run", str(file), "--state-dir", str(folder)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log)
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)

    def __enter__(self) -> "Watched":
        def all_healthy() -> bool:
            with contextlib.suppress(OSError):
                return [one["health"] for one in self.health()] == ["healthy"] * GPUS
            self._connection.close()
            return False

        self.wait("eight healthy GPUs", all_healthy)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def health(self) -> list[dict[str, Any]]:
        """The GPUs as the gateway tells them, by index."""
        self._connection.request("GET", "/health")
        devices: list[dict[str, Any]] = json.load(self._connection.getresponse())["devices"]
        return devices

    def status(self) -> list[dict[str, Any]]:
        """The GPUs of `muai status --json`."""
        devices: list[dict[str, Any]] = json.loads(self.muai("status", "--json"))["devices"]
        return devices

    def muai(self, *arguments: str) -> str:
        command = [*MUAI, *arguments, "--state-dir", str(self._folder)]
        return subprocess.run(
            command, env=self._env, check=True, capture_output=True, text=True, timeout=DEADLINE_S
        ).stdout

    def wait(self, what: str, condition: Callable[[], bool], pause_s: float = POLL_S) -> float:
        """Until it holds; returns when. Ends the program when it does not come to that."""
        give_up_at_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < give_up_at_s:
            if condition():
                return time.monotonic()
            if self._process.poll() is not None:
                break
            time.sleep(pause_s)
        raise SystemExit(f"never came: {what}\n{self._log.read_text()}")

    def notices(self, gpu: int, inject: Callable[[], object], health: str, words: str) -> Noticed:
        """How soon the GPU has this health, and how soon these words about it are told."""
        told_before = self._log.stat().st_size
        began_s = time.monotonic()
        inject()
        health_s = self.wait(f"GPU {gpu} {health}", lambda: self.health()[gpu]["health"] == health)

        def told() -> bool:
            with self._log.open("rb") as log:
                log.seek(told_before)
                return words in log.read().decode()

        words_s = self.wait(words, told)
        return Noticed(health_s - began_s, words_s - began_s)

    def repair(self, gpu: int) -> None:
        """Takes every fault back, and waits until the GPU is as before."""
        self.fake.heal(gpu)
        uuid = self.fake.uuid(gpu)

        def reinstated() -> bool:
            self.muai("reinstate", uuid)
            return self.health()[gpu]["health"] == "healthy"

        self.wait("a healthy GPU", reinstated, pause_s=0.2)


def xids(watched: Watched, trials: int) -> list[Noticed]:
    found = []
    for trial in range(trials):
        gpu = trial % GPUS
        found.append(
            watched.notices(gpu, lambda gpu=gpu: watched.fake.xid(gpu, 79), "failed", "XID 79")
        )
        watched.repair(gpu)
    return found


def losses(watched: Watched, trials: int) -> list[Noticed]:
    found = []
    for trial in range(trials):
        gpu = trial % GPUS
        # At another moment of the interval each time.
        time.sleep(LOOKS_INTERVAL_S * trial / trials)
        found.append(
            watched.notices(gpu, lambda gpu=gpu: watched.fake.lose(gpu), "failed", "GPU_IS_LOST")
        )
        watched.repair(gpu)
    return found


class Hang(NamedTuple):
    """What one GPU that hangs does to the others; seconds."""

    suspect_s: float
    failed_s: float
    oldest_sample_s: float
    slowest_health_s: float


def hang(watched: Watched, seconds: float) -> Hang:
    def fresh() -> bool:
        return all(one["sampled_ago_s"] < LOOKS_INTERVAL_S for one in watched.status())

    # A GPU that was lost until now has an old sample.
    watched.wait("a sample of each GPU", fresh)
    began_s = time.monotonic()
    watched.fake.hang(3)
    seen: dict[str, float] = {}
    oldest_s = slowest_s = 0.0
    while time.monotonic() - began_s < seconds or "failed" not in seen:
        if time.monotonic() - began_s > DEADLINE_S + seconds:
            raise SystemExit("the GPU that hangs never failed")
        asked_s = time.monotonic()
        seen.setdefault(watched.health()[3]["health"], time.monotonic() - began_s)
        slowest_s = max(slowest_s, time.monotonic() - asked_s)
        oldest_s = max(
            oldest_s, *(one["sampled_ago_s"] for one in watched.status() if one["index"] != 3)
        )
    watched.repair(3)
    return Hang(seen["suspect"], seen["failed"], oldest_s, slowest_s)


def _row(what: str, seconds: list[float], target: str) -> str:
    cells = (statistics.median(seconds), sorted(seconds)[int(0.95 * len(seconds))], max(seconds))
    times = " | ".join(f"{cell * 1000:,.0f} ms" for cell in cells)
    return f"| {what} | {len(seconds)} | {times} | {target} |"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def measure(folder: Path, trials: int, hang_seconds: float) -> tuple[list[str], list[str]]:
    """The table's rows, and which targets were missed."""
    from fake_nvml import FakeNvml
    from fake_nvml_build import build

    library = build(folder / "library").parent

    def watched(interval_s: float) -> Watched:
        mine = folder / f"{interval_s:g}"
        mine.mkdir()
        return Watched(mine, FakeNvml(mine / "nvml", gpus=GPUS, library=library), interval_s)

    with watched(EVENTS_INTERVAL_S) as one:
        events = xids(one, trials)
    with watched(LOOKS_INTERVAL_S) as one:
        lost = losses(one, trials)
        hung = hang(one, hang_seconds)
    event, loss = "at most 200 ms", f"at most {LOOKS_INTERVAL_S * 1000:,.0f} ms + one look"
    rows = [
        _row("XID 79 → `/health`", [one.health_s for one in events], event),
        _row("XID 79 → words of `muai run`", [one.words_s for one in events], event),
        _row("loss without an XID → `/health`", [one.health_s for one in lost], loss),
        _row("hang → suspect", [hung.suspect_s], "deadline 2 s + interval"),
        _row("hang → failed (3 deadlines missed)", [hung.failed_s], ""),
        _row(
            f"oldest sample of the others in {hang_seconds:g} s",
            [hung.oldest_sample_s],
            f"at most {FRESH_TARGET_S * 1000:,.0f} ms",
        ),
        _row("slowest `/health` meanwhile", [hung.slowest_health_s], ""),
    ]
    limits = {
        "an XID took": (max(max(one) for one in events), EVENT_TARGET_S),
        "a loss took": (max(one.health_s for one in lost), LOOKS_INTERVAL_S + LOOK_S),
        "a sample of another GPU got as old as": (hung.oldest_sample_s, FRESH_TARGET_S),
    }
    missed = [
        f"{what} {was_s:.3f} s, allowed are {allowed_s:g} s"
        for what, (was_s, allowed_s) in limits.items()
        if was_s > allowed_s
    ]
    return rows, missed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=24, help="per kind (default 24)")
    parser.add_argument("--hang-seconds", type=float, default=20.0, help="default 20")
    asked = parser.parse_args()
    sys.path.insert(0, str(FAKE))
    with tempfile.TemporaryDirectory(prefix="muai-") as folder:
        rows, missed = measure(Path(folder), asked.trials, asked.hang_seconds)
    print("## GPU failures\n")
    print(
        f"{GPUS} fake H200, {os.cpu_count()} cores, Python {platform.python_version()}; events at "
        f"an interval of {EVENTS_INTERVAL_S:g} s, the rest at {LOOKS_INTERVAL_S:g} s. "
        "`python benchmarks/gpu_detection.py`\n"
    )
    print("| from → to | trials | median | 95 % | longest | target |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    print("\n".join(rows))
    for complaint in missed:
        print(complaint, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
