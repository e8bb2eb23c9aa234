"""What an engine's messages mean for a run: events while it works, a result at its end."""

from __future__ import annotations

from collections.abc import Iterator

from herd_mcp.jobs import (
    ChatResult,
    Completed,
    Delta,
    ImageResult,
    JobEvent,
    Progress,
    Timings,
    Usage,
    image_id_of,
)
from herd_mcp.node.caps import limited_by
from herd_mcp.node.lanes import Run
from herd_mcp.pipe import ChatFacts, ImageFacts, RunDelta


def deltas(run: Run, delta: RunDelta, now: float) -> Iterator[JobEvent]:
    """The events of one step for one run; keeps what the result will need."""
    if delta.step is not None or delta.message:
        run.step = delta.step if delta.step is not None else run.step
        run.steps = delta.steps if delta.steps is not None else run.steps
        if run.step and (run.last_step is None or run.step > run.last_step[0]):
            run.last_step = run.step, now
            run.first_step = run.first_step or run.last_step
        yield Progress(step=run.step, steps=run.steps, message=delta.message)
    if not (delta.reasoning or delta.text or delta.tool_calls):
        return
    if run.first_token_at is None:
        run.first_token_at = now
    if delta.reasoning:
        run.reasoning.append(delta.reasoning)
        yield Delta(reasoning=delta.reasoning)
    if delta.text:
        run.text.append(delta.text)
        yield Delta(text=delta.text)
    for call in delta.tool_calls:
        run.tool_calls.append(call)
        yield Delta(tool_call=call)


def completed(run: Run, facts: ChatFacts | ImageFacts, node: str, model: str, now: float) -> Completed:
    """The result of a run that ended well at `now`."""
    started_at = run.started_at if run.started_at is not None else now
    timings = Timings(
        queue_s=round(max(0.0, started_at - run.submitted_at - run.load_s), 4),
        load_s=round(run.load_s, 4),
        run_s=round(now - started_at, 4),
        total_s=round(now - run.submitted_at, 4),
    )
    if isinstance(facts, ImageFacts):
        return Completed(result=_image(run, facts, node, model, timings))
    return Completed(result=_chat(run, facts, node, model, timings))


def _rate(count: float, seconds: float) -> float | None:
    return round(count / seconds, 3) if count > 0 and seconds > 0 else None


def _image(run: Run, facts: ImageFacts, node: str, model: str, timings: Timings) -> ImageResult:
    return ImageResult(
        image_id=image_id_of(run.job_id),
        model=model,
        node=node,
        width=facts.width,
        height=facts.height,
        steps=facts.steps,
        seed=facts.seed,
        guidance=facts.guidance,
        quantize=facts.quantize,
        limited_by=limited_by(run, facts),
        path=run.spool,
        timings=timings.model_copy(update={"steps_per_s": _rate(facts.steps, facts.run_s)}),
    )


def _chat(run: Run, facts: ChatFacts, node: str, model: str, timings: Timings) -> ChatResult:
    ttft_s = None if run.first_token_at is None else round(run.first_token_at - run.submitted_at, 4)
    return ChatResult(
        text="".join(run.text),
        reasoning="".join(run.reasoning),
        tool_calls=tuple(run.tool_calls),
        finish_reason=facts.finish_reason,
        limited_by=limited_by(run, facts),
        usage=Usage(
            prompt_tokens=facts.prompt_tokens,
            cached_tokens=facts.cached_tokens,
            completion_tokens=facts.completion_tokens,
        ),
        model=model,
        node=node,
        timings=timings.model_copy(
            update={
                "ttft_s": ttft_s,
                "prefill_tokens_per_s": _rate(facts.prompt_tokens - facts.cached_tokens, facts.prefill_s),
                "decode_tokens_per_s": _rate(facts.completion_tokens, facts.decode_s),
            }
        ),
    )
