"""The confirmation gate: what downloads, deletes or spends needs the person's yes, and no tool call goes around it.

Where the client can ask (elicitation), it asks. Where it cannot, two steps with a token: the first answer says what
would happen and that a person must agree, the second call brings the token back. `confirm = "terminal"` takes neither.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Any

from mcp.server.mcpserver import Context
from pydantic import BaseModel, Field

from herd_mcp.clock import steady_s
from herd_mcp.jobs import ErrorCode, HerdError

TOKEN_LIFE_S = 300.0


class Confirmation(BaseModel):
    """The form that a client shows."""

    confirm: bool = Field(title="Yes, do it", description="Tick to agree.")


class Agreed(BaseModel):
    """A token was brought back: the agent says that the person agreed."""


class TokenNeeded(BaseModel):
    """The client cannot ask; this is the first of two steps."""

    token: str
    expires_in_s: float


class Tokens:
    """Single-use tokens, each for one action on one subject, known to this process only. `clock`: seconds that no
    correction of the Mac's time moves."""

    def __init__(self, clock: Callable[[], float] = steady_s) -> None:
        self._key = secrets.token_bytes(32)
        self._clock = clock
        self._used: dict[str, float] = {}
        """Nonces of tokens that came back, with the time at which they expire anyway."""

    def issue(self, *subject: str) -> str:
        """A token for `subject` (the action, the model, the node), good for TOKEN_LIFE_S."""
        expires = f"{int(self._clock() + TOKEN_LIFE_S):x}"
        nonce = secrets.token_hex(8)
        return f"{expires}.{nonce}.{self._mac(expires, nonce, *subject)}"

    def spend(self, token: str, *subject: str) -> None:
        """Use a token up. Raises HerdError(not_confirmed) when it is not ours, is for something else, old or used."""
        expires, _, rest = token.partition(".")
        nonce, _, mac = rest.partition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(expires, nonce, *subject).encode()):
            raise _refused("The token is not one that was given for this model and node.")
        now = self._clock()
        self._used = {spent: end for spent, end in self._used.items() if end > now}
        if int(expires, 16) <= now:
            raise _refused("The token has expired; it was good for five minutes.")
        if nonce in self._used:
            raise _refused("The token has been used already; each is good for one call.")
        self._used[nonce] = int(expires, 16)

    def _mac(self, *parts: str) -> str:
        message = "\n".join(f"{len(part)}:{part}" for part in parts)  # lengths: no two lists of parts look alike
        return hmac.new(self._key, message.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def can_ask(ctx: Context[Any, Any]) -> bool:
    """Whether the client shows forms; a bare `elicitation: {}` means that it does."""
    capabilities = ctx.client_capabilities
    elicitation = capabilities.elicitation if capabilities else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _refused(message: str) -> HerdError:
    return HerdError(
        ErrorCode.NOT_CONFIRMED,
        message,
        "Call again without confirm_token, tell the person what it says, and bring the new token when they agree.",
    )
