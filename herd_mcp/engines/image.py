"""The image engine: one mflux model, kept warm, one image at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from herd_mcp.engines import image_load, image_registry
from herd_mcp.engines.checkpoint import damaged
from herd_mcp.engines.errors import out_of_memory
from herd_mcp.engines.image_picture import cut, read_picture
from herd_mcp.engines.image_png import describe, write_png
from herd_mcp.engines.image_registry import Family
from herd_mcp.engines.image_request import Drawing, plan
from herd_mcp.engines.memory import Most, keep_to
from herd_mcp.engines.turns import Turn
from herd_mcp.jobs import ErrorCode, ErrorInfo, HerdError, ImageRequest
from herd_mcp.pipe import (
    Done,
    EngineSpec,
    ImageFacts,
    Limit,
    Message,
    Ready,
    RunCancelled,
    RunDelta,
    RunFailed,
    Start,
    Step,
)

PROOF_PX = 256
"""Size of the image whose first step proves the model; smaller where the model's default is."""
PROOF_PROMPT = '{"short_description": "a grey square"}'  # every family takes it, those that want JSON too
MAX_CACHED_PROMPTS = 16


class _Stop(BaseException):
    """Leaves mflux from within a step. Not an Exception, so that nothing on the way takes it for an error."""


@dataclass
class _Run:
    """One image on its way through the model."""

    drawing: Drawing
    emit: Callable[[RunDelta | None], None]
    """Sends progress; None only says that the engine works."""
    stopped: Callable[[], bool]
    number: int = -1
    config: Any = None
    """mflux's own account of what it draws with, once the first step begins."""


class _Watcher:
    """What mflux calls at every step. Registered once for the model's life, since it offers no way to unregister."""

    run: _Run | None = None
    model = ""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def call_before_loop(self, latents: Any, config: Any, **_: Any) -> None:
        run = self._current()
        run.config = config
        if run.stopped():
            raise _Stop
        run.emit(None)

    def call_in_loop(self, t: int, latents: Any, config: Any, **_: Any) -> None:
        import mlx.core as mx

        run = self._current()
        mx.eval(latents)  # mflux does so only after this call: without it, progress would run ahead of the work
        first = config.init_time_step  # with a picture to start from, the steps before it are skipped
        steps = config.num_inference_steps - first
        step = t + 1 - first
        if mx.isnan(latents).any().item():  # it would draw a black picture and call it done
            raise damaged(self.model, "it computes what is no number (NaN)")
        run.emit(RunDelta(run=run.number, step=step, steps=steps, message=f"step {step}/{steps}"))
        if run.stopped():
            raise _Stop
        self.hand_over()

    def call_after_loop(self, latents: Any, config: Any, **_: Any) -> None:
        run = self._current()
        steps = config.num_inference_steps - config.init_time_step
        run.emit(RunDelta(run=run.number, step=steps, steps=steps, message="decoding"))

    def hand_over(self) -> None:
        """Let another engine to the GPU if it is time. A cancel is obeyed while we wait for our next turn."""
        if not self._turn.offer(self._current().stopped):
            raise _Stop

    def _current(self) -> _Run:
        assert self.run is not None
        return self.run


@dataclass(frozen=True)
class Prepared:
    """A request that will be drawn, as `prepare` hands it to `admit`."""

    drawing: Drawing
    spool: Path
    picture: Image.Image | None = None
    """To start from, in the size of the drawing."""


class ImageEngine:
    """See `engines.engine.Engine`. One whole image is one step; progress goes out from within."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._waiting: deque[tuple[int, Prepared]] = deque()
        self._admitted: set[int] = set()
        self._cancelled: set[int] = set()
        self._watcher = _Watcher(turn)
        self._work = 0
        self._most = Most()

    # ── Loading ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def load(self, spec: EngineSpec, report: Callable[[float], None]) -> Ready:
        """Load the model and take one real step with it. Raises HerdError that says what is missing."""
        image_load.prepare_process()
        import mlx.core as mx

        from herd_mcp.engines.blocks import after_each_block, after_each_part_of_decoding

        compiled = mx.default_device().type != mx.DeviceType.cpu  # where it would need a C++ compiler
        between_blocks = not compiled if spec.between_blocks is None else spec.between_blocks
        if between_blocks or not compiled:
            mx.disable_compile()
        mx.reset_peak_memory()
        report(0.0)
        self._spec = spec
        self._family: Family = image_load.family_for(spec)
        image_load.check(spec, self._family)
        self._taken: Set[str] = image_registry.parameters_of(image_registry.drawn_by(self._family.key))
        report(0.05)
        with self._turn:
            self._model = image_load.build(spec, self._family)
            report(image_load.READ_FROM)
            try:
                weights_bytes = image_load.read_weights(self._model, report)
                self._watcher.model = spec.model
                self._model.callbacks.register(self._watcher)
                after_each_part_of_decoding(self._watcher.hand_over)
                if between_blocks:
                    after_each_block(self._model, self._watcher.hand_over)
                self._prove()
            except Exception as error:
                raise image_load.not_loaded(spec, self._family, error) from error
        report(1.0)
        mx.clear_cache()
        return Ready(weights_bytes=weights_bytes, active_bytes=mx.get_active_memory(), peak_bytes=mx.get_peak_memory())

    def _prove(self) -> None:
        px = min(PROOF_PX, self._family.default_px)
        drawing = Drawing(PROOF_PROMPT, px, px, seed=0, steps=2, guidance=self._family.default_guidance)
        proved: list[RunDelta] = []
        run = _Run(drawing, lambda delta: proved.append(delta) if delta else None, lambda: bool(proved))
        try:
            self._generate(run, None)
        except _Stop:
            return
        raise RuntimeError("mflux ended without a step")

    # ── Requests ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def prepare(self, start: Start) -> Prepared:
        """Decide every value and check the picture. Raises HerdError, which fails this run alone."""
        request = start.request
        if not isinstance(request, ImageRequest):
            raise HerdError(
                ErrorCode.KIND_NOT_SUPPORTED, f"{self._spec.model} draws images.", "Ask a chat model instead."
            )
        if not start.spool:
            raise HerdError(ErrorCode.INTERNAL, "The node named no file to write the image to.")
        spool = Path(start.spool)
        if request.image is None:
            return Prepared(plan(request, self._family, self._spec.model), spool)
        picture = read_picture(request.image)
        drawing = plan(request, self._family, self._spec.model, picture.size)
        return Prepared(drawing, spool, cut(picture, drawing.width, drawing.height))

    def admit(self, start: Start, prepared: Prepared) -> None:
        self._admitted.add(start.run)
        self._waiting.append((start.run, prepared))

    def cancel(self, run: int) -> None:
        """From any thread. Takes effect at the next step, or before the first."""
        if run in self._admitted:
            self._cancelled.add(run)

    # ── Work ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def settle(self, emit: Callable[[Message], None]) -> bool:
        for number, prepared in list(self._waiting):
            if number in self._cancelled:
                self._waiting.remove((number, prepared))
                self._forget(number)
                emit(RunCancelled(run=number))
        return bool(self._waiting)

    def step(self, emit: Callable[[Message], None]) -> None:
        """Draw the next image, whole."""
        number, prepared = self._waiting.popleft()
        try:
            outcome = self._draw(number, prepared, emit)
        finally:
            self._forget(number)
        emit(outcome)

    def limit(self, limit: Limit) -> None:
        self._drop_prompts()
        keep_to(limit)

    def rest(self) -> None:
        import mlx.core as mx

        mx.clear_cache()

    def _forget(self, number: int) -> None:
        self._admitted.discard(number)
        self._cancelled.discard(number)

    def _draw(self, number: int, prepared: Prepared, emit: Callable[[Message], None]) -> Message:
        def send(delta: RunDelta | None) -> None:
            self._work += 1
            emit(Step(work=self._work, runs=(delta,) if delta else ()))

        run = _Run(prepared.drawing, send, lambda: number in self._cancelled, number)
        started = time.monotonic()
        self._most.begin()
        picture: Path | None = None  # mflux takes pictures as files
        try:
            if run.stopped():
                return RunCancelled(run=number)
            send(self._beginning(run))
            if prepared.picture is not None:
                picture = prepared.spool.with_name(prepared.spool.name + ".in.png")
                prepared.picture.save(picture, compress_level=1)
            image = self._generate(run, picture)
            self._turn.give()  # packing and writing the file is no work for the GPU
            if run.stopped():
                return RunCancelled(run=number)
            facts = self._facts(run, image.size, started)
            write_png(image, prepared.spool, describe(self._spec.model, prepared.drawing, facts))
            return Done(run=number, facts=facts.model_copy(update={"run_s": time.monotonic() - started}))
        except _Stop:
            return RunCancelled(run=number)
        except Exception as error:
            return RunFailed(run=number, error=_failure(error, begun=run.config is not None))
        finally:
            if picture is not None:
                picture.unlink(missing_ok=True)

    def _beginning(self, run: _Run) -> RunDelta:
        """Says what comes first, and whether the model reads the whole prompt: mflux cuts a long one silently."""
        from mflux.models.common.tokenizer import LanguageTokenizer

        steps = run.drawing.steps or self._family.default_steps
        message = "encoding prompt"
        tokenizers = (getattr(self._model, "tokenizers", None) or {}).values()
        known = [tokenizer for tokenizer in tokenizers if isinstance(tokenizer, LanguageTokenizer)]
        longest = max(known, key=lambda tokenizer: int(tokenizer.max_length), default=None)
        if longest is not None:
            tokens = len(longest.tokenizer(run.drawing.prompt)["input_ids"])
            if tokens > longest.max_length:
                message = f"encoding the first {longest.max_length} of the prompt's {tokens} tokens; the rest is cut"
        return RunDelta(run=run.number, step=0, steps=steps, message=message)

    def _generate(self, run: _Run, picture: Path | None) -> Any:
        """The image, as Pillow has it. Raises _Stop when it was cancelled."""
        self._watcher.run = run
        try:
            return self._model.generate_image(**run.drawing.arguments(self._taken, picture)).image
        finally:
            self._watcher.run = None
            self._drop_prompts(MAX_CACHED_PROMPTS)  # mflux keeps the encoding of every prompt for ever

    def _drop_prompts(self, most: int = 0) -> None:
        prompts = getattr(self._model, "prompt_cache", None)
        if isinstance(prompts, dict) and len(prompts) > most:
            prompts.clear()

    def _facts(self, run: _Run, size: tuple[int, int], started: float) -> ImageFacts:
        return ImageFacts(
            width=size[0],
            height=size[1],
            steps=run.config.num_inference_steps,
            seed=run.drawing.seed,
            guidance=run.config.guidance if self._family.takes_guidance else None,
            quantize=self._model.bits,
            run_s=time.monotonic() - started,
            peak=self._most.peak(),
        )


def _disk(error: OSError) -> HerdError:
    return HerdError(
        ErrorCode.DISK,
        f"The image could not be written: {error.strerror or error}.",
        "Make room on the disk of HERD_HOME (`herd-mcp doctor`), then ask again.",
        retryable=True,
    )


def _failure(error: Exception, begun: bool) -> ErrorInfo:
    """`begun` tells whether the model had taken the arguments: a ValueError before that is about them."""
    if isinstance(error, HerdError):
        return error.info
    if isinstance(error, OSError):
        return _disk(error).info
    if out_of_memory(error):
        return ErrorInfo(
            code=ErrorCode.INSUFFICIENT_MEMORY,
            message=f"There was not enough memory for this image: {error}",
            hint="Ask for a smaller one.",
        )
    if isinstance(error, ValueError) and not begun:
        return ErrorInfo(
            code=ErrorCode.INVALID_REQUEST,
            message=f"The model refused the request: {error}",
            hint="Change it as the message says.",
        )
    return ErrorInfo(
        code=ErrorCode.INTERNAL,
        message=f"mflux failed while drawing: {type(error).__name__}: {error}",
        hint="The log of the engine says more.",
    )
