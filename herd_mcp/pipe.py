"""The words on the private pipe between a node and an engine process: one JSON object per line, ASCII only.

The node writes commands to the engine's stdin, the engine writes messages to a private copy of its stdout. `run` is a
number the node gives to one attempt of one job. `node/protocol.py` says which message may come when; an engine that
says anything else is ended.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from herd_mcp.jobs import ErrorInfo, Frozen, Kind, Request, ToolCall

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Longest command; a chat of MAX_CHAT_CHARS or a picture of MAX_PICTURE_BYTES fits, escaped."""

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""Longest message of an engine. The longest that is meant is one step with a tool call as long as a model's context."""

DEFAULT_MAX_TOKENS = 4096
"""Length of an answer when the request names none, or what remains of the context if that is less. The node names one
(its setting max_tokens)."""

LOADING_STEP = 0.01
"""The least rise of a loading fraction that is worth a message."""

Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class CacheShape(Frozen):
    """How the keys and values of one sequence grow, in bytes. Added up over a model's layers."""

    token_bytes: Count = 0
    """Per token, without an end."""
    window_token_bytes: Count = 0
    """Per token, up to `window_tokens`: layers with a sliding window."""
    window_tokens: Count = 0
    fixed_bytes: Count = 0
    """However long it is: state-space layers."""


PREFILL_CHUNK_TOKENS = 512
"""Prompt tokens per step: how long other streams wait at most, and how soon a cancelled prompt ends."""

PREFILL_BATCH = 8
"""Prompts that a chat engine computes together at most; memory is reserved for so many."""

CACHE_SPARE_TOKENS = 256
"""How much longer than its longest sequence a batch's caches are at most: they grow by blocks of so many."""


class EngineSpec(Frozen):
    """What an engine process loads. Sent once, first; the process serves this and nothing else until it ends."""

    kind: Kind
    model: str
    """The name to report."""
    path: str
    """A folder with the weights."""
    family: str = ""
    """Images: the key of mflux's registry (`z-image-turbo`, `dev`, …), or `builtin`."""
    quantize: int | None = None
    """Images: bits per weight to quantise to while loading."""
    prompt_cache_bytes: int = 0
    max_batch: int = 32
    """Chat: most streams in one batch. Images run one at a time."""
    context_tokens: int | None = None
    """Chat: the longest conversation that is taken, where that is less than the model's own limit."""
    turns: str = ""
    """The folder of the locks with which the engines of this Mac take turns at the GPU. Empty: this one is alone."""
    stall_s: float = 180.0
    """Seconds of silence after which the node ends the engine; one that waits for its turn says so more often."""
    memory_limit_bytes: Count = 0
    """What MLX may hold in this process; 0 sets no limit."""
    cache_limit_bytes: Count | None = None
    """Freed buffers that MLX may keep for later; None leaves that to MLX."""
    wired_limit_bytes: Count = 0
    """Memory that the system may not move out; 0 wires none, which is the safe way."""
    between_blocks: bool | None = None
    """Images: let others to the GPU between the blocks of a step too. None: where nothing is compiled anyway."""
    trust_remote_code: bool = False
    """A test seam for the scripted model; no setting and no request reaches it."""


# ── node → engine ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Load(Frozen):
    op: Literal["load"] = "load"
    spec: EngineSpec


class Start(Frozen):
    op: Literal["start"] = "start"
    run: int
    request: Request
    spool: str = ""
    """Images: the file to write the PNG to, in a folder that exists."""
    tokens: Count = 0
    """Chat: prompt and answer together, as memory was reserved for them; 0 is without limit. A prompt that with the
    answer it asks for is longer is not begun (`insufficient_memory` with `prompt_tokens` in its details); an answer of
    no stated length ends there as `length`."""


class Cancel(Frozen):
    op: Literal["cancel"] = "cancel"
    run: int


class Limit(Frozen):
    """What the engine may keep from now on. It gives back at once what is over."""

    op: Literal["limit"] = "limit"
    prompt_cache_bytes: Count
    memory_limit_bytes: Count = 0
    """As in the spec; 0 leaves it as it is."""


Command = Annotated[Load | Start | Cancel | Limit, Field(discriminator="op")]
COMMAND: TypeAdapter[Load | Start | Cancel | Limit] = TypeAdapter(Command)


# ── engine → node ─────────────────────────────────────────────────────────────────────────────────────────────────────


class LoadingNow(Frozen):
    ev: Literal["loading"] = "loading"
    fraction: Annotated[float, Field(ge=0, le=1)]


class Ready(Frozen):
    """Loaded and proved: one token or one step has been produced."""

    ev: Literal["ready"] = "ready"
    weights_bytes: Count
    active_bytes: Count
    peak_bytes: Count
    context_tokens: Count | None = None
    """Chat: the longest conversation the model takes."""
    cache: CacheShape | None = None
    """Chat: how its caches grow, measured."""


class RunDelta(Frozen):
    """What one step brought one run. Images use `step` and `steps`, chat the others."""

    run: int
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    step: Count | None = None
    steps: Count | None = None
    message: str = ""


class Step(Frozen):
    """One step of the engine with everything it brought, for all runs at once. Also sent without runs as a sign of
    progress (a prefill chunk, a text encoding) so that the node can tell work from a hang."""

    ev: Literal["step"] = "step"
    work: Count
    """What was computed since the engine began: tokens of prompts and answers, or steps of images. An engine with runs
    whose number stands still for engine_stall_s is hung, however much it says."""
    runs: tuple[RunDelta, ...] = ()


class WaitingForTurn(Frozen):
    """Another engine computes and this one waits for it: no work, but no hang either. Sent again while that lasts."""

    ev: Literal["waiting"] = "waiting"
    waited_s: Seconds


class Peak(Frozen):
    """The most that MLX held since the engine was last without work, and what it worked on then."""

    active_bytes: Count
    """Now: weights, kept prompts and what runs."""
    peak_bytes: Count
    rows: Count = 1
    """Sequences in the batch at most."""
    tokens: Count = 0
    """Tokens of the longest of them. Chat only."""
    prompt_cache_bytes: Count = 0
    """Kept conversations."""


class ChatFacts(Frozen):
    """How a chat ended. The text itself went out as deltas."""

    kind: Literal["chat"] = "chat"
    finish_reason: Literal["stop", "length", "tool_calls"]
    prompt_tokens: Count
    cached_tokens: Count
    completion_tokens: Count
    prefill_s: Seconds
    decode_s: Seconds
    peak: Peak | None = None


class ImageFacts(Frozen):
    """What was drawn into the spool file, with the values that were used where the request named none."""

    kind: Literal["image"] = "image"
    width: Count
    height: Count
    steps: Count
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    guidance: Annotated[float, Field(allow_inf_nan=False)] | None
    quantize: int | None
    run_s: Seconds
    peak: Peak | None = None


class Done(Frozen):
    """A run ended well."""

    ev: Literal["done"] = "done"
    run: int
    facts: Annotated[ChatFacts | ImageFacts, Field(discriminator="kind")]


class RunFailed(Frozen):
    """A run ended badly, alone: the engine lives and other runs go on."""

    ev: Literal["failed"] = "failed"
    run: int
    error: ErrorInfo


class RunCancelled(Frozen):
    ev: Literal["cancelled"] = "cancelled"
    run: int


class LoadFailed(Frozen):
    """The model did not load; the process ends after this."""

    ev: Literal["load_failed"] = "load_failed"
    error: ErrorInfo


Message = Annotated[
    LoadingNow | Ready | Step | WaitingForTurn | Done | RunFailed | RunCancelled | LoadFailed,
    Field(discriminator="ev"),
]
MESSAGE: TypeAdapter[LoadingNow | Ready | Step | WaitingForTurn | Done | RunFailed | RunCancelled | LoadFailed] = (
    TypeAdapter(Message)
)
