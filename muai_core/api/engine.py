"""One model on one engine, for a Python program: the base of VLLMEngine and DeepSpeedEngine."""

import json
import logging
import math
import os
import re
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from msgspec import Struct

from muai_core.api.allocation import AllocationError, GPUAllocation
from muai_core.api.engine_client import post
from muai_core.api.engine_config import EngineConfig, optimization_variables
from muai_core.api.engine_result import (
    EngineAllocation,
    EngineError,
    Fallback,
    Generation,
    Where,
)
from muai_core.api.gpu_manager import GPUManager, get_gpu_manager
from muai_core.api.private_controller import ControllerEnded, PrivateController
from muai_core.model.memory import Shape
from muai_core.planning.wording import one_line

GIB = 1024**3
_POLL_S = 0.05
#: Beside the deadline for the load: the other stages', and looking at the devices.
_START_MARGIN_S = 180.0
_DRAIN_S = 30.0
_STOP_GRACE_S = 10.0
#: How long a stop may take after the drain and the grace.
_STOP_MARGIN_S = 15.0

_log = logging.getLogger("muai_core.api")

ConfigT = TypeVar("ConfigT", bound=EngineConfig)


class _Attempt(Struct, frozen=True):
    where: Where
    shape: Shape

    @property
    def words(self) -> str:
        if self.shape.device_count == 1:
            return "a single GPU" if self.where == "gpu" else "the CPU"
        return f"{self.shape} on {'GPUs' if self.where == 'gpu' else 'the CPU'}"


class _Loaded(Struct, frozen=True):
    model: str
    controller: PrivateController
    claim: GPUAllocation | None
    allocation: EngineAllocation
    #: Host and port of its OpenAI endpoint.
    host: str
    port: int


class ServedEngine(Generic[ConfigT]):
    """One model at a time, in processes of its own. Synchronous; safe to use from several threads.

    The GPUs are chosen and claimed by the GPU manager; a private controller, the same code as
    `muai run`, starts the engine on them, watches it, and starts it again when it dies. As a
    context manager it unloads at the end; at exit it does so by itself.
    """

    #: Name of the engine plugin.
    engine: str
    config_type: type[ConfigT]

    def __init__(
        self,
        config: ConfigT | None = None,
        *,
        gpu_manager: GPUManager | None = None,
        devices: Mapping[str, Any] | None = None,
        plugins: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        """Nothing is started yet.

        `devices` is that section of a config file, and `plugins` are local files as there. GPUs
        are claimed in `gpu_manager`; without one in a manager of `devices`, or else in that of
        this process.
        """
        self.config: ConfigT = self.config_type() if config is None else config
        self._devices = dict(devices or {})
        self._plugins = [str(Path(path).expanduser().absolute()) for path in plugins]
        self._given_manager = gpu_manager
        self._own_manager: GPUManager | None = None
        self._lock = threading.RLock()
        self._loaded: _Loaded | None = None

    def load_model(self, model: str | os.PathLike[str]) -> EngineAllocation:
        """Allocate, start the engine, and wait until it serves: minutes for a large model.

        `model` is a name in `config.models`, or a folder, file or `package:PACKAGE/FILE`. When
        there are not enough GPUs a single one is tried, and then the CPU; each step is logged with
        its reason and is in the result. Raises AllocationError when nothing is left to try,
        EngineError when the engine does not start, ConfigError for values that cannot be, and
        RuntimeError when a model is loaded already.
        """
        with self._lock:
            if self._loaded is not None:
                raise RuntimeError(f"{self._loaded.model} is loaded; unload() it first")
            name, source = self._source(os.fspath(model))
            shape, manager = self._checked(name, source)
            self._loaded = self._load(name, source, shape, manager)
            return self._loaded.allocation

    def unload(self) -> None:
        """Let requests in flight finish, end every process, give the GPUs back. May be repeated."""
        with self._lock:
            loaded, self._loaded = self._loaded, None
            if loaded is not None:
                loaded.controller.stop()
                if loaded.claim is not None and not self._manager().closed:
                    self._manager().release(loaded.claim)
            own, self._own_manager = self._own_manager, None
            if own is not None:
                own.close()

    def __enter__(self) -> "ServedEngine[ConfigT]":
        return self

    def __exit__(self, *_: object) -> None:
        self.unload()

    @property
    def model(self) -> str | None:
        """The name of the loaded model; None: none is."""
        loaded = self._loaded
        return None if loaded is None else loaded.model

    @property
    def url(self) -> str:
        """Base URL for OpenAI clients. Raises RuntimeError when no model is loaded."""
        loaded = self._serving()
        return f"http://{loaded.host}:{loaded.port}/v1"

    @property
    def allocation(self) -> EngineAllocation:
        """Where the model runs. Raises RuntimeError when no model is loaded."""
        return self._serving().allocation

    @property
    def fallbacks(self) -> tuple[Fallback, ...]:
        """The steps down from what was asked for; empty when there were none."""
        return self.allocation.fallbacks

    def get_allocated_gpus(self) -> list[int]:
        """The device ids of its GPUs in rank order; empty on the CPU, and without a model."""
        loaded = self._loaded
        if loaded is None or loaded.allocation.where == "cpu":
            return []
        return [device_id for stage in loaded.allocation.stages for device_id in stage]

    def get_pipeline_allocation(self) -> list[list[int]]:
        """Device ids by pipeline stage, e.g. [[0, 1], [2, 3]]; on the CPU the ranks' numbers.

        Raises RuntimeError when no model is loaded.
        """
        return [list(stage) for stage in self.allocation.stages]

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        timeout_s: float = 600.0,
    ) -> Generation:
        """What the model says after `prompt`. May be called from several threads at once.

        While an engine that died is started again, this waits, for `timeout_s` at most.
        Raises RuntimeError when no model is loaded, EngineError when there is no answer.
        """
        loaded = self._serving()
        wanted = {
            "model": loaded.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop": stop if stop is None or isinstance(stop, str) else list(stop),
        }
        body = {key: value for key, value in wanted.items() if value is not None}
        answer = post(loaded.host, loaded.port, "/v1/completions", body, timeout_s)
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        return Generation(
            text=choice["text"],
            finish_reason=choice.get("finish_reason"),
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
        )

    # --- loading --------------------------------------------------------------------------------

    def _serving(self) -> _Loaded:
        loaded = self._loaded
        if loaded is None:
            raise RuntimeError("no model is loaded; load_model() loads one")
        return loaded

    def _source(self, model: str) -> tuple[str, str]:
        """The name under which a model is served, and its source with paths made absolute."""
        known = self.config.models.get(model)
        source = model if known is None else os.fspath(known)
        path = Path(source).expanduser()
        if path.exists():
            source = str(path.absolute())
        name = model if known is not None else path.name
        return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-")[:128] or "model", source

    def _checked(self, name: str, source: str) -> tuple[Shape, GPUManager]:
        """The wanted shape, and who allocates. Raises ConfigError."""
        from muai_core import builtin
        from muai_core.config.errors import Origin
        from muai_core.config.loaded import wanted_sizes
        from muai_core.config.loading import load_tree
        from muai_core.config.yaml_text import parse_yaml
        from muai_core.runtime.assembly import device_sources

        text = json.dumps(self._config_for(name, source, None, None))
        origin = Origin("file", type(self.config).__name__)
        tree = parse_yaml(text, lambda _: origin)
        loaded = load_tree(tree, (), optimization_variables(), Path.cwd(), builtin.load)
        tensor, pipeline = wanted_sizes(loaded.config, name, self.engine)
        if self._given_manager is None and self._devices and self._own_manager is None:
            self._own_manager = GPUManager(sources=device_sources(loaded))
        return Shape(tensor or 1, pipeline or 1), self._manager()

    def _manager(self) -> GPUManager:
        return self._given_manager or self._own_manager or get_gpu_manager()

    def _load(self, name: str, source: str, shape: Shape, manager: GPUManager) -> _Loaded:
        fallbacks: list[Fallback] = []
        attempts = list(self._attempts(shape, manager))
        for attempt, following in zip(attempts, [*attempts[1:], None], strict=True):
            try:
                return self._attempt(name, source, attempt, manager, tuple(fallbacks))
            except AllocationError as error:
                reason = one_line("; ".join(str(error).splitlines()), 500)
                if following is None:
                    raise _nothing_left(self.engine, attempt, reason, fallbacks) from None
            fallbacks.append(Fallback(wanted=attempt.words, instead=following.words, reason=reason))
            _log.warning(
                "%s: %s is not possible (%s); trying %s",
                *(f"{self.engine} {name}", attempt.words, reason, following.words),
            )
        raise AssertionError("there is always something to try")

    def _attempts(self, shape: Shape, manager: GPUManager) -> Iterator[_Attempt]:
        """What is tried, in order: as asked for, then a single GPU, then the CPU."""
        one = Shape(1, 1)
        fallback, where = self.config.fallback, self.config.device
        if where == "auto":
            yield _Attempt("gpu", shape)
            if fallback and shape != one and manager.detect_gpus():
                yield _Attempt("gpu", one)
        if where == "cpu" or fallback:
            yield _Attempt("cpu", shape)
            if fallback and shape != one:
                yield _Attempt("cpu", one)

    def _attempt(
        self,
        name: str,
        source: str,
        attempt: _Attempt,
        manager: GPUManager,
        fallbacks: tuple[Fallback, ...],
    ) -> _Loaded:
        """Raises AllocationError when there is no room, EngineError for everything else."""
        claim = None if attempt.where == "cpu" else self._claim(attempt.shape, manager)
        config = self._config_for(name, source, attempt, claim)
        controller: PrivateController | None = None
        try:
            controller = PrivateController(config, _DRAIN_S + _STOP_GRACE_S + _STOP_MARGIN_S)
            weakref.finalize(self, controller.stop)
            address, uuids = self._wait(name, controller)
        except BaseException as error:
            if controller is not None:
                controller.stop()
            if claim is not None:
                manager.release(claim)
            if isinstance(error, ControllerEnded | OSError):
                raise EngineError(f"{self.engine} {name} could not be started: {error}") from None
            raise
        url = urlsplit(address)
        allocation = EngineAllocation(
            where=attempt.where,
            stages=_numbered(uuids, claim),
            uuids=tuple(uuid for stage in uuids for uuid in stage),
            fallbacks=fallbacks,
        )
        _log.info("%s %s serves: %s, %s", self.engine, name, attempt.words, allocation.stages)
        return _Loaded(
            name, controller, claim, allocation, url.hostname or "127.0.0.1", url.port or 80
        )

    def _claim(self, shape: Shape, manager: GPUManager) -> GPUAllocation:
        memory_gib = self.config.memory_gib
        return manager.allocate_gpus(
            shape.tensor_parallel_size,
            shape.pipeline_parallel_size,
            None if memory_gib is None else math.ceil(memory_gib * GIB),
        )

    def _config_for(
        self, name: str, source: str, attempt: _Attempt | None, claim: GPUAllocation | None
    ) -> dict[str, Any]:
        """The config of the private controller, for one attempt; for a check without one."""
        wanted = self.config
        sizes = wanted.sizes
        affinity: dict[str, Any] = {}
        if attempt is not None:
            sizes = attempt.shape.tensor_parallel_size, attempt.shape.pipeline_parallel_size
            affinity = {"platform": "cpu"} if claim is None else {"devices": list(claim.uuids)}
        model = {
            "source": source,
            "engine": self.engine,
            "tensor_parallel_size": sizes[0],
            "pipeline_parallel_size": sizes[1],
            "affinity": affinity,
            "max_model_len": wanted.max_model_len,
            "concurrency": wanted.concurrency,
            "dtype": wanted.dtype,
            "memory_gib": wanted.memory_gib,
            "engine_options": dict(wanted.options),
        }
        return {
            "models": {name: model},
            "devices": self._devices,
            "plugins": self._plugins,
            "gateway": {"port": 0},
            "engines": {self.engine: {"python": wanted.python, "env": dict(wanted.env)}},
            "recovery": {
                "load_deadline_s": wanted.load_timeout_s,
                "drain_s": _DRAIN_S,
                "stop_grace_s": _STOP_GRACE_S,
            },
        }

    def _wait(self, name: str, controller: PrivateController) -> tuple[str, list[list[str]]]:
        """Until it serves: the address of its endpoint, and its devices' UUIDs by stage.

        Raises AllocationError, EngineError, ControllerEnded.
        """
        give_up_at_s = time.monotonic() + self.config.load_timeout_s + _START_MARGIN_S
        while time.monotonic() < give_up_at_s:
            status = controller.status()
            replicas = [] if status is None else status["models"].get(name, {}).get("replicas", [])
            if status is not None and replicas:
                replica = replicas[0]
                if replica["state"] == "ready":
                    stages = [[one["uuid"] for one in stage] for stage in replica["devices"]]
                    return status["gateway"]["address"], stages
                if replica["last_failure"] is not None:
                    raise EngineError(
                        f"{self.engine} {name} did not start: {replica['last_failure']['cause']}\n"
                        f"{controller.last_words()}"
                    )
                if replica["blocked"] is not None:
                    raise AllocationError(replica["blocked"], {})
            time.sleep(_POLL_S)
        raise EngineError(f"{self.engine} {name} did not start in time\n{controller.last_words()}")


def _nothing_left(
    engine: str, attempt: _Attempt, reason: str, fallbacks: Sequence[Fallback]
) -> AllocationError:
    tried = [f"{step.wanted}: {step.reason}" for step in fallbacks]
    return AllocationError(
        "\n  ".join([f"{engine} has no place to run", *tried, f"{attempt.words}: {reason}"]), {}
    )


def _numbered(
    uuids: Sequence[Sequence[str]], claim: GPUAllocation | None
) -> tuple[tuple[int, ...], ...]:
    """UUIDs by stage as the manager's device ids, or as the ranks' numbers."""
    if claim is None:
        numbers = iter(range(sum(map(len, uuids))))
        return tuple(tuple(next(numbers) for _ in stage) for stage in uuids)
    ids = dict(zip(claim.uuids, claim.device_ids, strict=True))
    return tuple(tuple(ids[uuid] for uuid in stage) for stage in uuids)
