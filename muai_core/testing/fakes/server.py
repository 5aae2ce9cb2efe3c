"""The process of a fake engine: `python -m muai_core.testing.fakes.server SPEC`.

A thread per connection and nothing but the standard library under the HTTP: it starts in a tenth of
the time of the real server.
"""

import contextlib
import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from muai_core.testing.fakes.answering import Answering
from muai_core.testing.fakes.engine import HELD_BYTES, RANK_TITLE
from muai_core.testing.fakes.exchange import Exchange

#: An orphan that nobody can find by its session, its parents or its environment.
_LEAVE_BEHIND = "env -i setsid sh -c 'echo $$; exec sleep 60 >/dev/null 2>&1' &"
_RANK = "import time\nwhile True: time.sleep(60)"
_SHUTDOWN_S = 0.3
_CRASH_STATUS = 3
_POLL_S = 0.02
#: More than the kit lets a starved start have.
RESERVED_BYTES = 2**30


class FakeServer:
    """One fake replica."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.defect: str = spec["defect"]
        self._spec = spec
        self._ready = False
        self._terms = 0
        self._left_behind: list[int] = []
        self._rank: subprocess.Popen[bytes] | None = None
        self._answering = Answering(spec)
        self._holding: Path | None = None

    def run(self) -> None:
        """Serves until a signal or a fault ends the process."""
        signal.signal(signal.SIGTERM, lambda *_: self._on_sigterm())
        self._check_model()
        if self.defect == "leaves_a_process_when_called_off":
            self._leave_behind()
        listener = self._listen()
        threading.Thread(target=self._load, daemon=True).start()
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    # Its life

    def _check_model(self) -> None:
        folder = Path(self._spec["source"])
        if self.defect == "says_nothing_of_a_vanished_model" and not folder.exists():
            os._exit(_CRASH_STATUS)
        self._reserve()
        wanted = json.loads((folder / "config.json").read_bytes())["weights_bytes"]
        if (folder / "model.bin").stat().st_size != wanted:
            if self.defect == "says_nothing_of_broken_files":
                os._exit(_CRASH_STATUS)
            sys.exit("Error while deserializing: incomplete metadata, file not fully covered")
        if self.defect == "wants_to_be_alone":
            self._lock = (folder / "lock").open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sys.exit("there is another one")

    def _reserve(self) -> None:
        """As an engine does for weights; none of it is touched."""
        try:
            self._weights = mmap.mmap(-1, RESERVED_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            if self.defect == "says_nothing_of_lack_of_memory":
                os._exit(_CRASH_STATUS)
            sys.exit(str(error))

    def _listen(self) -> socket.socket:
        host = "0.0.0.0" if self.defect == "listens_everywhere" else self._spec["host"]
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, self._spec["port"]))
        except OSError as error:
            if self.defect == "says_nothing_of_a_taken_port":
                os._exit(_CRASH_STATUS)
            sys.exit(str(error))
        listener.listen(64)
        return listener

    def _load(self) -> None:
        if self._spec["folder"] is not None:
            self._holding = Path(self._spec["folder"]) / str(os.getpid())
            self._hold(self._holding)
        # On the main thread's life, not on this one's: no parent-death signal is set.
        self._rank = subprocess.Popen([sys.executable, "-I", "-S", "-c", _RANK, RANK_TITLE])
        threading.Thread(target=self._watch_rank, daemon=True).start()
        time.sleep(self._spec["load_s"])
        if self.defect == "leaves_a_process_when_called_off":
            self._call_back()
        if self.defect == "leaves_a_process_when_killed":
            self._leave_behind()
        self._ready = True

    def _watch_rank(self) -> None:
        assert self._rank is not None
        if self.defect == "resumes_what_was_stopped":
            threading.Thread(target=self._resume, args=[self._rank.pid], daemon=True).start()
        status = self._rank.wait()
        if self._terms == 0:
            sys.stderr.write(f"rank 0 ended with status {status}\n")
            os._exit(1)

    def _resume(self, pid: int) -> None:
        with contextlib.suppress(OSError):  # the rank has ended
            while True:
                os.kill(pid, signal.SIGCONT)
                time.sleep(_POLL_S)

    def _hold(self, path: Path) -> None:
        path.write_text(json.dumps(dict.fromkeys(self._spec["devices"], HELD_BYTES)))

    def _on_sigterm(self) -> None:
        self._terms += 1
        if self.defect == "ignores_sigterm" and self._ready:
            return
        if self.defect == "is_confused_by_a_second_stop" and not self._ready:
            if self._terms == 1:
                threading.Thread(target=self._end_slowly, daemon=True).start()
            return
        self._end()

    def _end_slowly(self) -> None:
        time.sleep(_SHUTDOWN_S)
        if self._terms == 1:
            self._end()

    def _end(self) -> None:
        served = self._answering.served > 0
        if self.defect == "leaves_a_process" and served:
            self._leave_behind()
        if self.defect == "leaves_a_process_when_late" and not self._ready:
            self._leave_behind()
        if self.defect == "leaves_shared_memory" and served:
            Path(f"/dev/shm/muai-fake-{os.getpid()}").write_bytes(b"left")
        if self.defect in ("leaves_a_process_when_called_off", "leaves_a_process_when_killed"):
            self._call_back()
        if self._holding is not None:
            if self.defect == "keeps_device_memory" and served:
                self._hold(self._holding.with_name(f"kept-{os.getpid()}"))
            self._holding.unlink(missing_ok=True)
        if self._rank is not None:
            self._rank.kill()
        os._exit(0)

    def _leave_behind(self) -> None:
        # Or the signal comes before it is known what to call back.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        shell = subprocess.Popen(["/bin/sh", "-c", _LEAVE_BEHIND], stdout=subprocess.PIPE)
        assert shell.stdout is not None
        self._left_behind.append(int(shell.stdout.readline()))
        shell.wait()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

    def _call_back(self) -> None:
        for pid in self._left_behind:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._left_behind.clear()

    # Its answers

    def _log(self, words: str) -> None:
        try:
            os.write(2, f"{words}\n".encode())
        except OSError:
            os._exit(_CRASH_STATUS)

    def _serve(self, connection: socket.socket) -> None:
        # Whoever asks may go away at any moment.
        with contextlib.suppress(OSError), connection:
            exchange = Exchange(connection)
            if self.defect == "dies_of_a_full_log":
                self._log(exchange.path)
            if exchange.method == "POST":
                self._answering.answer(exchange, ready=self._ready)
            elif exchange.path == "/health":
                exchange.send_json(200 if self._ready else 503, {"stage": "load", "detail": "…"})
            elif exchange.path == "/v1/models":
                shown = self._ready or self.defect == "lists_too_early"
                models = [{"id": self._spec["name"], "object": "model"}] if shown else []
                exchange.send_json(200, {"object": "list", "data": models})
            elif exchange.path == "/progress":
                exchange.send_json(200, self._answering.progress())
            elif exchange.path == "/metrics" and self.defect != "has_no_metrics":
                tokens = self._answering.progress()["tokens_generated"]
                exchange.send(200, f"# TYPE fake_tokens counter\nfake_tokens {tokens}\n".encode())
            else:
                exchange.send_json(404, {"error": {"message": f"no {exchange.path} here"}})


if __name__ == "__main__":
    FakeServer(json.loads(sys.argv[1])).run()
