"""From a request to what is asked of the batch: its tokens, how the next one is chosen, where the answer ends. What
would break a limit is refused here, by name."""

from __future__ import annotations

from dataclasses import dataclass

from herd_mcp.engines.chat_model import ChatModel
from herd_mcp.engines.sampling import Choice
from herd_mcp.engines.text import Prompt, least_tokens, render, shared_ends
from herd_mcp.jobs import ChatRequest, ErrorCode, HerdError
from herd_mcp.pipe import DEFAULT_MAX_TOKENS


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that will not hurt the batch."""

    prompt: Prompt
    choice: Choice
    max_tokens: int
    stops: tuple[str, ...]
    shared_ends: tuple[int, ...] = ()
    """Where the cache is kept while the prompt is computed: models whose cache cannot be cut back afterwards."""


def prepare(request: ChatRequest, choice: Choice, chat: ChatModel, granted_tokens: int, keep_ends: bool) -> Prepared:
    """Render and check. `granted_tokens`: what memory was reserved for, prompt and answer together; 0 is without bound.
    Raises HerdError: invalid_request over the model's context, insufficient_memory over the grant."""
    limit = chat.context_tokens
    if limit is not None:
        if request.max_tokens is not None and request.max_tokens > limit:
            raise HerdError(
                ErrorCode.INVALID_REQUEST,
                f"max_tokens is {request.max_tokens}; the context of this model is {limit} tokens.",
                f"Ask for fewer, or leave it out for up to {DEFAULT_MAX_TOKENS}.",
            )
        _check_length(least_tokens(request, chat.longest_token_chars), limit, "at least ")
    prompt = render(chat.tokenizer, request)
    max_tokens = request.max_tokens or DEFAULT_MAX_TOKENS
    if limit is not None:
        _check_length(len(prompt.ids), limit)
        max_tokens = min(max_tokens, limit - len(prompt.ids))
    if granted_tokens:
        least = max_tokens if request.max_tokens is not None else 1  # an answer of no stated length may be cut
        _check_granted(len(prompt.ids), least, granted_tokens)
        max_tokens = min(max_tokens, granted_tokens - len(prompt.ids))
    ends = shared_ends(chat.tokenizer, request, prompt) if keep_ends else ()
    return Prepared(prompt, choice, max_tokens, request.stop, ends)


def _check_length(tokens: int, limit: int, about: str = "") -> None:
    if tokens >= limit:
        raise HerdError(
            ErrorCode.INVALID_REQUEST,
            f"The conversation has {about}{tokens} tokens; the context of this model is {limit} tokens, "
            "and an answer needs some of them.",
            "Shorten it, or take a model with a longer context.",
            details={"prompt_tokens": tokens, "context_tokens": limit},
        )


def _check_granted(prompt_tokens: int, answer_tokens: int, granted_tokens: int) -> None:
    if prompt_tokens + answer_tokens > granted_tokens:
        raise HerdError(
            ErrorCode.INSUFFICIENT_MEMORY,
            f"The conversation has {prompt_tokens} tokens and its answer up to {answer_tokens}; "
            f"memory was reserved for {granted_tokens} tokens together.",
            "Ask again, shorten it, or ask for a shorter answer.",
            details={"prompt_tokens": prompt_tokens},
        )
