"""How much a node may tell of an attempt that it runs for another. Who says more does not tell of this job."""

from __future__ import annotations

from herd_mcp.fleet import wire
from herd_mcp.jobs import MAX_STEPS, ChatRequest, Request
from herd_mcp.orders import Line

MOST_TOKENS = 1_000_000
"""Of an answer whose request does not say how long it may be: the most that one may say."""
WAITING_LINES = 20_000
"""About the wait: its place in the longest queue, each time that it changes, and how far the model is loaded."""
LINES_PER_PART = 2
"""About a token or a step: one may end a thought and begin the answer."""
LINE_BYTES = 256
"""Of a line, without the answer in it."""
TOKEN_BYTES = 1024
"""Of a token's text, escaped: long runs of one character, too. An answer is told in pieces, and once more at its
end."""


class Allowance:
    """What is left for one attempt, over all its connections. `limit_s`: how long it may take."""

    def __init__(self, request: Request, limit_s: float) -> None:
        parts, text_bytes = MAX_STEPS, 0
        if isinstance(request, ChatRequest):
            parts = request.max_tokens or MOST_TOKENS
            text_bytes = 2 * min(TOKEN_BYTES * parts, wire.LINE_BYTES)
        self._lines = WAITING_LINES + LINES_PER_PART * parts + limit_s / wire.BEAT_S[0]
        self._bytes = LINE_BYTES * self._lines + text_bytes

    def allows(self, line: Line) -> bool:
        """Count a line; whether it is still one that the attempt may need."""
        self._lines -= 1
        self._bytes -= line.size
        return min(self._lines, self._bytes) >= 0
