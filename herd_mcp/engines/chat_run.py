"""One answer under way: how much of it there is, and when it came."""

from __future__ import annotations

from dataclasses import dataclass

from herd_mcp.engines.chat_speech import FinishReason, Speech
from herd_mcp.pipe import ChatFacts, Peak


@dataclass(slots=True)
class Run:
    number: int
    uid: int
    """Its number in the batch."""
    speech: Speech
    prompt_tokens: int
    cached_tokens: int
    prefilled_tokens: int = 0
    ends_ahead: int = 0
    """How many of the request's `shared_ends` the prompt has not reached yet."""
    completion_tokens: int = 0
    prefill_began_s: float = 0.0
    first_token_s: float = 0.0
    last_token_s: float = 0.0

    @property
    def held_tokens(self) -> int:
        """What its row of the caches is filled with."""
        return self.cached_tokens + self.prefilled_tokens + self.completion_tokens

    def facts(self, finish_reason: FinishReason, peak: Peak) -> ChatFacts:
        return ChatFacts(
            finish_reason=finish_reason,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            prefill_s=max(0.0, self.first_token_s - self.prefill_began_s),
            decode_s=max(0.0, self.last_token_s - self.first_token_s),
            peak=peak,
        )
