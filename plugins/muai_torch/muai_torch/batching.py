"""Iteration-level batching: sequences join and leave between forward passes.

One thread owns a `Batcher` and calls `step` while there is work. Every step submits at most one
prefill pass (new prompts, in chunks) and one decode pass (sequences that are past their prompt), so
a long prompt delays the others by one chunk, not by its whole length.

Where the network is a pipeline, as many passes as it has stages are under way at a time. A decode
pass then takes its share of the sequences, not all of them.
"""

from collections import deque
from collections.abc import Iterable

import torch

from muai_core.engine_server.protocol import Delta, FinishReason, TokenLogprob
from muai_torch.passes import BatchModel, Pass
from muai_torch.sampling import TokenScores, choose, score
from muai_torch.sequence import Limits, Sequence
from muai_torch.slots import Shape, shape_for


class Batcher:
    """Owns the KV cache and the running batch; cache row i belongs to `running[i]`."""

    def __init__(self, model: BatchModel, limits: Limits) -> None:
        self._model = model
        self._limits = limits
        self._cache = model.executor()
        self._flight: deque[list[tuple[Sequence, int]]] = deque()
        self._admitted = 0
        self._order: dict[int, int] = {}
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.tokens_generated = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting or self._flight)

    @property
    def only_decodes(self) -> bool:
        """Whether the next step is a decode pass for the same sequences as the last one."""
        return not self.waiting and all(s.pending == 1 and s.cached for s in self.running)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence; its prompt plus `max_new_tokens` must fit `max_model_len`."""
        self.waiting.append(sequence)

    @torch.inference_mode()
    def abort(self, key: int) -> None:
        """Forgets a sequence, wherever it is; unknown and finished ones are ignored."""
        for row, sequence in enumerate(self.running):
            if sequence.key == key:
                self._remove_row(row)
                return
        self.waiting = deque(s for s in self.waiting if s.key != key)

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Delta]]:
        """Submits a prefill and a decode pass; returns (key, delta) for every new token."""
        self._admit()
        begun = self._submit(self._choose_prefill(), self._limits.prefill_tokens)
        deltas = self._collect_down_to(self._cache.depth - 1)
        self._make_room()
        begun |= self._submit(self._choose_decode(), 1)
        return deltas + self._collect_down_to(self._cache.depth - 1 if begun else 0)

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._limits.max_num_seqs:
            if not self._fit([*self.running, self.waiting[0]]):
                return
            sequence = self.waiting.popleft()
            self._order[sequence.key] = self._admitted
            self._admitted += 1
            self.running.append(sequence)

    def _fit(self, sequences: list[Sequence]) -> bool:
        """Gives the cache room for these sequences, or says that the budget does not allow it."""
        rows, tokens = len(sequences), max(len(s.tokens) for s in sequences)
        shape = self._cache.shape
        if rows <= shape.rows and tokens <= shape.tokens:
            return True
        limit = Shape(self._limits.max_num_seqs, self._limits.max_model_len)
        new_shape = shape_for(rows, tokens, limit, self._limits.budget_tokens)
        if new_shape is None:
            return False
        used = Shape(len(self.running), max((s.cached for s in self.running), default=0))
        self._cache.resize(new_shape, used)
        return True

    def _make_room(self) -> None:
        """Before decoding: grows the cache, or sends the youngest sequences back to the queue.

        They keep what they generated and are prefilled again later. The oldest always fits, as
        `max_model_len` is within the budget, so the batch always gets on.
        """
        while self.running and not self._fit(self.running):
            row = max(range(len(self.running)), key=lambda r: self._order[self.running[r].key])
            sequence = self.running[row]
            self._remove_row(row)
            sequence.cached = 0
            self.waiting.appendleft(sequence)

    def _choose_prefill(self) -> list[Sequence]:
        """The longest waiting prompts, as many as fit one pass with their padding."""
        behind = [s for s in self.running if s.pending > 1 or not s.cached]
        behind.sort(key=lambda s: self._order[s.key])
        budget, width = self._limits.prefill_tokens, 0
        chosen: list[Sequence] = []
        for sequence in behind:
            width = max(width, min(sequence.pending, budget))
            if chosen and width * (len(chosen) + 1) > budget:
                break
            chosen.append(sequence)
        return chosen

    def _choose_decode(self) -> list[Sequence]:
        """Sequences that wait for nothing but their next token; a stage's share of all of them."""
        ready = [s for s in self.running if s.pending == 1 and s.cached]
        return ready[: -(-len(self.running) // self._cache.depth)]

    def _submit(self, sequences: list[Sequence], chunk: int) -> bool:
        if not sequences:
            return False
        row_of = {s.key: row for row, s in enumerate(self.running)}
        sequences = sorted(sequences, key=lambda s: row_of[s.key])
        starts = [s.cached for s in sequences]
        new = [s.tokens[s.cached : s.cached + min(s.pending, chunk)] for s in sequences]
        for sequence, tokens in zip(sequences, new, strict=True):
            sequence.cached += len(tokens)
        wanted = [row for row, s in enumerate(sequences) if not s.pending]
        self._cache.submit(Pass([row_of[s.key] for s in sequences], starts, new, wanted))
        self._flight.append([(sequences[row], self._order[sequences[row].key]) for row in wanted])
        return True

    def _collect_down_to(self, most: int) -> list[tuple[int, Delta]]:
        """Waits for the oldest passes until at most `most` are under way."""
        deltas: list[tuple[int, Delta]] = []
        while len(self._flight) > most:
            deltas += self._collect()
        return deltas

    def _collect(self) -> list[tuple[int, Delta]]:
        logits, flown = self._cache.collect(), self._flight.popleft()
        # Sequences that were aborted or sent back meanwhile are not what the pass was for any more.
        live = [i for i, (s, order) in enumerate(flown) if self._order.get(s.key) == order]
        if len(live) < len(flown):
            logits = logits[live]
        sequences = [flown[i][0] for i in live]
        chosen = choose(logits, [s.chooser for s in sequences]) if sequences else []
        deltas = []
        for row, (sequence, token) in enumerate(zip(sequences, chosen, strict=True)):
            scores = None
            if sequence.top_logprobs is not None:
                scores = score(logits[row], token, sequence.top_logprobs)
            deltas.append((sequence.key, self._extend(sequence, token, scores)))
        self._drop(key for key, delta in deltas if delta.finish_reason)
        return deltas

    def _extend(self, sequence: Sequence, token: int, scores: TokenScores | None) -> Delta:
        sequence.tokens.append(token)
        self.tokens_generated += 1
        finish: FinishReason | None = None
        if token in self._model.eos_ids and not sequence.ignore_eos:
            text, finish = sequence.text.finish(), "stop"
        else:
            text = sequence.text.push([token])
            if sequence.text.stopped:
                finish = "stop"
            elif sequence.generated == sequence.max_new_tokens:
                text, finish = text + sequence.text.finish(), "length"
        return Delta(
            text=text,
            token_ids=(token,),
            logprobs=(self._logprob(token, scores),) if scores else (),
            finish_reason=finish,
            prompt_tokens=len(sequence.prompt_ids),
        )

    def _logprob(self, token: int, scores: TokenScores) -> TokenLogprob:
        name = self._model.token_text
        top = tuple(
            TokenLogprob(name(other), other, logprob)
            for other, logprob in zip(scores.top_ids, scores.top_logprobs, strict=True)
        )
        return TokenLogprob(name(token), token, scores.logprob, top)

    def _drop(self, keys: Iterable[int]) -> None:
        for key in list(keys):
            self.abort(key)

    def _remove_row(self, row: int) -> None:
        """The last row moves into the hole, so the rows in use stay together."""
        self._order.pop(self.running[row].key)
        last = self.running.pop()
        if row < len(self.running):
            self._cache.move_row(len(self.running), row, last.cached)
            self.running[row] = last
