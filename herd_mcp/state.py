"""What a node tells about itself: its models, its engines, its memory, what it did and how it is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from herd_mcp.jobs import Frozen, Kind

Source = Literal["builtin", "huggingface", "herd", "folder"]


class ModelInfo(Frozen):
    """A model on the disk of one node."""

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

    @property
    def builtin(self) -> bool:
        return self.source == "builtin"

    @property
    def usable(self) -> bool:
        return self.complete and self.supported


class EngineState(Frozen):
    """One engine process."""

    model: str
    kind: Kind
    phase: Literal["starting", "ready", "stopping"]
    quantize: int | None = None
    pid: int | None = None
    reserved_bytes: int
    resident_bytes: int | None = None
    """What the process holds now, as the system counts it."""
    pinned: bool = False
    """Never ended to make room."""
    loading: float | None = None
    """Fraction of the bytes, while it loads."""
    running: int
    queued: int
    idle_s: float
    """Seconds since its last work."""


Level = Literal["normal", "moderate", "high", "critical"]
"""How short of memory a Mac is, by what its system says."""


class MemoryState(Frozen):
    total_bytes: int
    available_bytes: int
    budget_bytes: int
    """What all engines together may reserve."""
    reserved_bytes: int
    pressure: Level = "normal"


class Estimate(Frozen):
    """What a model was seen to take, against what was computed from its files."""

    model: str
    quantize: int | None = None
    factor: float
    """Measured work by computed work, the largest of `by_work_mib`."""
    by_work_mib: dict[int, float] = Field(default_factory=dict)
    """The factors that reservations of this model are multiplied by, each for computed work below so many MiB."""
    held_bytes: int = 0
    """What is reserved for an engine without work, where one was ended for holding more than was computed."""
    measured_at: float


class NodeState(Frozen):
    """One node, as it is now."""

    node_id: str
    name: str
    version: str
    status: Literal["online", "draining", "degraded", "offline"]
    reason: str = ""
    """Why the status is not `online`."""
    platform: str
    chip: str
    cpu_cores: int
    gpu_cores: int | None = None
    """None where the system does not tell."""
    memory: MemoryState
    engines: tuple[EngineState, ...] = ()
    estimates: tuple[Estimate, ...] = ()
    queued: int = 0
    running: int = 0
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


class ImageStats(Frozen):
    """Every image job ever asked of this node. Milliseconds are of completed images."""

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


class Change(Frozen):
    """Something a subscriber may want to read again."""

    kind: Literal["job", "stats", "health", "models"]
    id: str = ""
    """The job's id, for `job`."""
