"""What was asked for is in the picture that came back, whichever way it came."""

from __future__ import annotations

import base64
import io

import numpy as np
from mcp import Client
from mcp_types import BlobResourceContents
from PIL import Image

from herd_mcp.surfaces.mcp.server import make_mcp
from training.image.judge import Verdict, judge

from .http_node import HttpNode


def seen(png: bytes) -> Verdict:
    with Image.open(io.BytesIO(png)) as image:
        return judge(np.array(image.convert("RGB")))


async def test_a_picture_that_came_over_http_shows_what_was_asked(node: HttpNode) -> None:
    response = await node.image(prompt="a blue square on a yellow background", steps=4, seed=5)
    verdict = seen(response.content)
    assert (verdict.foreground, verdict.shape, verdict.background) == ("blue", "square", "yellow")


async def test_a_picture_that_came_over_mcp_shows_what_was_asked(node: HttpNode) -> None:
    async with Client(make_mcp(node.herd, local=False)) as client:
        arguments = {"prompt": "a pink triangle on a black background", "model": "herd-tiny-image", "seed": 5}
        made = (await client.call_tool("generate_image", arguments)).structured_content
        assert made is not None
        (content,) = (await client.read_resource(made["uri"])).contents
    assert isinstance(content, BlobResourceContents)
    verdict = seen(base64.b64decode(content.blob))
    assert (verdict.foreground, verdict.shape, verdict.background) == ("pink", "triangle", "black")
