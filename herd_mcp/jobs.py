"""The vocabulary: what can be asked, what happens to it, and how it ends.

Everything that crosses a room of the house (surface, herd, node, engine, the wire between nodes) is one of these
frozen models. A surface turns its dialect into a request and `JobEvent`s back into its dialect.
"""

from __future__ import annotations

import json
import re
import secrets
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

MAX_IMAGE_PROMPT_CHARS = 8_000
MAX_CHAT_CHARS = 4_000_000
"""All that a chat says, its tools and their calls included: as ASCII JSON it must fit into a line of the engine's pipe
(`pipe.MAX_LINE_BYTES`), which takes up to 12 bytes for a character."""
MAX_PICTURE_BYTES = 32 * 1024 * 1024
MAX_MESSAGES = 10_000
MAX_STOP_STRINGS = 16
MAX_TOOLS = 256
MAX_SCHEMA_DEPTH = 64
MAX_IMAGE_PX = 8_192
MAX_STEPS = 200
MAX_TAGS = 16
MAX_ATTEMPTS = 3
USUAL_STEPS = 20
"""Of an image, where neither its asker nor its model's family names any."""
USUAL_STRENGTH = 0.4
"""Of a picture to start from, where its asker names none: as in mflux (`IMAGE_STRENGTH` of mflux.cli.defaults)."""
SHOWN_CHARS = 64
"""How much of a name that a caller chose is repeated in an error: a name may have megabytes."""


class Frozen(BaseModel):
    """A value: immutable, unknown fields refused, bytes as base64 in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


# ── Ids ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


NODE_ID = "[0-9a-f]{10}"
"""The pattern of a node's id, for all that is made of it."""
NodeId = Annotated[str, Field(pattern=f"^{NODE_ID}$")]
JOB_ID = re.compile(rf"job-({NODE_ID})-[0-9a-f]{{12}}\Z")
IMAGE_ID = re.compile(rf"img-({NODE_ID})-[0-9a-f]{{12}}\Z")


def new_job_id(node_id: str) -> str:
    """`job-<owner's node id>-<random>`, so that any node knows whom to ask about it."""
    return f"job-{node_id}-{secrets.token_hex(6)}"


def image_id_of(job_id: str) -> str:
    """The id of the image that a job makes; it carries the owner as the job's id does."""
    return "img-" + job_id.removeprefix("job-")


def owner_of(some_id: str) -> str:
    """The node id in the id of a job or an image; empty where there is none."""
    found = JOB_ID.match(some_id) or IMAGE_ID.match(some_id)
    return found[1] if found else ""


# ── Errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class ErrorCode(StrEnum):
    """Every way a job can fail, in the words that all surfaces use."""

    INVALID_REQUEST = "invalid_request"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_INCOMPLETE = "model_incomplete"
    KIND_NOT_SUPPORTED = "kind_not_supported"
    INSUFFICIENT_MEMORY = "insufficient_memory"
    NO_NODE = "no_node"
    BUSY = "busy"
    NODE_LOST = "node_lost"
    ENGINE_CRASHED = "engine_crashed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    DRAINING = "draining"
    DISK = "disk"
    JOB_NOT_FOUND = "job_not_found"
    IMAGE_NOT_FOUND = "image_not_found"
    CONFIRMATION_REQUIRED = "confirmation_required"
    NOT_CONFIRMED = "not_confirmed"
    NOT_BUILT_YET = "not_built_yet"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    LOCAL_NETWORK_DENIED = "local_network_denied"
    TOO_LARGE = "too_large"
    INTERNAL = "internal"


class ErrorInfo(Frozen):
    """What went wrong, as data: `message` says what, `hint` what to do next."""

    code: ErrorCode
    message: str
    hint: str = ""
    retryable: bool = False
    details: dict[str, Any] = Field(default_factory=dict)
    """Numbers and names behind the message; `retry_after_s` where it makes sense to come back."""

    @property
    def sentence(self) -> str:
        """Message and hint, as a person reads them."""
        return f"{self.message} {self.hint}".strip()


class HerdError(Exception):
    """The one exception that crosses rooms. `info` is its data; each surface maps `info.code` once."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        hint: str = "",
        *,
        retryable: bool = False,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.info = ErrorInfo(code=code, message=message, hint=hint, retryable=retryable, details=details or {})

    @classmethod
    def of(cls, info: ErrorInfo) -> HerdError:
        """The exception that carries `info`."""
        return cls(info.code, info.message, info.hint, retryable=info.retryable, details=info.details)

    def __str__(self) -> str:
        return self.info.sentence


PLAIN_WORDS = {
    "extra_forbidden": "there is no such field",
    "missing": "is required",
    "string_pattern_mismatch": "must not be blank",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}
"""pydantic's types of error whose own words say less to people."""


def problems_of(error: ValidationError) -> list[str]:
    """What is wrong, as `field: words`, without the values, which are the caller's."""
    found = error.errors(include_url=False, include_input=False)
    places = {problem["loc"] for problem in found}
    problems = []
    for problem in found:
        place = problem["loc"]
        if problem["type"] == "too_short" and any(other[: len(place)] == place for other in places - {place}):
            continue  # it is short only because its parts are wrong
        if len(place) > 1 and place[0] in get_args(Kind):
            place = place[1:]  # the discriminator of the union, which the caller did not write
        words = PLAIN_WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        problems.append(
            ": ".join(part for part in (".".join(str(part)[:SHOWN_CHARS] for part in place), words) if part)
        )
    return problems


def invalid_request(error: ValidationError) -> HerdError:
    """The one translation of a failed validation: names each field, never repeats the value."""
    problems = problems_of(error)[:5]
    return HerdError(
        ErrorCode.INVALID_REQUEST,
        "The request is not valid: " + "; ".join(problems) + ".",
        "Correct the named fields and send it again.",
        details={"fields": problems},
    )


# ── Text ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _clean(text: str) -> str:
    if "\x00" in text:
        raise ValueError("contains a NUL character; remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("contains half of a character (a lone surrogate); remove it") from None
    return text


def _shallow(schema: dict[str, Any]) -> dict[str, Any]:
    """Refuse what could not be written as JSON and read again."""
    layer: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        layer = [
            part
            for value in layer
            if isinstance(value, dict | list)
            for part in (value.values() if isinstance(value, dict) else value)
        ]
        if not layer:
            break
    else:
        raise ValueError(f"is nested deeper than {MAX_SCHEMA_DEPTH}")
    _clean(json.dumps(schema, ensure_ascii=False, allow_nan=False))
    return schema


def _one_word(name: str) -> str:
    """A line break in a tool's name would write lines of the prompt."""
    if not name.isprintable() or " " in name:
        raise ValueError("must be one word without spaces and line breaks")
    return name


Text = Annotated[str, AfterValidator(_clean)]
"""A string without NUL and lone surrogates."""

ModelName = Annotated[Text, Field(min_length=1, max_length=256)]
Tag = Annotated[Text, Field(min_length=1, max_length=64)]
Tags = Annotated[tuple[Tag, ...], Field(max_length=MAX_TAGS)]


# ── Requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class ToolCall(Frozen):
    """One call of a tool, by the model. `arguments` is a JSON object as text, as OpenAI has it."""

    id: Text
    name: Text
    arguments: Text


class Message(Frozen):
    """One turn. `reasoning` is what the model thought before it answered."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | None = None
    reasoning: Text | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: Text | None = None
    name: Text | None = None


class Tool(Frozen):
    """A function that the model may call. `parameters` is a JSON schema of an object."""

    name: Annotated[Text, Field(min_length=1, max_length=128), AfterValidator(_one_word)]
    description: Text = ""
    parameters: Annotated[dict[str, Any], AfterValidator(_shallow)] = Field(default_factory=dict)


class Sampling(Frozen):
    """How the next token is chosen. None means: as the model's own generation config says, else mlx-lm's default."""

    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-10, le=10)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-10, le=10)] | None = None
    logit_bias: dict[int, Annotated[float, Field(ge=-1000, le=1000)]] = Field(default_factory=dict, max_length=1024)
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None


class ChatRequest(Frozen):
    """Answer a conversation. `model=None` takes the node's default chat model."""

    kind: Literal["chat"] = "chat"
    model: ModelName | None = None
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[tuple[Tool, ...], Field(max_length=MAX_TOOLS)] = ()
    tool_choice: Literal["auto", "none", "required"] | Annotated[Text, Field(max_length=128)] = "auto"
    """`auto`, `none`, `required`, or the name of one tool."""
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    stop: Annotated[
        tuple[Annotated[Text, Field(min_length=1, max_length=256)], ...], Field(max_length=MAX_STOP_STRINGS)
    ] = ()
    sampling: Sampling = Sampling()
    reasoning: bool | None = None
    """Whether a model that can think does so; None leaves it to the model."""
    tags: Tags = ()

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        chars = sum(map(_chars_of_message, self.messages)) + sum(map(_chars_of_tool, self.tools))
        if chars > MAX_CHAT_CHARS:
            raise ValueError(
                f"the messages and tools have {chars:,} characters; the longest conversation has {MAX_CHAT_CHARS:,}"
            )
        return self


def _chars_of_message(message: Message) -> int:
    calls = sum(len(call.id) + len(call.name) + len(call.arguments) for call in message.tool_calls)
    texts = (message.content, message.reasoning, message.tool_call_id, message.name)
    return calls + sum(len(text) for text in texts if text)


def prompt_bytes(request: ChatRequest) -> int:
    """What a conversation says, in bytes of UTF-8, names and ids left out: by it the tokens of a prompt are estimated
    (`ChatRates.tokens_per_byte`), where nobody has a tokenizer."""
    texts = [text for message in request.messages for text in (message.content, message.reasoning) if text]
    texts += [call.arguments for message in request.messages for call in message.tool_calls]
    texts += [f"{tool.description}{json.dumps(tool.parameters, ensure_ascii=False)}" for tool in request.tools]
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)


def _chars_of_tool(tool: Tool) -> int:
    return len(tool.description) + len(json.dumps(tool.parameters, ensure_ascii=False))


def _round_down_16(px: int) -> int:
    return px - px % 16


ImagePx = Annotated[int, Field(ge=64, le=MAX_IMAGE_PX), AfterValidator(_round_down_16)]
"""A side of an image in pixels, rounded down to the multiple of 16 that diffusion models need."""


class ImageRequest(Frozen):
    """Make one image. None means: as the model's defaults say; the result tells what was used."""

    kind: Literal["image"] = "image"
    model: ModelName | None = None
    prompt: Annotated[Text, Field(min_length=1, max_length=MAX_IMAGE_PROMPT_CHARS, pattern=r"\S")]
    negative_prompt: Annotated[Text, Field(max_length=MAX_IMAGE_PROMPT_CHARS)] | None = None
    width: ImagePx | None = None
    height: ImagePx | None = None
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    quantize: Literal[3, 4, 5, 6, 8] | None = None
    """Bits per weight while the model is loaded; None takes the setting, and a quantised checkpoint stays as it is."""
    image: Annotated[bytes, Field(min_length=1, max_length=MAX_PICTURE_BYTES)] | None = None
    """A picture to start from (PNG, JPEG or WebP bytes), for models that can."""
    image_strength: Annotated[float, Field(gt=0, lt=1)] | None = None
    """How much of `image` stays: 0.1 little, 0.9 nearly all; None means 0.4. Only with `image`."""
    tags: Tags = ()


Request = Annotated[ChatRequest | ImageRequest, Field(discriminator="kind")]
Kind = Literal["chat", "image"]

_R = TypeVar("_R", ChatRequest, ImageRequest)


def parse_request(model: type[_R], fields: dict[str, Any]) -> _R:
    """Validate `fields` as `model`. Raises HerdError(invalid_request) that names every wrong field."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise invalid_request(error) from None


# ── Results ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Usage(Frozen):
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """How many of `prompt_tokens` came from the prompt cache."""
    completion_tokens: int = 0


class Timings(Frozen):
    """Seconds and rates of one job; None where a phase did not happen."""

    queue_s: float | None = None
    load_s: float | None = None
    ttft_s: float | None = None
    """From acceptance to the first token."""
    run_s: float | None = None
    """In the engine: prefill and decode, or all steps and the VAE decode."""
    total_s: float | None = None
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    steps_per_s: float | None = None


class ChatResult(Frozen):
    kind: Literal["chat"] = "chat"
    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: Literal["stop", "length", "tool_calls"]
    limited_by: str = ""
    """Why the answer was cut before the length that was asked for, for a reader."""
    usage: Usage
    model: str
    node: str
    timings: Timings = Timings()


class ImageResult(Frozen):
    kind: Literal["image"] = "image"
    image_id: str
    model: str
    node: str
    width: int
    height: int
    steps: int
    seed: int
    guidance: float | None = None
    quantize: int | None = None
    limited_by: str = ""
    """Why it has fewer steps than were asked for, for a reader."""
    bytes: int = 0
    sha256: str = ""
    path: str = ""
    """Where the PNG lies on the owner's disk. Told over the local socket and to the holder of the token only."""
    timings: Timings = Timings()


Result = Annotated[ChatResult | ImageResult, Field(discriminator="kind")]


# ── Events ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Event(Frozen):
    job_id: str = ""
    seq: int = 0
    """Rises by one within a job; assigned by the job's owner."""


class NodeEstimate(Frozen):
    """One row of the table behind a choice of node. Seconds from the choice on."""

    node: str
    node_id: str = ""
    finish_s: float | None = None
    """When the job would be done there; None where it cannot run, and `reason` says why."""
    ahead_s: float | None = None
    load_s: float | None = None
    service_s: float | None = None
    reason: str = ""


class Queued(_Event):
    type: Literal["queued"] = "queued"
    position: int
    eta_s: float | None = None
    message: str = ""
    """Why it waits, where that is not its turn."""


class Routed(_Event):
    type: Literal["routed"] = "routed"
    node: str
    model: str = ""
    estimates: tuple[NodeEstimate, ...] = ()


class Loading(_Event):
    type: Literal["loading"] = "loading"
    fraction: float


class Progress(_Event):
    type: Literal["progress"] = "progress"
    step: int
    steps: int
    message: str = ""


class Delta(_Event):
    """A piece of an answer: exactly one of the three is set."""

    type: Literal["delta"] = "delta"
    text: str | None = None
    reasoning: str | None = None
    tool_call: ToolCall | None = None


class Completed(_Event):
    type: Literal["completed"] = "completed"
    result: Result


class Failed(_Event):
    type: Literal["failed"] = "failed"
    error: ErrorInfo


class Cancelled(_Event):
    type: Literal["cancelled"] = "cancelled"


JobEvent = Annotated[
    Queued | Routed | Loading | Progress | Delta | Completed | Failed | Cancelled, Field(discriminator="type")
]
Terminal = Completed | Failed | Cancelled
JOB_EVENT: TypeAdapter[JobEvent] = TypeAdapter(JobEvent)


# ── Jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

JobStatus = Literal["queued", "loading", "running", "completed", "failed", "cancelled"]
ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


class Attempt(Frozen):
    """One try to run a job on one node."""

    number: int
    node: str
    node_id: str = ""
    started_at: float
    ended_at: float | None = None
    outcome: str = ""
    """`completed`, `cancelled`, an error code, or empty while it runs."""


class Job(Frozen):
    """A request that was accepted, and all that is known about it. Times are Unix seconds of the owner's clock."""

    id: str
    kind: Kind
    tags: Tags = ()
    client: str
    """The surface that asked: mcp, openai, http, cli."""
    request: Request | None = None
    """What was asked. A chat's goes when it ends (None); an image's stays, without the picture it started from."""
    stream: bool = False
    """Whether the asker shows the answer while it comes: then a chat is not repeated after its first token."""
    created_at: float
    disconnected: bool = False
    """Cancelled because its asker went away."""
    status: JobStatus = "queued"
    started_at: float | None = None
    finished_at: float | None = None
    model: str = ""
    """The model that serves it, resolved."""
    attempts: tuple[Attempt, ...] = ()
    routed: Routed | None = None
    progress: Progress | None = None
    result: Result | None = None
    error: ErrorInfo | None = None
    timings: Timings = Timings()
