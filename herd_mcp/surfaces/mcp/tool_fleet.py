"""list_models and fleet_health."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult
from pydantic import BaseModel, Field

from herd_mcp.jobs import Kind
from herd_mcp.settings import GIB, MIB
from herd_mcp.state import EngineState, ModelInfo, ModelPlace, NodeState, Recommendation, Vitals, reluctant
from herd_mcp.surfaces.mcp import results
from herd_mcp.surfaces.mcp.fields import hints
from herd_mcp.surfaces.mcp.results import Answer

if TYPE_CHECKING:
    from herd_mcp.herd import Herd

LIST_MODELS = """\
The models on the Macs of this herd: name, kind (chat or image), size, memory needed, which Macs have it, whether the \
files are complete, whether it is loaded or can be loaded now, which one is the default and which one is recommended. \
Models named herd-tiny-* come with the program, to try it out; they are far too small for real work. When there is no \
other image model, suggest one to the person, for example z-image-turbo or flux-schnell, and get it only after their \
yes (pull_model)."""

FLEET_HEALTH = """\
How the Macs of this herd are: nodes with the seconds of work ahead of a new job, memory and its pressure, loaded \
models and queued jobs, and why one is left out; errors and times of the last 24 hours; and advice, each with what \
mends it."""

READ_ONLY = hints(read_only=True, idempotent=True)


class ModelAnswer(BaseModel):
    name: str
    aliases: tuple[str, ...] = Field((), description="Other names that mean it.")
    kind: Kind
    family: str
    bytes: int = Field(description="Sum of the weight files.")
    complete: bool
    supported: bool = Field(True, description="Whether this build can run it.")
    problem: str = Field("", description="Why it is not complete or not supported.")
    bits: int | None = Field(None, description="Bits per weight of a quantised checkpoint.")
    context_tokens: int | None = None
    default: bool = Field(False, description="Taken when a call names no model of this kind.")
    loaded: bool = False
    needs_bytes: int = Field(0, description="Memory to load it and to work in it.")
    can_load_now: bool = Field(False, description="Loaded, or there is room for it now.")
    reason: str = Field("", description="Why it cannot be loaded now, or what would be ended first.")
    recommended: bool = Field(False, description="The largest usable one of its kind that fits.")
    nodes: tuple[ModelPlace, ...] = Field((), description="The Macs that have it; empty where there is one Mac.")
    builtin: bool = Field(False, description="Comes with the program, to try it out; too small for real work.")


class ModelsAnswer(Answer):
    models: tuple[ModelAnswer, ...] = ()


class HealthAnswer(Answer):
    nodes: tuple[NodeState, ...] = ()
    vitals: Vitals | None = None
    recommendations: tuple[Recommendation, ...] = ()
    absent: tuple[str, ...] = Field((), description="Macs whose jobs are not in the figures.")
    not_let_in: tuple[str, ...] = Field((), description="Who tried to join in of late, and why it may not.")


def add_fleet_tools(mcp: MCPServer, herd: Herd) -> None:
    """Register list_models and fleet_health."""

    async def list_models(
        kind: Annotated[Kind | None, Field(description="Only chat or only image models.")] = None,
    ) -> Annotated[CallToolResult, ModelsAnswer]:
        found = await herd.models(kind)
        structured = ModelsAnswer(models=tuple(map(model_answer, found)))
        return results.answer(structured, "\n".join(map(model_line, found)) or "There is no model of this kind.")

    async def fleet_health() -> Annotated[CallToolResult, HealthAnswer]:
        health, nodes = await asyncio.gather(herd.health(), herd.nodes())
        strangers = tuple(herd.strangers)
        structured = HealthAnswer(
            nodes=tuple(nodes),
            vitals=health.vitals,
            recommendations=tuple(health.recommendations),
            absent=health.absent,
            not_let_in=strangers,
        )
        advice = [f"{r.severity}: {r.title}. {r.description} What to do: {r.fix}" for r in health.recommendations]
        vitals = health.vitals
        summary = (
            f"Health {vitals.health_score}/100; {vitals.nodes_online} of {vitals.nodes_total} nodes online; last 24 h: "
            f"{vitals.total_requests_24h} jobs, {vitals.image_generations_24h} images, "
            f"{vitals.overall_error_rate_pct:.1f}% errors."
        )
        if health.absent:
            summary += f" Not counted, since not reached: {', '.join(health.absent)}."
        outside = [f"Not let in: {stranger}" for stranger in strangers]
        return results.answer(structured, "\n".join([summary, *map(node_line, nodes), *outside, *advice]))

    mcp.add_tool(list_models, title="List models", description=LIST_MODELS, annotations=READ_ONLY)
    mcp.add_tool(fleet_health, title="Health of the herd", description=FLEET_HEALTH, annotations=READ_ONLY)


def model_answer(model: ModelInfo) -> ModelAnswer:
    """What a client is told of a model: everything but its folder."""
    return ModelAnswer(**model.model_dump(exclude={"path", "source"}), builtin=model.builtin)


def model_line(model: ModelInfo) -> str:
    """One model for a reader."""
    marks = [
        "default" if model.default else "",
        "recommended" if model.recommended else "",
        "loaded" if model.loaded else "",
        f"no room now: {model.reason}" if model.usable and not model.can_load_now else "",
        "built in, for trying out" if model.builtin else "",
        "" if model.complete and model.supported else f"cannot be used: {model.problem}",
        f"on {', '.join(place.node + ' (loaded)' * place.loaded for place in model.nodes)}" if model.nodes else "",
    ]
    told = ", ".join(mark for mark in marks if mark)
    needs = size(model.bytes) + (f", needs {size(model.needs_bytes)}" if model.needs_bytes else "")
    return f"{model.name} ({model.kind}, {needs}{', ' + told if told else ''})"


def node_line(node: NodeState) -> str:
    """One node for a reader."""
    loaded = ", ".join(map(engine_words, node.engines)) or "nothing loaded"
    memory = node.memory
    why = "; ".join(part for part in (node.reason, reluctant(node)) if part)
    if node.status == "offline":
        return f"{node.name}: offline ({why})"
    return (
        f"{node.name}: {node.status}{f' ({why})' if why else ''}, {node.chip}, "
        f"{node.work.ahead_s:.0f} s of work ahead of a new job, "
        f"{size(memory.available_bytes)} of {size(memory.total_bytes)} memory free (pressure {memory.pressure}), "
        f"{size(memory.reserved_bytes)} of {size(memory.budget_bytes)} for models reserved, "
        f"{node.running} running, {node.queued} queued; {loaded}"
    )


def engine_words(engine: EngineState) -> str:
    """One engine for a reader."""
    loading = f"loading, {engine.loading:.0%}" if engine.loading is not None else ""
    held = "" if engine.resident_bytes is None else f"holds {size(engine.resident_bytes)} of "
    told = (f"{held}{size(engine.reserved_bytes)}", loading, "pinned" if engine.pinned else "")
    return f"{engine.model} ({', '.join(part for part in told if part)})"


def size(count: int) -> str:
    """Bytes for a reader."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"
