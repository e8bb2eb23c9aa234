"""generate_image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import CallToolResult
from pydantic import Field

from herd_mcp.jobs import MAX_IMAGE_PROMPT_CHARS, MAX_IMAGE_PX, MAX_STEPS, ImageRequest, parse_request
from herd_mcp.surfaces.mcp import follow, results
from herd_mcp.surfaces.mcp.fields import Tags, WaitS, given, hints
from herd_mcp.surfaces.mcp.pictures import read_picture
from herd_mcp.surfaces.mcp.results import ImageAnswer

if TYPE_CHECKING:
    from herd_mcp.herd import Herd

DESCRIPTION = """\
Make one image from a text on the Macs of this herd (mflux, no cloud). Returns a thumbnail to look at, a link to the \
full PNG and, for clients on the same Mac, its file path. Leave out what you have no reason to set: each model knows \
its own good size, steps and guidance. list_models shows the models. The seed is told, so an image can be made again.
Takes seconds to minutes; if it is not finished within wait_s the answer has status "running" and a job_id for \
get_job. Images are kept; nothing is ever overwritten or deleted."""

Px = Annotated[int | None, Field(description="Pixels, rounded down to a multiple of 16.", ge=64, le=MAX_IMAGE_PX)]


def add_image_tool(mcp: MCPServer, herd: Herd, *, local: bool) -> None:
    """Register generate_image. `local`: the client runs on this Mac, so paths may be taken and told."""

    async def generate_image(
        ctx: Context[Any, Any],
        prompt: Annotated[
            str, Field(description="What to show.", min_length=1, max_length=MAX_IMAGE_PROMPT_CHARS, pattern=r"\S")
        ],
        model: Annotated[
            str | None, Field(description="A name from list_models; left out, the default image model.", max_length=256)
        ] = None,
        width: Px = None,
        height: Px = None,
        steps: Annotated[
            int | None, Field(description="Denoising steps: more is slower and finer.", ge=1, le=MAX_STEPS)
        ] = None,
        guidance: Annotated[
            float | None, Field(description="How closely the prompt is followed, where the model has it.", ge=0, le=100)
        ] = None,
        seed: Annotated[
            int | None, Field(description="The same seed gives the same image; left out, a random one.", ge=0, lt=2**32)
        ] = None,
        negative_prompt: Annotated[
            str | None,
            Field(description="What to avoid, where the model has it.", max_length=MAX_IMAGE_PROMPT_CHARS),
        ] = None,
        quantize: Annotated[
            Literal[3, 4, 5, 6, 8] | None,
            Field(description="Bits per weight while loaded: fewer need less memory and lose some quality."),
        ] = None,
        image: Annotated[
            str | None,
            Field(
                description="A PNG, JPEG or WebP picture to start from: herd://images/{image_id}, a "
                "data:image/…;base64 URI or, from clients on the same Mac, the full path of a file."
            ),
        ] = None,
        image_strength: Annotated[
            float | None,
            Field(description="How much of `image` stays: 0.1 little, 0.9 nearly all. Only with image.", gt=0, lt=1),
        ] = None,
        tags: Tags = None,
        wait_s: WaitS = None,
    ) -> Annotated[CallToolResult, ImageAnswer]:
        fields = given(
            prompt=prompt,
            model=model,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
            seed=seed,
            negative_prompt=negative_prompt,
            quantize=quantize,
            image_strength=image_strength,
            tags=tags,
        )
        parse_request(ImageRequest, fields)  # before a large picture is read
        if image is not None:
            fields["image"] = await read_picture(herd, image, local=local)
        job, result = await follow.run(herd, parse_request(ImageRequest, fields), ctx, wait_s)
        return await results.of_call(herd, job, result, local=local)

    mcp.add_tool(
        generate_image,
        title="Make an image",
        description=DESCRIPTION,
        annotations=hints(),
    )
