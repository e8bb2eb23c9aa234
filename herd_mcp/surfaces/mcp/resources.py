"""The resources: herd://images/stats, herd://images/{image_id}, herd://jobs/{job_id}, herd://fleet/…, herd://models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.surfaces.mcp.results import without_paths

if TYPE_CHECKING:
    from herd_mcp.herd import Herd

JSON = "application/json"
MISSING = (ErrorCode.JOB_NOT_FOUND, ErrorCode.IMAGE_NOT_FOUND, ErrorCode.NO_NODE)

STATS = "herd://images/stats"
HEALTH = "herd://fleet/health"
MODELS = "herd://models"
JOB_PREFIX = "herd://jobs/"


def add_resources(mcp: MCPServer, herd: Herd, *, local: bool) -> None:
    """Register all of them. `local`: the client runs on this Mac, so paths may be told."""

    @mcp.resource(STATS, title="Image statistics", mime_type=JSON)
    async def image_stats() -> str:
        """Every image job so far: counts, times in milliseconds, by node, model, tag and day, and the last ten."""
        return (await herd.stats()).model_dump_json()

    @mcp.resource("herd://images/{image_id}", title="Image", mime_type="image/png")
    async def image(image_id: str) -> bytes:
        """The full PNG of one image."""
        with resource_errors():
            return await herd.image(image_id)

    @mcp.resource("herd://jobs/{job_id}", title="Job", mime_type=JSON)
    async def job(job_id: str) -> str:
        """One job: what was asked, its attempts, progress, outcome and timings in seconds."""
        with resource_errors():
            return compact(without_paths(await herd.job(job_id), local=local))

    @mcp.resource(HEALTH, title="Health of the herd", mime_type=JSON)
    async def fleet_health() -> str:
        """The figures of the last 24 hours, advice, and every node as it is now."""
        health, nodes = await asyncio.gather(herd.health(), herd.nodes())
        return compact({**health.model_dump(mode="json"), "nodes": [node.model_dump(mode="json") for node in nodes]})

    @mcp.resource("herd://fleet/nodes/{name}", title="Node", mime_type=JSON)
    async def node(name: str) -> str:
        """One node, by name or id: state and why, work ahead in seconds, memory, models, queue."""
        nodes = await herd.nodes()
        for state in nodes:
            if name in (state.name, state.node_id):
                return state.model_dump_json()
        known = ", ".join(state.name for state in nodes)
        raise ResourceNotFoundError(f"There is no node {name!r} in this herd. There is: {known}.")

    @mcp.resource(MODELS, title="Models", mime_type=JSON)
    async def models() -> str:
        """The models of the herd, with kind, size in bytes, completeness and the nodes that have them."""
        return compact([without_paths(model, local=local) for model in await herd.models()])


@contextmanager
def resource_errors() -> Iterator[None]:
    """The one translation of a HerdError into a resource's protocol error."""
    try:
        yield
    except HerdError as error:
        kind = ResourceNotFoundError if error.info.code in MISSING else ResourceError
        raise kind(error.info.sentence) from error


def compact(data: Any) -> str:
    """Data as JSON."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
