"""What a load or a run that ended well tells of this Mac's rates. Pure; times are of the node's monotonic clock.

A run is measured only where no other engine computed beside it: rates are those of a model that has the GPU to itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from herd_mcp import pipe
from herd_mcp.node.lanes import Engine, Run, State
from herd_mcp.node.rates import Figure
from herd_mcp.state import ImageRates, decode_slowdown

LEAST_TOKENS = 64
"""Of a prompt that tells how fast prompts are computed: with fewer most of the time goes into beginning."""
LEAST_ANSWER = 8
"""Tokens of an answer that tells how fast answers are."""
LEAST_FIXED = 0.02
"""Of a step: what is before the first and after the last takes at least so much."""
LEAST_BYTES = 256
"""Of a prompt that tells how many tokens a byte makes: of a shorter one most is the template."""

Sample = tuple[Figure, float]


def had_gpu_to_itself(state: State, engine: Engine, since: float) -> bool:
    """Whether no other engine that is there has loaded or worked since then."""
    return not any(
        other.running or other.phase == "starting" or max(other.last_used_at, other.ready_at or 0.0) > since
        for _, other in state.engines()
        if other is not engine
    )


def of_image(run: Run, facts: pipe.ImageFacts, rates: ImageRates) -> Iterator[Sample]:
    """`rates` as known before. From two steps on the time between them tells; of a single one only the whole."""
    mpx = facts.width * facts.height / 1e6
    if run.first_step is None or run.last_step is None or mpx <= 0 or facts.run_s <= 0:
        return
    (first, began_at), (last, ended_at) = run.first_step, run.last_step
    steps = last - first + 1  # fewer than were asked for, where it begins with a picture
    if last > first and ended_at > began_at:
        step_s = (ended_at - began_at) / (last - first)
        yield "step_s", step_s / mpx
        yield "fixed_s", max(facts.run_s - steps * step_s, LEAST_FIXED * step_s) / mpx
    else:
        slower = facts.run_s / mpx / (steps * rates.step_s_per_mpx + rates.fixed_s_per_mpx)
        yield "step_s", slower * rates.step_s_per_mpx
        yield "fixed_s", slower * rates.fixed_s_per_mpx


def of_chat(facts: pipe.ChatFacts, batch: float) -> Iterator[Sample]:
    """`batch`: streams that the engine had on average meanwhile."""
    computed = facts.prompt_tokens - facts.cached_tokens
    if computed >= LEAST_TOKENS and facts.prefill_s > 0 and batch < 1.5:  # else others' tokens came between
        yield "prefill", computed / facts.prefill_s
    if facts.completion_tokens >= LEAST_ANSWER and facts.decode_s > 0:  # counted from the first token on
        yield "decode", (facts.completion_tokens - 1) / facts.decode_s * decode_slowdown(batch)


def of_words(run: Run, facts: pipe.ChatFacts, answer_tokens: float) -> Iterator[Sample]:
    """What does not depend on what else is computed. `answer_tokens` as known before."""
    cut = facts.finish_reason == "length"
    if facts.completion_tokens and not (cut and facts.completion_tokens < answer_tokens):
        yield "answer", float(facts.completion_tokens)
    if run.prompt_bytes >= LEAST_BYTES and facts.prompt_tokens:
        yield "per_byte", facts.prompt_tokens / run.prompt_bytes
