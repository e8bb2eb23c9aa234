"""The chat engine: our loop over mlx-lm's `BatchGenerator`.

Requests join the batch at any step, every step is one message with what it brought to all runs, and a request is
checked before it can reach the batch, because a bad one there would end all the others.
"""

from __future__ import annotations

import itertools
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx_lm.generate  # noqa: F401 (the package exports a function under the module's name: see sys.modules below)

from herd_mcp.engines.cache_shape import shape_of
from herd_mcp.engines.chat_model import ChatModel, load_chat_model
from herd_mcp.engines.chat_request import Prepared, prepare
from herd_mcp.engines.chat_run import Run
from herd_mcp.engines.chat_speech import FinishReason, Piece, Speech, text_machine
from herd_mcp.engines.checkpoint import damaged
from herd_mcp.engines.engine import Emit, Report
from herd_mcp.engines.memory import Most, keep_to
from herd_mcp.engines.prompt_cache import PromptCache, forgets
from herd_mcp.engines.sampling import choose, model_defaults, processors_of, sampler_of
from herd_mcp.engines.text import render
from herd_mcp.engines.turns import Turn
from herd_mcp.jobs import ChatRequest, ErrorCode, ErrorInfo, HerdError, Message, Sampling
from herd_mcp.pipe import (
    PREFILL_BATCH,
    PREFILL_CHUNK_TOKENS,
    Done,
    EngineSpec,
    Limit,
    Ready,
    RunCancelled,
    RunDelta,
    RunFailed,
    Start,
    Step,
)

_generate: Any = sys.modules["mlx_lm.generate"]
# BatchGenerator's constructor raises the GPU's wired memory limit, which is tied to kernel panics on Macs short of
# memory. Its only way in is this function of its module; None is its own word for "the device has no such limit".
_generate.maybe_set_recommended_wired_limit = lambda: None

PREFILL_STEP_S = 0.2
"""How long a step's prompts may take, as far as it is known. Where a device gains nothing by computing several at once,
the first of them answers sooner when they go one after the other, and the last no later."""


_Ending = tuple[Run, FinishReason | ErrorInfo]
_ToKeep = tuple[Run, Any]
"""A run that ends in this step, and what the batch said last of it: its cache is still to be kept."""


class ChatEngine:
    """One chat model and its batch. See `engine.Engine` for who may call what."""

    _spec_name: str
    _chat: ChatModel
    _batch: Any
    _eos: Any
    _cache: PromptCache
    _defaults: Sampling
    _vocab_size: int
    _on_said: Callable[[list[Any]], None]

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._runs: dict[int, Run] = {}
        self._by_uid: dict[int, Run] = {}
        self._cancels: deque[int] = deque()
        self._work = 0
        self._cancelled_uids: list[int] = []
        """Rows of the batch whose runs were cancelled: removed with the next step, since that computes."""
        self._prefill_tokens_per_s = 0.0
        self._prefilling_since_s = 0.0
        self._most = Most()

    # ── loading ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def load(self, spec: EngineSpec, report: Report) -> Ready:
        """Load and say one token. Raises HerdError(model_incomplete | kind_not_supported)."""
        mx.random.seed(secrets.randbits(63))
        self._spec_name = spec.model
        self._chat = load_chat_model(spec, report, self._turn)
        self._eos = _generate.make_stop_sequences(self._chat.tokenizer)
        self._machines = {tools: text_machine(self._chat.tokenizer, tools=tools) for tools in (False, True)}
        self._cache = PromptCache(spec.prompt_cache_bytes)
        self._forgets = forgets(self._chat.model)
        self._most_prompts = min(PREFILL_BATCH, spec.max_batch)
        self._batch = _generate.BatchGenerator(
            self._chat.model,
            completion_batch_size=spec.max_batch,
            prefill_batch_size=self._most_prompts,
            prefill_step_size=PREFILL_CHUNK_TOKENS,
            stream=mx.default_stream(mx.default_device()),
        )
        with self._turn:
            self._vocab_size = self._say_one_token()
        self._take_tokens_early()
        self._defaults = model_defaults(self._chat.folder, self._vocab_size)
        mx.synchronize()  # the batch goes on to a second token, which nobody wants
        return Ready(
            weights_bytes=self._chat.weights_bytes,
            active_bytes=mx.get_active_memory(),
            peak_bytes=mx.get_peak_memory(),
            context_tokens=self._chat.context_tokens,
            cache=shape_of(self._chat.model, PREFILL_CHUNK_TOKENS),
        )

    def _say_one_token(self) -> int:
        """The proof that it works. Returns how many tokens the model knows, which may exceed the tokenizer's."""
        try:
            ids = render(self._chat.tokenizer, ChatRequest(messages=(Message(role="user", content="Hi"),))).ids
        except HerdError:
            ids = list(self._chat.tokenizer.eos_token_ids)[:1]
        self._batch.insert([ids or [0]], max_tokens=[1])
        while True:
            prefilled, said = self._batch.next()
            if said:
                if mx.isnan(said[0].logprobs).any().item():
                    raise damaged(self._spec_name, "it computes what is no number (NaN)")
                return int(said[0].logprobs.shape[-1])
            if not prefilled:
                raise RuntimeError("the model said nothing")

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def prepare(self, start: Start) -> Prepared:
        """Raises HerdError as `chat_request.prepare`, and kind_not_supported."""
        request = start.request
        if not isinstance(request, ChatRequest):
            raise HerdError(ErrorCode.KIND_NOT_SUPPORTED, "This engine holds a chat model; it makes no images.")
        choice = choose(request.sampling, self._defaults, self._vocab_size)
        return prepare(request, choice, self._chat, start.tokens, self._forgets and self._cache.keeps)

    def admit(self, start: Start, prepared: Prepared) -> None:
        """Join the batch; prefill begins with the next step.

        A seeded request does not use the prompt cache: a cached prefix is computed in other pieces, which changes the
        last bits of the numbers and so, now and then, a token.
        """
        if not self._runs:
            self._most.begin()
        ids = prepared.prompt.ids
        cache, cached = (None, 0) if prepared.choice.seed is not None else self._cache.fetch(ids)
        speech = Speech(
            self._chat.tokenizer, self._machines[bool(prepared.prompt.tools)], prepared.prompt, prepared.stops
        )
        ends = [end for end in prepared.shared_ends if end > cached]
        (uid,) = self._batch.insert_segments(
            [[ids[start:end] for start, end in itertools.pairwise([cached, *ends, len(ids)])]],
            max_tokens=[prepared.max_tokens],
            caches=[cache],
            all_tokens=[ids[:cached]],
            samplers=[sampler_of(prepared.choice)],
            logits_processors=[processors_of(prepared.choice)],
            stop_sequences=[self._eos],
        )
        run = Run(start.run, uid, speech, prompt_tokens=len(ids), cached_tokens=cached, ends_ahead=len(ends))
        self._by_uid[uid] = run
        self._runs[start.run] = run

    def cancel(self, run: int) -> None:
        if run in self._runs:
            self._cancels.append(run)

    # ── stepping ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def settle(self, emit: Emit) -> bool:
        while self._cancels:
            run = self._runs.get(self._cancels.popleft())
            if run is not None:
                self._forget(run)
                self._cancelled_uids.append(run.uid)
                emit(RunCancelled(run=run.number))
        if not self._runs:
            self._remove_cancelled()  # the last to leave: nothing has to be computed for those who stay
        return bool(self._runs)

    def step(self, emit: Emit) -> None:
        """One token for every stream, told at once, then at most one chunk of prompts."""
        self._remove_cancelled()
        began_s = self._prefilling_since_s = time.perf_counter()
        endings: list[_Ending] = []
        to_keep: list[_ToKeep] = []
        self._on_said = lambda said: self._tell_tokens(said, emit, endings, to_keep)
        self._batch.prefill_batch_size = self._prefill_seats()
        prefilled, _ = self._batch.next()
        self._time_prefill(prefilled)
        for response in prefilled:
            run = self._by_uid.get(response.uid)
            if run is None:
                continue
            run.prefill_began_s = run.prefill_began_s or began_s
            # Counted by what the batch says of its progress: one that goes round without any must not look alive.
            self._work += max(0, response.progress[0] - run.prefilled_tokens)
            run.prefilled_tokens = max(run.prefilled_tokens, response.progress[0])
            if response.end_of_segment and run.ends_ahead:
                self._keep_shared(run)
        if prefilled:  # else nobody joined
            self._most.saw(rows=len(self._batch._prompt_batch) + len(self._batch._generation_batch))
            emit(Step(work=self._work))
        for run, response in to_keep:  # waits for the step that is being computed
            self._keep_cache(run, response)
        to_keep.clear()  # else the rows that ended are held until the next step
        if not self._runs:  # the turn at the GPU ends with the last run
            self._tell_endings(endings, emit)

    def _prefill_seats(self) -> int:
        """How many prompts the coming step computes.

        None joins while others take their last token: the batch would pad that one token to the length of what joins,
        and copy the keys and values of both to part them again. Else one may always join, so that a short prompt waits
        for no long one, and as many more as `PREFILL_STEP_S` has room for.
        """
        inside = self._batch._currently_processing
        if any(len(segments) == 1 and len(segments[0]) == 1 for segments, *_ in inside):
            return len(inside)
        seats = len(inside)
        widest = max((len(segments[0]) for segments, *_ in inside), default=0)
        room = self._prefill_tokens_per_s * PREFILL_STEP_S
        for _, segments, *_ in itertools.islice(self._batch._unprocessed_sequences, self._most_prompts - seats):
            widest = min(PREFILL_CHUNK_TOKENS, max(widest, len(segments[0])))
            if seats > len(inside) and (seats + 1) * widest > room:
                break
            seats += 1
        return max(1, seats)

    def _time_prefill(self, prefilled: list[Any]) -> None:
        """Learn how quick prompts are here, from the steps that computed some and not only last tokens."""
        seconds = time.perf_counter() - self._prefilling_since_s
        tokens = []
        for response in prefilled:
            run = self._by_uid.get(response.uid)
            if run is not None and not response.end_of_prompt:
                tokens.append(response.progress[0] - run.prefilled_tokens)
        if tokens and seconds > 0:
            rate = len(tokens) * max(tokens) / seconds
            known = self._prefill_tokens_per_s
            self._prefill_tokens_per_s = (known + rate) / 2 if known else rate

    def _take_tokens_early(self) -> None:
        """`BatchGenerator.next` decodes, then prefills, then returns: the tokens would wait for a prompt that is none
        of theirs. They are taken where they come from; its `_generation_batch` is one object for its whole life."""
        generation = self._batch._generation_batch
        decode = generation.next

        def next_() -> Any:
            said = decode()
            self._on_said(said)
            return said

        generation.next = next_

    def _tell_tokens(self, said: list[Any], emit: Emit, endings: list[_Ending], to_keep: list[_ToKeep]) -> None:
        now_s = self._prefilling_since_s = time.perf_counter()
        self._work += len(said)
        deltas: list[RunDelta] = []
        for response in said:
            run = self._by_uid[response.uid]
            run.first_token_s = run.first_token_s or now_s
            run.last_token_s = now_s
            run.completion_tokens += 1
            if self._hear(run, response, deltas, endings):
                to_keep.append((run, response))
        emit(Step(work=self._work, runs=tuple(deltas)))
        if self._runs:
            self._tell_endings(endings, emit)

    def _hear(self, run: Run, response: Any, deltas: list[RunDelta], endings: list[_Ending]) -> bool:
        """Turn one token of one run into its delta, and end the run where that token ends it. Whether it did."""
        try:
            # The token that ends an answer is a marker and not part of it.
            piece = Piece() if response.finish_reason == "stop" else run.speech.token(response.token)
            ended = response.finish_reason is not None or run.speech.stopped
            if ended:
                rest, reason = run.speech.end("length" if response.finish_reason == "length" else "stop")
                piece.add(rest)
            if piece:
                calls = tuple(piece.tool_calls)
                deltas.append(RunDelta(run=run.number, text=piece.text, reasoning=piece.reasoning, tool_calls=calls))
            if not ended:
                return False
            endings.append((run, reason))
        except Exception as error:
            message = f"The answer could not be put into words: {type(error).__name__}: {error}"
            endings.append((run, ErrorInfo(code=ErrorCode.INTERNAL, message=message)))
        self._forget(run)
        return True

    def _keep_shared(self, run: Run) -> None:
        run.ends_ahead -= 1
        cache, ids = self._batch.extract_cache([run.uid])[run.uid]
        self._cache.keep(ids, cache, "system" if run.ends_ahead else "user")

    def _keep_cache(self, run: Run, response: Any) -> None:
        if response.finish_reason is None:
            removed = self._batch.remove([run.uid], return_prompt_caches=True)
            cache, ids = removed[run.uid]
        else:
            cache, ids = response.prompt_cache, response.all_tokens
        self._cache.keep(ids, cache)

    def _remove_cancelled(self) -> None:
        if self._cancelled_uids:
            self._batch.remove(self._cancelled_uids)
            self._cancelled_uids = []

    def _forget(self, run: Run) -> None:
        self._most.saw(tokens=run.held_tokens)
        del self._runs[run.number], self._by_uid[run.uid]

    def _tell_endings(self, endings: list[_Ending], emit: Emit) -> None:
        if not endings:
            return
        for run in self._runs.values():
            self._most.saw(tokens=run.held_tokens)
        peak = self._most.peak(self._cache.nbytes)
        for run, how in endings:
            if isinstance(how, ErrorInfo):
                emit(RunFailed(run=run.number, error=how))
            else:
                emit(Done(run=run.number, facts=run.facts(how, peak)))

    # ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def limit(self, limit: Limit) -> None:
        self._cache.limit(limit.prompt_cache_bytes)
        keep_to(limit)

    def rest(self) -> None:
        mx.clear_cache()
