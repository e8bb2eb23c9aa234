"""Endpoints that are known and not there yet say so, and what to use instead."""

from __future__ import annotations

import pytest

from herd_mcp.surfaces.later import INSTEAD

from .http_node import HttpNode


@pytest.mark.parametrize("path", sorted(INSTEAD))
async def test_a_known_endpoint_that_is_not_there_yet_is_501_with_what_to_use(node: HttpNode, path: str) -> None:
    response = await node.http.post(path.replace("{rest:path}", "any/thing"), json={})
    assert response.status_code == 501
    error = response.json()["error"]
    text = error if isinstance(error, str) else f"{error['message']} {error.get('hint', '')}"
    assert "not in this version" in text
    assert INSTEAD[path][1:] in text


async def test_what_is_there_is_not_shadowed_and_what_nobody_knows_is_404(node: HttpNode) -> None:
    assert (await node.http.get("/dashboard/api/health")).status_code == 200
    assert (await node.http.get("/api/nobody-knows")).status_code == 404
