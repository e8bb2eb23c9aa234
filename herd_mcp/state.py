"""What a node tells about itself: its models, its engines, its memory, what it did and how it is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from herd_mcp.jobs import Frozen, Kind, NodeId

Source = Literal["builtin", "huggingface", "herd", "folder", "peer"]
"""Where a model lies: `herd` is HERD_HOME/models of this Mac, `peer` on other Macs of the herd alone."""

WIRE_MAJOR, WIRE_MINOR = 1, 0
"""What nodes say to each other. Nodes of another major version do not work together; a newer minor one adds fields and
events, which older ones ignore."""
MAX_MODELS_TOLD = 64
MAX_ESTIMATES_TOLD = 64
MAX_PREFIXES_TOLD = 64
MAX_REVOKED = 256
MAX_REVOKED_TOLD = 16
"""With one state: random digits do not compress, and a state is to be small."""
MAX_ADDRESSES = 16
MAX_PAUSE_S = 366 * 86_400.0
"""The longest pause with an end."""
MAX_NEWEST_MS = 1_000
"""Durations of its newest images that a node tells another, for percentiles over several nodes."""
LEAST_BATTERY_PERCENT = 20


class Told(Frozen):
    """What may come from another node: fields that only a newer one knows are ignored, absurd numbers refused."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


Bytes = Annotated[int, Field(ge=0, le=2**60)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Seconds = Annotated[float, Field(ge=0, le=10**8)]
Milliseconds = Annotated[float, Field(ge=0, le=10**11)]
Rate = Annotated[float, Field(gt=0, le=10**9)]
Short = Annotated[str, Field(max_length=256)]
Sentence = Annotated[str, Field(max_length=1000)]


class ModelPlace(Frozen):
    """A node that has a model."""

    node: str
    node_id: str
    loaded: bool = False
    fits: bool = True
    """Whether there is or will be room for it; `reason` says why not."""
    reason: str = ""


class ModelInfo(Frozen):
    """A model on the disk of this node, or of others of the herd."""

    name: str
    aliases: tuple[str, ...] = ()
    """Other names that mean it, compared without case."""
    kind: Kind
    family: str
    """Chat: the model_type of config.json. Images: the key of mflux's registry."""
    source: Source
    path: str
    """The folder with the weights. Told over the local socket and to the holder of the token only."""
    bytes: int
    """Sum of the weight files."""
    needs_bytes: int = 0
    """Memory that it takes with a small job, as this Mac would load it; 0 while it is not complete."""
    complete: bool
    """Whether every file is there and whole."""
    supported: bool = True
    """Whether this build can run it."""
    problem: str = ""
    """Why it is not complete or not supported, as part of a sentence."""
    bits: int | None = None
    """Bits per weight of a quantised checkpoint."""
    context_tokens: int | None = None
    default: bool = False
    """Taken when a request names no model of this kind."""
    loaded: bool = False
    can_load_now: bool = False
    """Loaded already, or there is room for it, if need be after idle models have ended."""
    reason: str = ""
    """Why it cannot be loaded now, with the numbers, or what would be ended first."""
    recommended: bool = False
    """The largest of its kind that can be used and fits this Mac."""
    nodes: tuple[ModelPlace, ...] = ()
    """The nodes that have it, this one first; empty where there is no herd. Then `loaded` and `can_load_now` are of
    any of them that is reached."""

    @property
    def builtin(self) -> bool:
        return self.source == "builtin"

    @property
    def usable(self) -> bool:
        return self.complete and self.supported


class EngineState(Told):
    """One engine process."""

    model: Short
    kind: Kind
    phase: Literal["starting", "ready", "stopping"]
    quantize: int | None = None
    pid: int | None = None
    reserved_bytes: Bytes
    resident_bytes: Bytes | None = None
    """What the process holds now, as the system counts it."""
    pinned: bool = False
    """Never ended to make room."""
    loading: Annotated[float, Field(ge=0, le=1)] | None = None
    """Fraction of the bytes, while it loads."""
    running: Count
    queued: Count
    idle_s: Seconds
    """Seconds since its last work."""


Level = Literal["normal", "moderate", "high", "critical"]
"""How short of memory a Mac is, by what its system says."""


class MemoryState(Told):
    total_bytes: Bytes
    available_bytes: Bytes
    budget_bytes: Bytes
    """What all engines together may reserve."""
    reserved_bytes: Bytes
    pressure: Level = "normal"
    begun_px: Count | None = None
    """Pixels of the largest image that is begun while memory is as short as now; None where that limits none."""
    begun_tokens: Count | None = None
    """The same of a conversation, prompt and answer together."""


class Estimate(Told):
    """What a model was seen to take, against what was computed from its files."""

    model: Short
    quantize: int | None = None
    factor: Rate
    """Measured work by computed work, the largest of `by_work_mib`."""
    by_work_mib: Annotated[dict[Count, Rate], Field(max_length=32)] = Field(default_factory=dict)
    """The factors that reservations of this model are multiplied by, each for computed work below so many MiB."""
    held_bytes: Bytes = 0
    """What is reserved for an engine without work, where one was ended for holding more than was computed."""
    measured_at: float


class ImageRates(Told):
    """How long a model draws on a node, with the GPU to itself."""

    step_s_per_mpx: Rate
    """Seconds of one step per megapixel."""
    fixed_s_per_mpx: Seconds = 0
    """Seconds per megapixel before the first step and after the last: text encoding, VAE decode."""


class ChatRates(Told):
    """How fast a model answers on a node, with the GPU to itself."""

    prefill_tokens_per_s: Rate
    decode_tokens_per_s: Rate
    """Of a stream that is alone."""
    answer_tokens: Rate
    """How long its answers are, as measured, where a request allows more."""
    tokens_per_byte: Rate = 0.25
    """Of a prompt in UTF-8, as measured."""


BATCH_COST = 0.15
"""What each further stream of a batch adds to a step, as a part of a step of one: reading the weights, which is most of
a step, is shared; keys and values, and the arithmetic, are not. An assumption for Macs, measured on none."""


def decode_slowdown(batch: float) -> float:
    """How many times longer a token takes each of `batch` streams than a stream that is alone: 2.05 with eight,
    5.65 with thirty-two. Measurements in a batch are brought to a lone stream with it, and estimates to a batch."""
    return 1 + BATCH_COST * (max(batch, 1) - 1)


class ModelState(Told):
    """A model that a node can use, as the others place work by it."""

    name: Short
    aliases: Annotated[tuple[Short, ...], Field(max_length=16)] = ()
    kind: Kind
    bytes: Bytes
    builtin: bool = False
    loaded: bool = False
    loading: Annotated[float, Field(ge=0, le=1)] | None = None
    """Fraction of the bytes, while its engine loads."""
    fits: bool = True
    """Whether there is or will be room for it; `reason` says why not."""
    reason: Sentence = ""
    load_s: Seconds = 0
    """How long a load from nothing takes."""
    capacity: Annotated[int, Field(ge=1, le=1024)] = 1
    """Jobs that its engine takes at the same time."""
    running: Count = 0
    waiting: Count = 0
    context_tokens: Count | None = None
    """Longest conversation that fits here, prompt and answer together."""
    largest_px: Count | None = None
    """Longest side of an image here."""
    default_px: Count | None = None
    default_steps: Count | None = None
    image: ImageRates | None = None
    chat: ChatRates | None = None


def means(model: ModelInfo | ModelState, name: str) -> bool:
    """Whether `name` is the model's own or one of its aliases."""
    wanted = name.lower()
    return model.name.lower() == wanted or wanted in map(str.lower, model.aliases)


def by_default(model: ModelInfo | ModelState) -> tuple[bool, bool, int]:
    """The greatest serves who names no model: real before built-in, loaded before others, then the largest."""
    return not model.builtin, model.loaded, model.bytes


def by_name(model: ModelInfo | ModelState, name: str) -> tuple[bool, bool, int]:
    """The greatest serves who says a name that several share: the one that is called so, then as `by_default`."""
    return model.name.lower() == name.lower(), model.loaded, model.bytes


class Work(Told):
    """What is ahead of a new job on a node, over all its engines, in seconds of its GPU."""

    image_s: Seconds = 0
    """Of images that are drawn or wait."""
    chat_s: Seconds = 0
    """Until the chats that are answered or wait have their answers, if nothing comes to them."""
    load_s: Seconds = 0
    """Of models that are being loaded for them."""

    @property
    def ahead_s(self) -> float:
        """All of it together."""
        return self.image_s + self.chat_s + self.load_s


class Power(Told):
    """What the system tells about a Mac's power; None and `unknown` where it does not."""

    source: Literal["ac", "battery", "unknown"] = "unknown"
    battery_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    thermal: Literal["nominal", "fair", "serious", "critical", "unknown"] = "unknown"


class NodeState(Told):
    """One node, as it is now: what it tells the others about itself, and what people see of it."""

    node_id: NodeId
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    version: Short
    """Of the program."""
    wire: Annotated[tuple[int, int], Field()] = (WIRE_MAJOR, WIRE_MINOR)
    incarnation: Annotated[int, Field(ge=0, le=2**53)] = 0
    """Rises with each start of the node: Unix milliseconds of it."""
    revision: Annotated[int, Field(ge=0, le=2**53)] = 0
    """Rises with each change of this state within an incarnation."""
    status: Literal["online", "draining", "degraded", "offline"]
    """A node tells `online` or `draining` of itself, and `offline` with its last word; who does not hear of it calls it
    degraded, then offline."""
    reason: Sentence = ""
    """Why the status is not `online`."""
    platform: Short
    chip: Short
    cpu_cores: Count
    gpu_cores: Count | None = None
    """None where the system does not tell."""
    memory: MemoryState
    engines: Annotated[tuple[EngineState, ...], Field(max_length=64)] = ()
    estimates: Annotated[tuple[Estimate, ...], Field(max_length=MAX_ESTIMATES_TOLD)] = ()
    models: Annotated[tuple[ModelState, ...], Field(max_length=MAX_MODELS_TOLD)] = ()
    work: Work = Work()
    queued: Count = 0
    running: Count = 0
    paused: Sentence = ""
    """Why the owner of the Mac lets it do nothing for others now; empty while it may."""
    power: Power = Power()
    disk_free_bytes: Bytes | None = None
    addresses: Annotated[tuple[Short, ...], Field(max_length=MAX_ADDRESSES)] = ()
    """`host:port` where other nodes reach it."""
    prefixes: Annotated[tuple[Annotated[str, Field(max_length=16)], ...], Field(max_length=MAX_PREFIXES_TOLD)] = ()
    """Keyed hashes of the beginnings of conversations that its engines keep, newest first."""
    revoked: Annotated[tuple[NodeId, ...], Field(max_length=MAX_REVOKED)] = ()
    """Nodes that may not speak to this herd any more, of those that who reads it may not know yet."""
    heard_s: Seconds | None = None
    """Seconds since this node was last heard of, by who tells; None for itself."""
    started_at: float


class RecentImage(Frozen):
    timestamp: float
    model: str
    node_id: str
    status: str
    generation_ms: int | None
    width: int | None
    height: int | None
    error: str | None
    tags: tuple[str, ...] = ()
    image_id: str | None = None


def reluctant(state: NodeState) -> str:
    """Why a node does nothing for others now; its own jobs it runs if no other node can. Empty where it does."""
    if state.paused:
        return f"it is paused: {state.paused}"
    power = state.power
    percent = power.battery_percent
    if power.source == "battery" and percent is not None and percent < LEAST_BATTERY_PERCENT:
        return f"its battery is at {percent} %"
    if power.thermal in ("serious", "critical"):
        return "it is too hot"
    return ""


class ImageStats(Frozen):
    """Every image job ever asked of the nodes of the herd that are reached. Milliseconds are of completed images:
    averages over all of them, percentiles too on one node; over several nodes of the newest MAX_NEWEST_MS of each."""

    total: int
    completed: int
    failed: int
    cancelled: int
    avg_generation_ms: float
    p50_generation_ms: float | None
    p95_generation_ms: float | None
    avg_queue_ms: float | None
    avg_load_ms: float | None
    by_node: dict[str, int]
    by_model: dict[str, int]
    by_tag: dict[str, int]
    by_day: dict[str, int]
    """Completed images per day of the last 30, UTC."""
    recent: tuple[RecentImage, ...]
    """The last ten, newest first."""
    absent: tuple[str, ...] = ()
    """Names of the nodes of the herd that did not tell; what was asked of them is not counted here."""


class DayFigures(Told):
    """What happened to the jobs accepted in the last 24 hours. What the asker got wrong is not counted as failed."""

    total: Count = 0
    failed: Count = 0
    retries: Count = 0
    cold_loads: Count = 0
    images: Count = 0
    interrupted_streams: Count = 0
    disconnects: Count = 0
    avg_ttft_ms: Milliseconds | None = None
    answered: Count = 0
    """Jobs with a first token: those that `avg_ttft_ms` is of."""


class OwnStats(ImageStats):
    """What one node tells another of the jobs that were asked of it."""

    newest_ms: Annotated[tuple[Milliseconds, ...], Field(max_length=MAX_NEWEST_MS)] = ()
    """Of its newest completed images."""
    day: DayFigures = DayFigures()


class Recommendation(Frozen):
    check_id: str
    severity: Literal["info", "warning", "critical"]
    title: str
    description: str
    fix: str
    """A command that exists, or what to do."""
    node_id: str = ""
    data: dict[str, int | float | str] = Field(default_factory=dict)


class Vitals(Frozen):
    """The figures of the last 24 hours. Nothing informational lowers `health_score`."""

    nodes_total: int
    nodes_online: int
    nodes_degraded: int
    nodes_offline: int
    overall_error_rate_pct: float
    cold_loads_24h: int
    avg_ttft_ms: float | None
    total_requests_24h: int
    total_retries_24h: int
    client_disconnects_24h: int
    incomplete_streams_24h: int
    image_generations_24h: int
    transcriptions_24h: int
    health_score: int


class FleetHealth(Frozen):
    vitals: Vitals
    recommendations: tuple[Recommendation, ...]
    checked_at: float
    absent: tuple[str, ...] = ()
    """Names of the nodes that did not tell their figures of the last 24 hours, which are not counted."""


class Change(Frozen):
    """Something a subscriber may want to read again."""

    kind: Literal["job", "stats", "health", "models"]
    id: str = ""
    """The job's id, for `job`."""
