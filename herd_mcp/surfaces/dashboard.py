"""GET /dashboard/api/image-stats and /dashboard/api/health: the figures behind a page, in the keys it knows."""

from __future__ import annotations

from fastapi import APIRouter

from herd_mcp.state import FleetHealth, ImageStats
from herd_mcp.surfaces.calls import TheHerd

router = APIRouter(prefix="/dashboard/api")


@router.get("/image-stats")
async def image_stats(herd: TheHerd) -> ImageStats:
    """Every image ever asked of the herd, counted; the last ten one by one."""
    return await herd.stats()


@router.get("/health")
async def health(herd: TheHerd) -> FleetHealth:
    """The last 24 hours in figures, and what to do about what is not well."""
    return await herd.health()
