"""The `TextGenerator` over a `Batcher`: one thread computes, the event loop talks to clients."""

import asyncio
import copy
import logging
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, cast

from msgspec import Struct

from muai_core.engine_server.memory_line import memory_line
from muai_core.engine_server.protocol import (
    BadRequestError,
    ContextTooLongError,
    Delta,
    GenerationFailedError,
    GenerationRequest,
    OverloadedError,
    Progress,
    Status,
)
from muai_core.engine_server.stop import TextStream
from muai_torch.sequence import Chooser, Limits, Sequence
from muai_torch.threads import ThreadTuner

if TYPE_CHECKING:
    from muai_torch.batching import Batcher
    from muai_torch.passes import BatchModel

_logger = logging.getLogger(__name__)
_Outcome = Delta | Exception


class ServeOptions(Struct, frozen=True, kw_only=True):
    """What bounds serving; `max_model_len` and `kv_cache_bytes` None: from model and memory."""

    max_model_len: int | None = None
    max_num_seqs: int = 16
    max_waiting: int = 256
    kv_cache_bytes: int | None = None
    cpu_threads: int | None = None
    """Tune the number of CPU threads up to this; None: leave it as it is."""


class BatchGenerator:
    """Loads with `load` in its own thread, then runs the batch in that thread."""

    def __init__(self, load: "Callable[[], BatchModel]", options: ServeOptions) -> None:
        self._load = load
        self._options = options
        self._status = Status("load", "loading weights")
        self._model: BatchModel | None = None
        self._batcher: Batcher | None = None
        self._limits: Limits | None = None
        self._tuner = ThreadTuner(options.cpu_threads) if options.cpu_threads else None
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._keys = count()
        self._outcomes: dict[int, asyncio.Queue[_Outcome]] = {}
        self._wake = threading.Condition()
        self._arrived: list[Sequence] = []
        self._aborted: list[int] = []
        self._closing = False

    def status(self) -> Status:
        return self._status

    def progress(self) -> Progress:
        batcher = self._batcher
        if batcher is None:
            return Progress(0, 0, 0)
        waiting = len(batcher.waiting) + len(self._arrived)
        return Progress(len(batcher.running), waiting, batcher.tokens_generated)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def report(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_exception(error) if error else ended.set_result(None)

        def live() -> None:
            error: BaseException | None = None
            try:
                self._prepare()
                self._compute(loop)
            except BaseException as caught:  # noqa: BLE001 - handed over to the loop, all of it
                error = caught
            if not self._closing:  # else nobody waits any more, and the loop may be closed
                loop.call_soon_threadsafe(report, error)

        # A daemon: a process that is told to stop while it loads must not wait for the weights.
        threading.Thread(target=live, name="compute", daemon=True).start()
        try:
            await ended
        finally:
            self._status = Status("stop", "the engine has ended")
            with self._wake:
                self._closing = True
                self._wake.notify()
            self._fail_all(GenerationFailedError("the engine stopped while it worked on this"))

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        loop = asyncio.get_running_loop()
        if len(self._outcomes) >= self._options.max_num_seqs + self._options.max_waiting:
            raise OverloadedError(f"{len(self._outcomes)} requests are running or waiting")
        key = next(self._keys)
        outcomes = self._outcomes[key] = asyncio.Queue()
        finished = False
        try:
            sequence = await loop.run_in_executor(self._encoder, self._sequence, key, request)
            with self._wake:
                self._arrived.append(sequence)
                self._wake.notify()
            prompt_ids = tuple(sequence.prompt_ids)
            while not finished:
                outcome = await outcomes.get()
                finished = isinstance(outcome, Exception) or outcome.finish_reason is not None
                if isinstance(outcome, Exception):
                    raise outcome
                yield _with_prompt(outcome, prompt_ids)
        finally:
            del self._outcomes[key]
            if not finished:
                with self._wake:
                    self._aborted.append(key)
                    self._wake.notify()

    def _prepare(self) -> None:
        from muai_torch.batching import Batcher

        model = self._load()
        bytes_per_token = model.probe()
        self._limits = limits_for(model, bytes_per_token, self._options)
        self._encoding_tokenizer = copy.deepcopy(model.tokenizer)  # not safe to share by threads
        self._batcher = Batcher(model, self._limits)
        self._model = model
        _logger.info(
            "serving in %s on %s: %d sequences, %d tokens each, %d tokens of KV cache (%d MiB)",
            str(model.dtype).removeprefix("torch."),
            model.device,
            self._limits.max_num_seqs,
            self._limits.max_model_len,
            self._limits.budget_tokens,
            self._limits.budget_tokens * bytes_per_token // 2**20,
        )
        _logger.info("%s", memory_line(model.held_bytes()))
        self._status = Status("ready", ready=True)

    def _compute(self, loop: asyncio.AbstractEventLoop) -> None:
        batcher = self._batcher
        assert batcher is not None
        while True:
            with self._wake:
                while not (batcher.has_work or self._arrived or self._closing):
                    self._aborted.clear()
                    self._wake.wait()
                if self._closing:
                    return
                arrived, self._arrived = self._arrived, []
                aborted, self._aborted = self._aborted, []
            for sequence in arrived:
                batcher.add(sequence)
            for key in aborted:
                batcher.abort(key)
            deltas = self._step(batcher)
            if deltas:
                loop.call_soon_threadsafe(self._deliver, deltas)

    def _step(self, batcher: "Batcher") -> list[tuple[int, Delta]]:
        if self._tuner is None or not batcher.only_decodes:
            return batcher.step()
        import torch

        if torch.get_num_threads() != self._tuner.threads:
            torch.set_num_threads(self._tuner.threads)
        begun_s = time.perf_counter()
        deltas = batcher.step()
        self._tuner.observe(time.perf_counter() - begun_s)
        return deltas

    def _deliver(self, deltas: list[tuple[int, Delta]]) -> None:
        for key, delta in deltas:
            outcomes = self._outcomes.get(key)
            if outcomes is not None:
                outcomes.put_nowait(delta)

    def _fail_all(self, error: Exception) -> None:
        for outcomes in self._outcomes.values():
            outcomes.put_nowait(error)

    def _sequence(self, key: int, request: GenerationRequest) -> Sequence:
        """Runs in the encoder's thread. Raises `BadRequestError`."""
        model, limits = self._model, self._limits
        assert model is not None
        assert limits is not None
        prompt_ids = self._encode(request)
        room = limits.max_model_len - len(prompt_ids)
        wanted = request.max_tokens
        if room < 1 or (wanted is not None and wanted > room):
            asked = f" and {wanted} were asked for" if wanted is not None else ""
            raise ContextTooLongError(
                f"the prompt has {len(prompt_ids)} tokens{asked}; "
                f"prompt and answer together may have {limits.max_model_len}",
                param="messages" if request.messages is not None else "prompt",
            )
        return Sequence(
            key,
            prompt_ids,
            max_new_tokens=room if wanted is None else wanted,
            chooser=Chooser(request.temperature, request.top_p, random.Random(request.seed)),
            text=TextStream(model.text_of, request.stop),
            ignore_eos=request.ignore_eos,
            top_logprobs=request.top_logprobs if request.logprobs else None,
        )

    def _encode(self, request: GenerationRequest) -> list[int]:
        tokenizer, model = self._encoding_tokenizer, self._model
        assert model is not None
        if request.messages is not None:
            ids = self._encode_chat(request)
        elif request.prompt_token_ids is not None:
            ids = list(request.prompt_token_ids)
            if any(not 0 <= token < model.vocabulary for token in ids):
                raise BadRequestError(
                    f"token ids must be from 0 to {model.vocabulary - 1}", param="prompt"
                )
        else:
            ids = list(tokenizer(request.prompt)["input_ids"])
        if not ids and tokenizer.bos_token_id is not None:
            ids = [tokenizer.bos_token_id]
        if not ids:
            raise BadRequestError("the prompt has no tokens", param="prompt")
        return ids

    def _encode_chat(self, request: GenerationRequest) -> list[int]:
        messages = [{"role": m.role, "content": m.content} for m in request.messages or ()]
        if self._encoding_tokenizer.chat_template is None:
            raise BadRequestError(
                "this model has no chat template; use /v1/completions", param="messages"
            )
        from jinja2 import TemplateError

        try:
            encoded = self._encoding_tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=request.add_generation_prompt,
                continue_final_message=request.continue_final_message,
                return_dict=True,
            )
        except (TemplateError, ValueError) as error:
            raise BadRequestError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from None
        return list(cast("dict[str, list[int]]", encoded)["input_ids"])


def _with_prompt(delta: Delta, prompt_ids: tuple[int, ...]) -> Delta:
    return Delta(
        text=delta.text,
        token_ids=delta.token_ids,
        logprobs=delta.logprobs,
        finish_reason=delta.finish_reason,
        prompt_tokens=delta.prompt_tokens,
        prompt_token_ids=prompt_ids,
    )


def limits_for(model: "BatchModel", bytes_per_token: int, options: ServeOptions) -> Limits:
    """What the model's context, the options and the free memory allow, whichever is least."""
    budget_bytes = options.kv_cache_bytes or _quarter_of_free_memory(model)
    budget_tokens = max(budget_bytes // bytes_per_token, 1)
    lengths = [model.context_tokens, options.max_model_len, budget_tokens]
    return Limits(
        max_num_seqs=options.max_num_seqs,
        max_model_len=min(length for length in lengths if length is not None),
        budget_tokens=budget_tokens,
    )


def _quarter_of_free_memory(model: "BatchModel") -> int:
    if model.device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(model.device)[0]) // 4
    import psutil

    return int(psutil.virtual_memory().available) // 4
