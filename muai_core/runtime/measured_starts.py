"""Measured starts on disk, and how they reach the estimate of the next one."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from muai_core.model.architecture import ModelDescription
from muai_core.model.deployment import Deployment
from muai_core.model.device import Platform
from muai_core.planning.calibration import Calibration, calibrated
from muai_core.planning.measured import MeasuredStart, fingerprint, newest, starts_of
from muai_core.planning.wording import one_line
from muai_core.plugin.memory import MemoryProfile, OverheadTerms

_log = logging.getLogger(__name__)

FILE_NAME = "measured-starts.json"
_BROKEN_SUFFIX = ".broken"
_MOST_STARTS = 1000
#: A thousand starts of eight stages are 2 MB.
_MOST_BYTES = 32 * 1024 * 1024
#: No device has as many bytes, and no sum of them overflows.
_MOST_NUMBER = 2**53


class _Document(Struct, frozen=True, kw_only=True):
    """The file."""

    format: Literal["muai-measured-starts-1"] = "muai-measured-starts-1"
    starts: tuple[MeasuredStart, ...] = ()


class MemoryBasis(Struct, frozen=True, kw_only=True):
    """How the need of one deployment was worked out: what a measured start is held against."""

    engine: str
    platform: Platform
    model: str
    #: As corrected; None where the engine named a number.
    overhead: OverheadTerms | None = None
    log_patterns: tuple[tuple[str, str], ...] = ()
    #: What was corrected by what, in words.
    notes: tuple[str, ...] = ()


class Calibrator:
    """Corrects estimates by measured starts, and remembers how each deployment's was made.

    Call it as `muai_core.planning.calibration.Calibrate`.
    """

    def __init__(
        self,
        starts: Sequence[MeasuredStart],
        devices: Mapping[Platform, Sequence[str]] | None = None,
    ) -> None:
        """`devices` are the names of the fleet's devices, by platform; None: all that were measured
        count.
        """
        self._starts = starts
        self._devices = devices
        #: By deployment.
        self.bases: dict[str, MemoryBasis] = {}

    def __call__(
        self,
        deployment: Deployment,
        model: ModelDescription | None,
        answer: MemoryProfile | int | None,
    ) -> Calibration:
        self.bases.pop(deployment.name, None)
        if answer is None:
            return Calibration(answer)
        engine, platform = deployment.engine, deployment.platforms[0]
        identity = fingerprint(deployment, model)
        names = None if self._devices is None else self._devices.get(platform, ())
        measured = starts_of(
            self._starts, engine=engine, platform=platform, model=identity, devices=names
        )
        calibration = calibrated(answer, measured)
        found = calibration.profile
        self.bases[deployment.name] = MemoryBasis(
            engine=engine,
            platform=platform,
            model=identity,
            overhead=found.overhead if isinstance(found, MemoryProfile) else None,
            log_patterns=found.log_patterns if isinstance(found, MemoryProfile) else (),
            notes=calibration.notes,
        )
        return calibration


class MeasuredStarts:
    """The newest starts of each kind, in one file of the state directory.

    `starts` belongs to one thread; `save` may be called from any.
    """

    def __init__(self, path: Path | None, starts: Sequence[MeasuredStart] = ()) -> None:
        """`path` None: nothing is kept."""
        self._path = path
        self._saving = threading.Lock()
        self.starts: tuple[MeasuredStart, ...] = tuple(starts)

    @classmethod
    def load(
        cls, state_dir: Path, report: Callable[[str], None], *, keep_broken: bool = True
    ) -> "MeasuredStarts":
        """Reads the file, if there is one. Blocks on it; never raises.

        One that cannot be understood is told in one line and, with `keep_broken`, put aside, so
        that the next `save` starts afresh. Without it nothing on disk is changed.
        """
        path = state_dir / FILE_NAME
        try:
            return cls(path, _read(path))
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError) as error:
            words = f"{path} is not used: {one_line(str(error), 200)}; starts are measured afresh"
        if keep_broken:
            aside = path.with_name(path.name + _BROKEN_SUFFIX)
            with contextlib.suppress(OSError):
                path.replace(aside)
                words += f", it is kept as {aside.name}"
        report(words)
        return cls(path)

    def calibrator(self, devices: Mapping[Platform, Sequence[str]] | None = None) -> Calibrator:
        """Corrects estimates by what is known now."""
        return Calibrator(self.starts, devices)

    def add(self, *starts: MeasuredStart) -> None:
        """Keep these, and let go of what is too old."""
        kept = newest([*self.starts, *starts])
        kept.sort(key=lambda one: one.measured_at_s)
        self.starts = tuple(kept[-_MOST_STARTS:])

    def save(self) -> None:
        """Replaces the file as a whole, by what is known when it is written.

        Blocks on it, and on another thread that saves; a full disk is logged and costs the file.
        """
        with self._saving:
            self._save()

    def _save(self) -> None:
        if self._path is None:
            return
        draft = self._path.with_suffix(".new")
        try:
            file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "wb") as stream:
                stream.write(msgspec.json.encode(_Document(starts=self.starts)) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(self._path)
        except OSError as error:
            _log.warning("cannot keep what starts needed in %s: %s", self._path, error)


def _read(path: Path) -> tuple[MeasuredStart, ...]:
    """Raises OSError, and ValueError on what is no such file."""
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it is longer than {_MOST_BYTES} bytes")
    try:
        document = msgspec.json.decode(content, type=_Document)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    for start in document.starts:
        if not all(0 <= number <= _MOST_NUMBER for number in _numbers(msgspec.to_builtins(start))):
            raise ValueError(f"a number in it is below 0 or above {_MOST_NUMBER}")
        if not start.ranks:
            raise ValueError("a start in it has no ranks")
    return tuple(newest(document.starts))


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, int | float) else []
