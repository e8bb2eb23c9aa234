"""Pictures over HTTP while this Mac is short of memory."""

from __future__ import annotations

from pathlib import Path

from tests.faults.test_memory import Mac, feels

from .http_node import serve


async def test_a_picture_too_large_for_now_is_refused_with_the_size_that_goes_and_that_one_is_drawn(
    tmp_path: Path,
) -> None:
    mac = Mac()
    mac.level = "high"
    limits = {"pressure_max_image_px": {"high": 64}, "pressure_max_steps": {"high": 2}}
    async with serve(tmp_path, mac.read, **limits) as node:
        await feels(node.herd, "high")
        refused = await node.image(width=128, height=128)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "30")
        assert "Ask for at most 64 × 64 px" in refused.json()["error"]
        drawn = await node.image(width=64, height=64, steps=4)
        note = "memory: the picture was drawn in 2 steps while this Mac is short of memory"
        assert (drawn.status_code, drawn.headers["X-Herd-Note"]) == (200, note)
