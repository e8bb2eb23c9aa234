"""`image`: draw one picture, with a bar that moves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from herd_mcp.cli.console import FAILED, USAGE, clean, console, fail, human_s, print_json, say
from herd_mcp.cli.prompt import SETTINGS, PromptCommand

if TYPE_CHECKING:
    from herd_mcp.cli.client import NodeClient
    from herd_mcp.jobs import ImageRequest, ImageResult


def add_to(app: typer.Typer) -> None:
    app.command(cls=PromptCommand, context_settings=SETTINGS)(image)


def image(
    prompt: Annotated[str, typer.Argument(help="What to draw. After `--` when it begins with a dash.")],
    model: Annotated[str | None, typer.Option(help="Which model draws; `herd-mcp models` lists them.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels, a multiple of 16.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, a multiple of 16.")] = None,
    steps: Annotated[int | None, typer.Option(help="Diffusion steps: more is slower and, to a point, better.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same picture.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How closely to follow the prompt.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to keep out, for models that can.")] = None,
    quantize: Annotated[int | None, typer.Option(help="Bits per weight while loaded: 3, 4, 5, 6 or 8.")] = None,
    start: Annotated[
        Path | None, typer.Option("--image", help="A picture to start from (PNG, JPEG or WebP).", dir_okay=False)
    ] = None,
    strength: Annotated[float | None, typer.Option(help="How much of --image stays, 0 to 1; else 0.4.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A label for statistics; may be repeated.")] = None,
    output: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the PNG there too; `-` writes it to stdout.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the seconds per Mac that decided where.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Draw an image and print where the PNG lies.

    Ctrl-C cancels the job at its next step.

    \b
    Example:
      herd-mcp image "a red fox in fresh snow" --steps 4 --seed 7
      herd-mcp image "the same, at night" --image fox.png --output night.png
      herd-mcp image -- "-5 degrees and a frozen lake"
    """
    from herd_mcp.cli.client import start_node
    from herd_mcp.cli.follow import explain as explain_job
    from herd_mcp.cli.follow import placement
    from herd_mcp.jobs import ImageRequest, parse_request

    _check_output(output, as_json)
    fields = {
        "prompt": prompt,
        "model": model,
        "width": width,
        "height": height,
        "steps": steps,
        "seed": seed,
        "guidance": guidance,
        "negative_prompt": negative_prompt,
        "quantize": quantize,
        "image": _read(start) if start else None,
        "image_strength": strength,
        "tags": tuple(tag or ()),
    }
    request = parse_request(ImageRequest, fields)
    node = start_node()
    job_id, result = draw(node, request, as_json=as_json)
    data = node.image(result.image_id) if output else b""
    path = _deliver(output, data, result)
    job = node.job(job_id) if explain else None
    if as_json:
        told = {"placement": placement(job)} if job else {}
        print_json({"job_id": job_id, **result.model_dump(mode="json"), "output": path, **told})
    elif output != "-":
        typer.echo(path)
    say(
        f"{result.width}×{result.height}, {result.steps} steps, seed {result.seed}, {result.model} on {result.node}"
        f" in {human_s(result.timings.total_s)}"
    )
    if job and not as_json:
        explain_job(job)


def draw(node: NodeClient, request: ImageRequest, *, as_json: bool = False) -> tuple[str, ImageResult]:
    """Run the job behind a progress bar; (job id, result). Ends the program when it fails or Ctrl-C cancels it."""
    from herd_mcp.cli.follow import Bar, cancel_and_say
    from herd_mcp.jobs import Cancelled, Completed, Failed, ImageResult

    job_id = ""
    with Bar(console(err=True)) as bar:
        try:
            for event in node.run(request):
                job_id = event.job_id or job_id
                bar.show(event)
                if isinstance(event, Completed) and isinstance(event.result, ImageResult):
                    if event.result.limited_by:
                        bar.stop()
                        say(f"[{event.result.limited_by}]")
                    return job_id, event.result
                if isinstance(event, Failed):
                    bar.stop()
                    fail(event.error, as_json=as_json, code=FAILED)
                if isinstance(event, Cancelled):
                    break
        except KeyboardInterrupt:
            bar.stop()
            cancel_and_say(node, job_id)
            raise SystemExit(FAILED) from None
    say(f"The job {job_id} was cancelled.")
    raise SystemExit(FAILED)


def _read(path: Path) -> bytes:
    from herd_mcp.jobs import ErrorCode, HerdError

    try:
        return path.read_bytes()
    except OSError as error:
        raise HerdError(
            ErrorCode.INVALID_REQUEST,
            f"{path} cannot be read: {error.strerror}.",
            "Give --image a PNG, JPEG or WebP file that you may read.",
        ) from error


def _check_output(output: str | None, as_json: bool) -> None:
    problem = ""
    if output == "-" and as_json:
        problem = "--output - and --json both want stdout; give --output a file."
    elif output == "-" and sys.stdout.isatty():
        problem = "--output - would write the PNG into this terminal; send it to a file or a pipe."
    elif output and output != "-" and not Path(output).absolute().parent.is_dir():
        problem = f"{Path(output).absolute().parent} is no folder; make it first."
    if problem:
        say(problem)
        raise typer.Exit(USAGE)


def _deliver(output: str | None, data: bytes, result: ImageResult) -> str:
    """Where the picture is now, after writing it where it was wanted."""
    if output is None:
        return clean(result.path or result.image_id)
    if output == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return "-"
    target: Any = Path(output)
    try:
        target.write_bytes(data)
    except OSError as error:
        say(f"{output} cannot be written: {error.strerror}. The picture lies at {result.path}.")
        raise typer.Exit(FAILED) from error
    return str(target)
