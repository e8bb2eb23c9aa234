"""What `demo` does: two nodes of its own in a herd, an MCP client over stdio, a chat, images on both, one node killed
in the middle of an image, and the table at the end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from mcp import Client, StdioServerParameters
from mcp_types import BlobResourceContents, CallToolResult, TextResourceContents

from herd_mcp.cli import demo_herd
from herd_mcp.cli.console import human_s, print_json
from herd_mcp.cli.demo_screen import Screen
from herd_mcp.cli.temporary import TemporaryNode, temporary_nodes
from herd_mcp.jobs import ErrorCode, ErrorInfo, HerdError

if TYPE_CHECKING:
    from collections.abc import Iterator

QUESTION = "What is herd-mcp?"
ANSWER_TOKENS = 96
PROMPTS = ("a red circle on a white background", "a yellow star on a blue background")
LONGER_STEPS = 6
"""Of the images during which a node is killed."""
CHAT_MODEL, IMAGE_MODEL = "herd-tiny-chat", "herd-tiny-image"
CALL_S = 120.0


@dataclass
class Step:
    """One line of the table: what was done, by which model on which node, how long it took, what came out."""

    what: str
    model: str
    node: str
    seconds: float
    outcome: str


@dataclass
class Report:
    """All that the demo saw, as `--json` prints it."""

    steps: list[Step] = field(default_factory=list)
    protocol: str = ""
    models: list[dict[str, Any]] = field(default_factory=list)
    chat: dict[str, Any] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)
    killed: dict[str, Any] = field(default_factory=dict)
    """The node that was killed, and the job that it drew then."""
    stats: dict[str, Any] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run_demo(out: Path, *, as_json: bool) -> None:
    """Run it all and print the report. Raises HerdError when a part does not work; nothing stays running either way."""
    started = time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HerdError(
            ErrorCode.INVALID_REQUEST, f"{out} cannot be made: {error.strerror}.", "Give --out another folder."
        ) from error
    report = Report()
    screen = Screen(err=as_json)
    screen.line("Starting two nodes in temporary homes, on free ports of this machine…")
    with temporary_nodes(*demo_herd.VARIABLES) as (first, second):
        told = ", ".join(f"pid {node.process.pid}, port {node.port}" for node in (first, second))
        screen.line(f"They run after {human_s(time.monotonic() - started)} ({told}).")
        demo = _Demo(first, second, out, screen, report)
        demo.make_herd()
        screen.line("Now as an MCP client of the first:")
        with _one_error():
            asyncio.run(demo.run())
    report.seconds = round(time.monotonic() - started, 2)
    if as_json:
        print_json(asdict(report))
        return
    screen.table(("what", "model", "node", "took", "outcome"), [_cells(step) for step in report.steps])
    screen.line(f"All in {human_s(report.seconds)}; the nodes have ended. The pictures: {', '.join(report.files)}")
    screen.line("The built-in models are tiny and show the way only; `herd-mcp doctor` says how real ones get here.")


def _cells(step: Step) -> tuple[str, ...]:
    return step.what, step.model, step.node, human_s(step.seconds), step.outcome


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """The MCP client runs in task groups, which wrap what is raised in them: take it out again."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group


class _Demo:
    """The steps, in one MCP session."""

    def __init__(self, first: TemporaryNode, second: TemporaryNode, out: Path, screen: Screen, report: Report) -> None:
        self._first, self._second = first, second
        self._node = demo_herd.client_of(first)
        self._out, self._screen, self._report = out, screen, report

    def make_herd(self) -> None:
        """Each draws once; then `invite` on the first, `join` on the second."""
        started, second = time.monotonic(), demo_herd.client_of(self._second)
        demo_herd.warm([self._node, second], IMAGE_MODEL)
        both = " + ".join(demo_herd.NAMES)
        self._done("warm", IMAGE_MODEL, started, "each has drawn once and knows how fast it is", node=both)
        started = time.monotonic()
        code = demo_herd.join(self._node, second)
        self._done("herd", "", started, "two Macs, TLS between them", node=both)
        self._screen.line(f"    on {demo_herd.NAMES[0]}: herd-mcp invite")
        self._screen.line(f"    on {demo_herd.NAMES[1]}: herd-mcp join {code}")

    async def run(self) -> None:
        started = time.monotonic()
        program = StdioServerParameters(
            command=sys.executable, args=["-P", "-m", "herd_mcp", "mcp"], env=self._first.env, cwd=self._first.home
        )
        async with Client(program, read_timeout_seconds=CALL_S) as client:
            tools = await client.list_tools()
            self._report.protocol = client.protocol_version
            self._done("connect", "", started, f"{len(tools.tools)} tools, MCP {client.protocol_version} over stdio")
            await self._models(client)
            await self._chat(client)
            async with anyio.create_task_group() as group:
                for number, prompt in enumerate(PROMPTS, 1):
                    group.start_soon(self._image, client, number, prompt)
            await self._kill(client)
            self._report.images.sort(key=lambda image: str(image["file"]))
            self._report.files.sort()
            await self._resources(client)

    async def _models(self, client: Client) -> None:
        started = time.monotonic()
        told = _structured(await client.call_tool("list_models", {}))
        self._report.models = [dict(model) for model in told["models"]]
        names = [f"{model['name']} ({model['kind']}) on {len(model['nodes'])} Macs" for model in self._report.models]
        self._done("list_models", "", started, ", ".join(names))

    async def _chat(self, client: Client) -> None:
        started = time.monotonic()
        arguments = {
            "model": CHAT_MODEL,
            "prompt": QUESTION,
            "max_tokens": ANSWER_TOKENS,
            "tags": ["demo"],
        }
        with self._screen.typing(f"“{QUESTION}”") as typing:

            async def tell(progress: float, total: float | None, message: str | None) -> None:
                typing.show(message or "")

            answer = _structured(await client.call_tool("chat", arguments, progress_callback=tell))
        self._report.chat = answer
        self._screen.quote(QUESTION, str(answer.get("text") or ""))
        tokens = (answer.get("usage") or {}).get("completion_tokens", 0)
        rate = (answer.get("timings") or {}).get("decode_tokens_per_s")
        outcome = f"{tokens} tokens" + (f", {rate:.0f} tokens/s" if rate else "")
        self._done("chat", CHAT_MODEL, started, outcome, node=str(answer["node"]))

    async def _kill(self, client: Client) -> None:
        """The same two images with more steps, and the end of the node that draws one of them."""
        self._screen.line(f"Two more; {demo_herd.NAMES[1]} is killed (SIGKILL) in the middle of the one that it draws.")
        earlier = {str(image["job_id"]) for image in self._report.images}
        async with anyio.create_task_group() as group:
            for number, prompt in enumerate(PROMPTS, len(PROMPTS) + 1):
                group.start_soon(self._image, client, number, prompt, LONGER_STEPS)
            started = time.monotonic()
            job = await anyio.to_thread.run_sync(
                demo_herd.kill_in_the_middle, self._node, self._second, earlier, abandon_on_cancel=True
            )
            assert job.progress is not None
            name, far = demo_herd.NAMES[1], f"step {job.progress.step} of {job.progress.steps}"
            self._report.killed = {"node": name, "job_id": job.id, "at": far}
            self._done("kill -9", "", started, f"{name} is gone at {far} of an image", node=name)

    async def _image(self, client: Client, number: int, prompt: str, steps: int | None = None) -> None:
        started = time.monotonic()
        arguments = {"model": IMAGE_MODEL, "prompt": prompt, "seed": number, "tags": ["demo"]}
        arguments |= {"steps": steps} if steps else {}
        with self._screen.bar(f"“{prompt}”") as bar:

            async def tell(progress: float, total: float | None, message: str | None) -> None:
                bar.at(message or "", progress, total)

            result = _structured(await client.call_tool("generate_image", arguments, progress_callback=tell))
            data = await _read_bytes(client, str(result["uri"]))
        file = self._out / f"{number}-{prompt.replace(' ', '-')}.png"
        file.write_bytes(data)
        self._report.files.append(str(file))
        del result["path"]  # it goes with the temporary home
        self._report.images.append({**result, "prompt": prompt, "file": str(file)})
        drawn_s = float((result.get("timings") or {}).get("run_s") or 0)
        size = f"{result['width']}×{result['height']}, {result['steps']} steps in {human_s(drawn_s)}"
        ran_on = " → ".join(str(attempt["node"]) for attempt in result["placement"]["attempts"])
        self._done(f"image {number}", IMAGE_MODEL, started, f"{file} ({size})", node=ran_on)
        self._screen.line(f"    {result['placement']['why']}")

    async def _resources(self, client: Client) -> None:
        started = time.monotonic()
        self._report.stats = await _read_json(client, "herd://images/stats")
        average = float(self._report.stats.get("avg_generation_ms") or 0) / 1000
        drawn = self._report.stats["completed"]
        without = f"; without {', '.join(absent)}" if (absent := self._report.stats["absent"]) else ""
        told = f"{drawn} images, {human_s(average)} each on average{without}"
        self._done("herd://images/stats", "", started, told)
        started = time.monotonic()
        self._report.health = await _read_json(client, "herd://fleet/health")
        vitals = self._report.health["vitals"]
        self._done(
            "herd://fleet/health",
            "",
            started,
            f"{vitals['nodes_online']} of {vitals['nodes_total']} Macs online, score {vitals['health_score']}",
        )

    def _done(self, what: str, model: str, started: float, outcome: str, *, node: str = demo_herd.NAMES[0]) -> None:
        step = Step(what, model, node, round(time.monotonic() - started, 3), outcome)
        self._report.steps.append(step)
        self._screen.line(f"✓ {what}: {outcome}")


def _structured(result: CallToolResult) -> dict[str, Any]:
    """What a tool answered as data. Raises HerdError when it failed."""
    data = result.structured_content or {}
    if result.is_error or data.get("error"):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            raise HerdError.of(ErrorInfo.model_validate(data["error"]))
        text = " ".join(getattr(part, "text", "") for part in result.content)
        raise HerdError(ErrorCode.INTERNAL, f"A tool failed: {text}", "`herd-mcp doctor` looks at this machine.")
    if data.get("status") == "running":
        raise HerdError(ErrorCode.TIMEOUT, f"A job took longer than {CALL_S:.0f} s.", "This machine is very busy.")
    return dict(data)


async def _read_bytes(client: Client, uri: str) -> bytes:
    contents = (await client.read_resource(uri)).contents
    if not contents or not isinstance(contents[0], BlobResourceContents):
        raise HerdError(ErrorCode.INTERNAL, f"{uri} holds no picture.", "Please report it.")
    return base64.b64decode(contents[0].blob)


async def _read_json(client: Client, uri: str) -> dict[str, Any]:
    contents = (await client.read_resource(uri)).contents
    if not contents or not isinstance(contents[0], TextResourceContents):
        raise HerdError(ErrorCode.INTERNAL, f"{uri} holds no data.", "Please report it.")
    data = json.loads(contents[0].text)
    assert isinstance(data, dict)
    return data
