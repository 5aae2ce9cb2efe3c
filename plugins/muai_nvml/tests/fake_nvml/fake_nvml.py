"""Plays GPUs for the real pynvml: writes the state file that the fake `libnvidia-ml.so.1` reads.

Every change is one atomic replacement of the file, under a lock: any number of processes may
change it, and any number may read through the library. README.md beside this file says what the
file may hold and how to use it by hand.
"""

import argparse
import fcntl
import os
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from fake_nvml_build import build, symbols

PROFILES = Path(__file__).parent / "profiles"
#: Where the eight GPUs of one chassis sit; the next eight are in the next PCI domain.
BUSES = (0x18, 0x2A, 0x3A, 0x5D, 0x9A, 0xAB, 0xBA, 0xDB)
#: Older events are dropped from the file; a reader has long seen them.
EVENTS_KEPT = 10_000
ALIASES = {"nvmlInit": "nvmlInitWithFlags"}

Gpu = int | Literal["*"]
Scope = str


class FakeNvml:
    """One fake driver with its GPUs, numbered from 0 in the order NVML first lists them.

    `path` is the state file; it is created with `gpus` GPUs of `profile` unless it exists.
    `library` is the directory of the built library. A GPU keeps its number here when others
    vanish, NVML's indices move up. What a GPU was never given, it does not support.
    """

    def __init__(
        self, path: Path, *, gpus: int = 8, profile: str = "h200", library: Path | None = None
    ) -> None:
        self.path = path
        self.library = library
        self._of_thread = threading.local()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.changes() as state:
                _fill(state, gpus, profile)

    # -- values

    def set(self, gpu: Gpu, values: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Give a GPU ("*": every GPU) values by key; None makes a key unsupported.

        A dot in a key is written `__` in a keyword: set(3, clock_mhz__sm=1980). Tuples and lists
        become the words of one value.
        """
        named = {key.replace("__", "."): value for key, value in more.items()}
        with self.changes() as state:
            for key, value in {**(values or {}), **named}.items():
                state.settings[str(gpu), key] = _text(value)

    def set_system(self, **values: Any) -> None:
        """The same for the machine: driver_version, nvml_version, cuda_driver_version, count."""
        with self.changes() as state:
            for key, value in values.items():
                state.settings["system", key] = _text(value)

    def get(self, gpu: Gpu, key: str) -> str | None:
        """The text of a value as the library sees it; None: unsupported."""
        opened: _State | None = getattr(self._of_thread, "state", None)
        settings = (opened or _State.read(self.path)).settings
        value = settings.get((str(gpu), key), settings.get(("*", key)))
        return value or None

    def uuid(self, gpu: int) -> str:
        return self.get(gpu, "uuid") or ""

    def processes(
        self,
        gpu: int,
        *processes: tuple[int, int | None] | tuple[int, int | None, int, int],
        kind: Literal["compute", "graphics", "mps"] = "compute",
    ) -> None:
        """What runs on a GPU: (pid, bytes) or (pid, bytes, GPU instance, compute instance).

        Bytes None: the driver does not know (as in a container).
        """
        words = [":".join("na" if part is None else str(part) for part in p) for p in processes]
        self.set(gpu, {f"{kind}_processes": " ".join(words)})

    def mig(self, gpu: int, *memory_bytes: int, name: str = "1g.18gb") -> tuple[str, ...]:
        """Divide a GPU into MIG devices of these sizes, and return their UUIDs."""
        uuids = tuple(
            str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.uuid(gpu)}/{index}"))
            for index in range(len(memory_bytes))
        )
        values: dict[str, Any] = {"mig_mode": 1}
        for index, (total, part) in enumerate(zip(memory_bytes, uuids, strict=True)):
            values |= {
                f"mig.{index}.uuid": f"MIG-{part}",
                f"mig.{index}.name": f"{self.get(gpu, 'name')} MIG {name}",
                f"mig.{index}.gpu_instance": index + 1,
                f"mig.{index}.compute_instance": 0,
                f"mig.{index}.memory_total_bytes": total,
                f"mig.{index}.memory_used_bytes": 0,
                f"mig.{index}.attributes": (16, 1, 1, 0, 1, 0, 1, 1, total >> 20),
            }
        self.set(gpu, values)
        return tuple(f"MIG-{part}" for part in uuids)

    def connect_nvlink(self, one: int, other: int, *links: int) -> None:
        """Connect two GPUs directly, by these link numbers on both sides, without an NVSwitch."""
        for near, far in ((one, other), (other, one)):
            for link in links:
                remote = self.get(far, "pci_bus_id")
                self.set(
                    near,
                    {
                        f"nvlink.{link}.remote_pci_bus_id": remote,
                        f"nvlink.{link}.remote_type": 0,
                        f"nvlink.{link}.state": 1,
                    },
                )

    # -- faults

    def fail(self, gpu: Gpu | None, function: str, code: int) -> None:
        """Let a function ("*": all) return `code` for a GPU, or for the whole library (None).

        The name without _v2 stands for all versions; code 0 takes the injection back. Raises
        ValueError for a function that pynvml does not know.
        """
        self._inject(gpu, f"return {_function(function)}", str(code) if code else None)

    def hang(self, gpu: Gpu | None, seconds: float | None = None, function: str = "*") -> None:
        """Let calls block for `seconds` (None: until healed), each in its own thread.

        0 takes the injection back; calls that hang then answer.
        """
        text = None if seconds == 0 else "forever" if seconds is None else str(seconds)
        self._inject(gpu, f"hang {_function(function)}", text)

    def lose(self, gpu: Gpu) -> None:
        """GPU_IS_LOST from everything, the ways to its handle too."""
        self.set(gpu, lost=1)

    def require_reset(self, gpu: Gpu) -> None:
        """RESET_REQUIRED from everything but identity: handle, UUID, index, name, PCI."""
        self.set(gpu, reset_required=1)

    def vanish(self, gpu: int) -> None:
        """The count shrinks, later GPUs move up, open handles answer GPU_IS_LOST."""
        self.set(gpu, vanished=1)

    def heal(self, gpu: Gpu | None = None) -> None:
        """Take back every fault of a GPU ("*": those of every GPU at once), or all there are."""
        with self.changes() as state:
            state.settings = {
                (scope, key): value
                for (scope, key), value in state.settings.items()
                if not (_is_fault(key) and (gpu is None or scope == str(gpu)))
            }

    def restart_driver(self) -> None:
        """UNINITIALIZED from everything, in every process, until it calls nvmlInit again."""
        with self.changes() as state:
            generation = int(state.settings.get(("system", "driver_generation"), "0")) + 1
            state.settings["system", "driver_generation"] = str(generation)

    def _inject(self, gpu: Gpu | None, key: str, value: str | None) -> None:
        scope = "system" if gpu is None else str(gpu)
        with self.changes() as state:
            if value is None:
                state.settings.pop((scope, key), None)
            else:
                state.settings[scope, key] = value

    # -- events

    def xid(self, gpu: int | None, code: int) -> int:
        """An XID error; see `event`."""
        return self.event(gpu, "xid", code)

    def event(
        self, gpu: int | None, kind: str | int, data: int = 0, instances: tuple[int, ...] = ()
    ) -> int:
        """Send an event to every event set that waits for it; returns its sequence number.

        `kind` is xid, ecc_single_bit, ecc_double_bit, ... (README.md) or NVML's bit. GPU None: a
        device that the library does not know. `instances`: GPU and compute instance of MIG.
        """
        with self.changes() as state:
            sequence = state.sequence + 1
            device = "unknown" if gpu is None else gpu
            words = ["event", sequence, "gpu", device, kind, data, *instances]
            state.events = [*state.events[1 - EVENTS_KEPT :], " ".join(map(str, words))]
        return sequence

    # -- use

    @contextmanager
    def changes(self) -> Iterator["_State"]:
        """Make the changes of this block visible all at once; other writers wait meanwhile."""
        opened: _State | None = getattr(self._of_thread, "state", None)
        if opened is not None:
            yield opened
            return
        with self.path.with_name(f"{self.path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._of_thread.state = _State.read(self.path)
            try:
                yield state
                state.write(self.path)
            finally:
                self._of_thread.state = None

    def env(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment (of this process unless given) for a process that sees these GPUs."""
        if self.library is None:
            raise ValueError("this FakeNvml was made without library=; build() returns its path")
        env = dict(os.environ if base is None else base)
        paths = [str(self.library), *filter(None, [env.get("LD_LIBRARY_PATH")])]
        return env | {"LD_LIBRARY_PATH": ":".join(paths), "FAKE_NVML_STATE": str(self.path)}


class _State:
    """The parsed state file: settings by (scope, key), and the lines of the events."""

    def __init__(self, settings: dict[tuple[Scope, str], str], events: list[str]) -> None:
        self.settings = settings
        self.events = events

    @property
    def sequence(self) -> int:
        return int(self.events[-1].split()[1]) if self.events else 0

    @classmethod
    def read(cls, path: Path) -> "_State":
        return cls.parse(path.read_text()) if path.exists() else cls({}, [])

    @classmethod
    def parse(cls, text: str) -> "_State":
        state = cls({}, [])
        for line in text.splitlines():
            first, _, rest = line.strip().partition(" ")
            if first == "event":
                state.events.append(line.strip())
            elif first in ("gpu", "system"):
                scope, _, setting = rest.partition(" ") if first == "gpu" else (first, "", rest)
                key, _, value = setting.strip().partition(" ")
                if key in ("return", "hang"):
                    function, _, number = value.strip().partition(" ")
                    key, value = (f"{key} {function}", number) if number else (f"{key} *", value)
                state.settings[scope, key] = value.strip()
        return state

    def write(self, path: Path) -> None:
        lines = [
            " ".join(filter(None, ["" if scope == "system" else "gpu", scope, key, value]))
            for (scope, key), value in self.settings.items()
        ]
        fresh = path.with_name(f"{path.name}.fresh")
        fresh.write_text("\n".join([*lines, *self.events]) + "\n")
        # A clock that ticks in milliseconds must not hide the second of two quick changes.
        now_ns = fresh.stat().st_mtime_ns
        before_ns = path.stat().st_mtime_ns if path.exists() else 0
        os.utime(fresh, ns=(now_ns, max(now_ns, before_ns + 1)))
        fresh.replace(path)


def _fill(state: _State, gpus: int, profile: str) -> None:
    source = PROFILES / f"{profile}.state"
    if not source.exists():
        known = ", ".join(sorted(path.stem for path in PROFILES.glob("*.state")))
        raise ValueError(f"{profile}: no such profile of the fake NVML; there are: {known}")
    state.settings |= _State.parse(source.read_text()).settings
    state.settings["system", "count"] = str(gpus)
    for gpu in range(gpus):
        socket = gpu % 8 // 4
        values = {
            "uuid": f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'fake-nvml/{profile}/{gpu}')}",
            "serial": f"{1650000000000 + gpu}",
            "minor_number": str(gpu),
            "pci_bus_id": f"{gpu // 8:08X}:{BUSES[gpu % 8]:02X}:00.0",
            "memory_affinity": str(socket),
            "cpu_affinity": ("0-55,112-167", "56-111,168-223")[socket],
        }
        state.settings |= {(str(gpu), key): value for key, value in values.items()}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return " ".join(map(str, value)) if isinstance(value, tuple | list | range) else str(value)


def _is_fault(key: str) -> bool:
    return key.startswith(("return ", "hang ")) or key in ("lost", "reset_required", "vanished")


def _function(name: str) -> str:
    name = ALIASES.get(name, name)
    known = symbols()
    if name != "*" and not any(symbol == name or symbol[:-3] == name for symbol in known):
        raise ValueError(f"{name}: pynvml calls no such function")
    return name


def main(arguments: list[str]) -> int:
    """The command line for drills; README.md shows each command."""
    parser = argparse.ArgumentParser(description="Build the fake NVML and play with its GPUs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the library").add_argument("directory", type=Path)
    create = commands.add_parser("create", help="make a state file")
    create.add_argument("state", type=Path)
    create.add_argument("--gpus", type=int, default=8)
    create.add_argument("--profile", default="h200")
    for name, words, text in (
        ("set", ("gpu", "values"), "give a GPU values: KEY=VALUE ..., KEY= for unsupported"),
        ("fail", ("gpu", "function", "code"), "let a function return a code"),
        ("hang", ("gpu", "seconds"), "let every call block; 0 ends it"),
        ("lose", ("gpu",), "GPU_IS_LOST from everything"),
        ("vanish", ("gpu",), "the GPU is no longer counted"),
        ("heal", ("gpu",), "take its faults back"),
        ("xid", ("gpu", "code"), "send an XID event"),
        ("restart-driver", (), "UNINITIALIZED until the next nvmlInit"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("state", type=Path)
        for word in words:
            command.add_argument(word, nargs="+" if word == "values" else None)
    try:
        return _do(parser.parse_args(arguments))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


def _gpu(fake: FakeNvml, word: str | None) -> Gpu | None:
    if word is None or word in ("library", "unknown"):
        return None
    if word == "*":
        return "*"
    if not word.isdecimal() or not fake.uuid(int(word)):
        raise ValueError(f"{word}: no GPU of {fake.path}; a GPU is a number from 0, or '*'")
    return int(word)


def _do(asked: argparse.Namespace) -> int:
    if asked.command == "build":
        print(build(asked.directory))
        return 0
    if asked.command == "create":
        if asked.state.exists():
            raise ValueError(f"{asked.state}: is there already; remove it to begin anew")
        FakeNvml(asked.state, gpus=asked.gpus, profile=asked.profile)
        return 0
    if not asked.state.exists():
        raise ValueError(f"{asked.state}: no such state file; make one with `create`")
    fake = FakeNvml(asked.state)
    gpu: Any = _gpu(fake, getattr(asked, "gpu", None))
    match asked.command:
        case "set":
            fake.set(gpu, dict(word.partition("=")[::2] for word in asked.values))
        case "fail":
            fake.fail(gpu, asked.function, int(asked.code))
        case "hang":
            fake.hang(gpu, None if asked.seconds == "forever" else float(asked.seconds))
        case "lose":
            fake.lose(gpu)
        case "vanish":
            fake.vanish(gpu)
        case "heal":
            fake.heal(gpu)
        case "xid":
            fake.xid(gpu, int(asked.code))
        case "restart-driver":
            fake.restart_driver()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
