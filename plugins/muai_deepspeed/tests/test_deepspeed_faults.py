"""What real ranks do in trouble, started as the engine says: they end, tell why, leave nothing."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from muai_deepspeed.engine import DeepSpeedEngine

from muai_core import Deployment, Device, ExitEvidence, Failure, LaunchRequest

pytestmark = pytest.mark.alone

DEADLINE_S = 120
#: In place of half a minute.
RANK_TIMEOUT_S = 3.0
CPU = Device(
    uuid="CPU-0",
    index=0,
    kind="cpu",
    platform="cpu",
    name="CPU",
    node="local",
    memory_total_bytes=2**34,
)


class Replica:
    """A launcher with its ranks, and what is left of them."""

    def __init__(
        self, folder: Path, log: Path, shape: tuple[int, int], preexec: Callable[[], None] | None
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.log, self.engine = log, DeepSpeedEngine()
        self.request = _request(folder, shape, self.port)
        self.seen: set[int] = set()
        self._preexec = preexec
        self._shared_memory = set(Path("/dev/shm").iterdir())

    def start(self, out: Path | None = None) -> "Replica":
        spec = self.engine.launch(self.request)
        with (out or self.log).open("ab") as stream:
            self.process = subprocess.Popen(
                spec.argv,
                env={**os.environ, **spec.env},
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                preexec_fn=self._preexec,
            )
        return self

    def pids(self) -> list[int]:
        """Of the ranks that there are, in their order."""
        found: dict[int, int] = {}
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.Error):
                    words = child.cmdline()
                    if "muai_deepspeed.worker" in words:
                        found[int(words[words.index("--rank") + 1])] = child.pid
        self.seen.update(found.values())
        return [found[rank] for rank in sorted(found)]

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer; None: it does not serve. Streams are read to their end."""
        data = None if body is None else json.dumps({"model": "tiny", **body}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError, ValueError):
            return None

    def wait_ready(self) -> "Replica":
        self.wait_until(lambda: self.ask("/health"))
        return self

    def generate_without_end(self) -> None:
        """A request that runs until the replica ends; returns when it has tokens."""
        body = {"prompt": "on and on", "max_tokens": 490, "ignore_eos": True, "temperature": 0}
        for _ in range(3):
            threading.Thread(target=self.ask, args=("/v1/completions", body), daemon=True).start()
        self.wait_until(lambda: (self.ask("/progress") or {}).get("tokens_generated", 0) > 10)

    def wait_until(self, condition: Callable[[], object]) -> None:
        give_up_at_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up_at_s, self.log.read_text()
            time.sleep(0.02)

    def failure(self, stage: str) -> Failure:
        """Waits for the end; nothing is left then, and this is what it was."""
        self.pids()
        status = self.process.wait(DEADLINE_S)
        assert status not in (0, -9), self.log.read_text()
        assert not [pid for pid in self.seen if psutil.pid_exists(pid)]
        left = [path.name for path in Path("/dev/shm").iterdir() if path not in self._shared_memory]
        ours = [*map(str, self.seen), "deepspeed"]
        assert not [name for name in left if any(word in name for word in ours)]
        tail = "\n".join(self.log.read_text().splitlines()[-200:])
        evidence = ExitEvidence(stage=stage, status=status, log_tail=tail)
        failure = self.engine.classify(evidence)
        assert failure is not None, tail
        assert "\n" not in failure.reason
        assert failure.advice
        return failure


def _request(folder: Path, shape: tuple[int, int], port: int) -> LaunchRequest:
    shards, stages = shape
    deployment = Deployment(
        name="tiny",
        source=str(folder),
        engine="deepspeed",
        platforms=("cpu",),
        dtype="float32",
        max_model_len=512,
        tensor_parallel_size=shards,
        pipeline_parallel_size=stages,
        engine_options={"rank_timeout_s": RANK_TIMEOUT_S, "num_threads": 1},
    )
    return LaunchRequest(
        deployment=deployment,
        replica_id="tiny.0",
        epoch=1,
        devices=(CPU,) * shards * stages,
        stages=((CPU.uuid,) * shards,) * stages,
        python=sys.executable,
        host="127.0.0.1",
        port=port,
    )


@pytest.fixture
def make(tmp_path: Path, tiny_folder: Path) -> Iterator[Callable[..., Replica]]:
    made: list[Replica] = []

    def make_one(
        shards: int,
        stages: int,
        folder: Path = tiny_folder,
        preexec: Callable[[], None] | None = None,
    ) -> Replica:
        made.append(Replica(folder, tmp_path / "log", (shards, stages), preexec))
        return made[-1]

    yield make_one
    for replica in made:
        replica.process.kill()
        replica.process.wait()


def test_a_rank_that_is_killed_in_mid_generation(make: Callable[..., Replica]) -> None:
    replica = make(2, 2).start().wait_ready()
    replica.generate_without_end()
    victim = random.randrange(4)
    os.kill(replica.pids()[victim], signal.SIGKILL)
    failure = replica.failure("serving")
    assert failure.kind == "rank_died"
    assert failure.reason == (
        f"muai_deepspeed: rank {victim} was killed by SIGKILL; the others are killed"
    )
    assert "memory" in failure.advice


@pytest.mark.parametrize(("shape", "victim"), [((2, 2), 3), ((1, 2), 0)])
def test_a_rank_that_falls_silent_in_mid_generation_is_named(
    shape: tuple[int, int], victim: int, make: Callable[..., Replica]
) -> None:
    replica = make(*shape).start().wait_ready()
    replica.generate_without_end()
    os.kill(replica.pids()[victim], signal.SIGSTOP)
    failure = replica.failure("serving")
    assert failure.kind == "timed_out"
    assert failure.reason.endswith(f"lost rank {victim}: silent for 3 s")
    assert "rank_timeout_s" in failure.advice


def test_a_rank_that_is_stopped_for_less_loses_nothing(make: Callable[..., Replica]) -> None:
    """So does a whole replica that was suspended: it goes on, however long it was."""
    replica = make(1, 2).start().wait_ready()
    stopped = replica.pids()
    body = {"prompt": "abc", "max_tokens": 8, "temperature": 0}
    before = replica.ask("/v1/completions", body)
    assert before is not None
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):  # longer than any of them may be silent
        replica.process.wait(RANK_TIMEOUT_S + 1)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    after = replica.ask("/v1/completions", body)
    assert after["choices"] == before["choices"]


def test_a_log_on_a_full_disk_costs_no_request(make: Callable[..., Replica]) -> None:
    replica = make(2, 1).start(Path("/dev/full")).wait_ready()
    answer = replica.ask("/v1/completions", {"prompt": "abc", "max_tokens": 4, "temperature": 0})
    assert answer["usage"]["completion_tokens"] == 4
    ranks = replica.pids()
    replica.process.send_signal(signal.SIGTERM)
    assert replica.process.wait(DEADLINE_S) == 0
    assert not [pid for pid in ranks if psutil.pid_exists(pid)]


def test_a_model_whose_folder_is_deleted_during_the_load(
    tmp_path: Path, tiny_folder: Path, make: Callable[..., Replica]
) -> None:
    folder = tmp_path / "gone"
    shutil.copytree(tiny_folder, folder)
    replica = make(1, 2, folder).start()
    # They have seen that it is there, and import what they need to read it.
    replica.wait_until(lambda: len(pids := replica.pids()) == 2 and all(map(_has_torch, pids)))
    shutil.rmtree(folder)
    failure = replica.failure("load")
    assert failure.kind == "model_files"
    assert "folder" in failure.advice


def test_a_port_that_is_taken(make: Callable[..., Replica]) -> None:
    replica = make(1, 2)
    with socket.create_server(("127.0.0.1", replica.port)):
        failure = replica.start().failure("spawn")
    assert failure.kind == "port_taken"
    assert str(replica.port) in failure.reason


def test_weights_for_which_there_is_no_memory(
    tmp_path: Path, tiny_folder: Path, make: Callable[..., Replica]
) -> None:
    """One weight of 16 GiB in float32; its file is a hole."""
    folder = tmp_path / "large"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    rows = 2**33 // config["hidden_size"] // 2
    config |= {"vocab_size": rows, "tie_word_embeddings": True, "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    _enlarge(folder / "model.safetensors", "model.embed_tokens.weight", rows, config["hidden_size"])
    limit = 12 * 2**30
    replica = make(
        2, 1, folder, lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    ).start()
    failure = replica.failure("load")
    assert failure.kind == "out_of_memory_host"
    assert "memory" in failure.reason
    assert "memory" in failure.advice


def _has_torch(pid: int) -> bool:
    return any("libtorch_cpu" in mapped.path for mapped in psutil.Process(pid).memory_maps())


def _enlarge(path: Path, name: str, rows: int, width: int) -> None:
    """Puts a tensor of zeros in bfloat16 behind the others, as a hole in the file."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    kept = {key: value for key, value in header.items() if key != name}
    begin = len(body)
    end = begin + rows * width * 2
    # Offsets have no gaps: the old tensor stays under another name.
    kept["unused"] = header[name]
    kept[name] = {"dtype": "BF16", "shape": [rows, width], "data_offsets": [begin, end]}
    text = json.dumps(kept).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    os.truncate(path, 8 + len(text) + end)
