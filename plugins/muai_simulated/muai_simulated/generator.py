"""The text generator of the simulated engine: words at a set speed."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from muai_core.engine_server.protocol import (
    BadRequestError,
    ChatMessage,
    ContextTooLongError,
    Delta,
    FinishReason,
    GenerationRequest,
    Progress,
    Status,
    TokenLogprob,
)
from muai_core.engine_server.stop import StopBuffer
from muai_simulated import vocabulary
from muai_simulated.config import EngineOptions
from muai_simulated.faults import Faults

_log = logging.getLogger(__name__)
_LOAD_STEPS = 20


class SimulatedGenerator:
    """A `TextGenerator` without a model."""

    def __init__(
        self,
        options: EngineOptions,
        faults: Faults,
        *,
        model: str,
        max_model_len: int,
        note_running: Callable[[int], None],
        last_words_of_loading: str | None = None,
    ) -> None:
        """`note_running` is told the number of running requests whenever it changes."""
        self._options = options
        self._faults = faults
        self._model = model
        self._max_model_len = max_model_len
        self._note_running = note_running
        self._last_words_of_loading = last_words_of_loading
        self._slots = asyncio.Semaphore(options.max_num_seqs)
        self._status = Status("load", "loading weights 0 %")
        self._running = 0
        self._waiting = 0
        self._tokens_generated = 0

    async def run(self) -> None:
        """Load for the set time, then stay. Raises InjectedStartError."""
        self._faults.on_start()
        load_s = self._options.load_s + self._faults.slow_start_s
        for step in range(_LOAD_STEPS if load_s else 0):
            percent = 100 * step // _LOAD_STEPS
            self._status = Status("load", f"loading weights {percent} %")
            await asyncio.sleep(load_s / _LOAD_STEPS)
        self._faults.on_loaded()
        if self._last_words_of_loading is not None:
            _log.info("%s", self._last_words_of_loading)
        self._status = Status("ready", ready=True)
        _log.info("ready")
        await asyncio.Event().wait()

    def status(self) -> Status:
        return self._status

    def progress(self) -> Progress:
        return Progress(self._running, self._waiting, self._tokens_generated)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        self._faults.on_request()
        text, prompt_ids = _prompt(request)
        limit, at_limit = self._answer_limit(request, len(prompt_ids))
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            self._change_running(+1)
            answer = self._answer(request, text, prompt_ids, limit, at_limit)
            async with aclosing(answer) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self._change_running(-1)
            self._slots.release()

    async def _answer(
        self,
        request: GenerationRequest,
        text: bytes,
        prompt_ids: tuple[int, ...],
        limit: int,
        at_limit: FinishReason,
    ) -> AsyncGenerator[Delta, None]:
        words = vocabulary.Continuation(self._model, request.seed, text)
        stop = StopBuffer(request.stop)
        first_s = time.monotonic() + self._options.first_token_s * self._faults.slow_factor
        interval_s = self._faults.slow_factor / self._options.tokens_per_second
        for number in range(limit):
            # Against the start, not the last token: no delay adds up.
            await asyncio.sleep(max(0.0, first_s + number * interval_s - time.monotonic()))
            to_send = await self._faults.on_token(number)
            token, word = words.next()
            self._tokens_generated += 1
            shown = stop.push(word)
            finish: FinishReason | None = None
            if stop.stopped:
                finish = "stop"
            elif number + 1 == limit:
                finish = at_limit
                shown += stop.finish()
            if to_send or finish:
                yield Delta(
                    text=shown if to_send else "",
                    token_ids=(token,),
                    logprobs=_logprobs(request, token, word),
                    finish_reason=finish,
                    prompt_tokens=len(prompt_ids),
                    prompt_token_ids=prompt_ids,
                )
            if finish:
                return

    def _answer_limit(
        self, request: GenerationRequest, prompt_tokens: int
    ) -> tuple[int, FinishReason]:
        """Most tokens of the answer, and the finish reason when it gets there."""
        room = self._max_model_len - prompt_tokens
        wanted = request.max_tokens or 1
        if wanted > room:
            raise ContextTooLongError(
                f"{prompt_tokens} prompt tokens and {wanted} more do not fit into the context of "
                f"{self._max_model_len} tokens"
            )
        if request.max_tokens is not None:
            return request.max_tokens, "length"
        if request.ignore_eos:
            return room, "length"
        natural = max(1, self._options.answer_tokens - _already_answered(request))
        return (room, "length") if natural > room else (natural, "stop")

    def _change_running(self, by: int) -> None:
        self._running += by
        self._note_running(self._running)


def _prompt(request: GenerationRequest) -> tuple[bytes, tuple[int, ...]]:
    """The prompt's bytes and token ids. Raises BadRequestError on unknown ids."""
    if request.prompt_token_ids is not None:
        for token in request.prompt_token_ids:
            if not 0 <= token < vocabulary.VOCABULARY_SIZE:
                known = f"0 to {vocabulary.VOCABULARY_SIZE - 1}"
                raise BadRequestError(
                    f"token id {token} does not exist; known are {known}", param="prompt"
                )
        return vocabulary.decode(request.prompt_token_ids), request.prompt_token_ids
    text = request.prompt
    if text is None:
        text = _render(request.messages or (), request)
    return text.encode(), tuple(vocabulary.encode(text))


def _render(messages: tuple[ChatMessage, ...], request: GenerationRequest) -> str:
    text = "".join(f"<|{message.role}|>\n{message.content}\n" for message in messages)
    if request.continue_final_message:
        return text[:-1]
    return f"{text}<|assistant|>\n" if request.add_generation_prompt else text


def _already_answered(request: GenerationRequest) -> int:
    """Tokens of the message that is continued: a resumed answer ends where it would have ended."""
    if not request.continue_final_message or not request.messages:
        return 0
    return len(vocabulary.encode(request.messages[-1].content))


def _logprobs(request: GenerationRequest, token: int, word: str) -> tuple[TokenLogprob, ...]:
    """The only possible word is certain: its log probability is 0."""
    if not request.logprobs:
        return ()
    certain = TokenLogprob(word, token, 0.0)
    return (TokenLogprob(word, token, 0.0, (certain,) if request.top_logprobs else ()),)
