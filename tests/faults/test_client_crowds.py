"""Crowds before the real program: none is reset, the queue keeps its bound, and nothing is left of those who go."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cli.program import Program, ended
from tests.conftest import until
from tests.surfaces.http_node import CHAT, IMAGE

from .clients import said, tool_call, tool_headers

CROWD = 500
QUEUE = 64
LIMIT_S = 120.0
GROWTH_BYTES = 100 * 1024 * 1024
"""What a crowd may add to the node's memory of about 100 MiB: measured 5 MiB."""
SPARE_FILES = 4
"""Files that a node may hold more after a crowd than before: its database opens some when it needs them."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("crowds") / "home", HERD_QUEUE_LIMIT=str(QUEUE))
    with ended(program.up()):
        assert program.run("chat", "hello", "--model", CHAT, "--max-tokens", "2").returncode == 0
        yield program
    program.end()


def process(program: Program) -> psutil.Process:
    assert program.record is not None
    return psutil.Process(program.record["pid"])


def request(path: str, body: object, **headers: str) -> bytes:
    data = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(data)}"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


async def exchange(port: int, data: bytes) -> tuple[int, bytes]:
    """The status and the head of the answer. A reset raises."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(LIMIT_S):
            head = await reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1]), head
    finally:
        writer.close()


async def test_500_chats_at_once_are_each_answered_or_told_to_come_back(running: Program) -> None:
    assert running.record is not None
    port = running.record["port"]
    before = process(running).memory_info().rss
    body = {"messages": said("hello"), "model": CHAT, "max_tokens": 2, "metadata": {"tags": ["crowd"]}}
    crowd = [asyncio.create_task(exchange(port, request("/v1/chat/completions", body))) for _ in range(CROWD)]
    waits = []
    while not all(task.done() for task in crowd):
        began = time.monotonic()
        assert (await exchange(port, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"))[0] == 200
        waits.append(time.monotonic() - began)
        await asyncio.sleep(0.05)
    answers = [task.result() for task in crowd]
    counted = Counter(status for status, _ in answers)
    assert set(counted) <= {200, 503}
    assert counted[200] >= QUEUE
    assert all(b"retry-after: " in head.lower() for status, head in answers if status == 503)
    assert max(waits) < 10  # one second on a machine of its own
    assert process(running).memory_info().rss - before < GROWTH_BYTES


async def test_more_jobs_than_the_queue_holds_are_refused_at_once(running: Program) -> None:
    """Images run one by one, so all but one wait: the bound is exact."""
    assert running.record is not None
    port = running.record["port"]
    body = {"model": IMAGE, "prompt": "x", "steps": 200, "metadata": {"tags": ["queue"]}}
    data = request("/api/generate-image", body, Accept="text/event-stream", Connection="close")
    waiting = [asyncio.create_task(exchange(port, data)) for _ in range(CROWD // 2)]

    def refused() -> int:
        return sum(task.done() and task.result()[0] == 503 for task in waiting)

    await until(lambda: refused() >= CROWD // 2 - QUEUE - 1, "all others are refused", LIMIT_S)
    queued = running.data("jobs", "--limit", "200")
    assert sum(job["status"] in ("queued", "loading", "running") for job in queued) <= QUEUE + 1
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

    def is_free() -> bool:
        jobs = running.data("jobs", "--limit", "200")
        return not any(job["status"] in ("queued", "loading", "running") for job in jobs)

    await until(is_free, "their jobs went with them", LIMIT_S)


async def test_50_clients_that_went_leave_nothing_open(running: Program) -> None:
    assert running.record is not None
    port, path = running.record["port"], running.record["socket"]
    body = {"messages": said("hello"), "model": CHAT, "max_tokens": 3000, "stream": True}
    call = request("/mcp", tool_call("chat", prompt="x", max_tokens=3000), **tool_headers("chat"))
    ways = [
        request("/v1/chat/completions", body),
        request("/v1/chat/completions", {**body, "stream": False}),
        call,
        b"GET /sse HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127",
    ]
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "chat", "arguments": {"prompt": "x"}}},
    ]

    async def come_and_go(number: int) -> None:
        if number % 6 == 5:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ways[number % 6])
        await writer.drain()
        if number % 6 not in (1, 4):  # an answer begins to come; the others have none yet
            async with asyncio.timeout(LIMIT_S):
                await reader.read(1)
        writer.close()

    async def free() -> None:
        def is_free() -> bool:
            return not any(job["status"] in ("queued", "running") for job in running.data("jobs"))

        await until(is_free, "all jobs are over", LIMIT_S)

    await asyncio.gather(*(come_and_go(number) for number in range(6)))
    await free()
    node = process(running)
    files, threads = node.num_fds(), node.num_threads()
    for _ in range(5):
        await asyncio.gather(*(come_and_go(number) for number in range(10)))
    await free()
    await until(lambda: node.num_fds() <= files + SPARE_FILES, "their files are closed", LIMIT_S)
    assert node.num_threads() <= threads + 8  # asyncio's pool for work on the disk, which is bounded


def test_a_client_that_is_killed_behind_the_bridge_takes_its_job_along(running: Program) -> None:
    bridge = running.start("mcp", stdin=-1)
    assert bridge.stdin is not None
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    drawing = {"name": "generate_image", "arguments": {"model": IMAGE, "prompt": "x", "steps": 200, "tags": ["killed"]}}
    for message in (
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": drawing},
    ):
        bridge.stdin.write(json.dumps(message) + "\n")
    bridge.stdin.flush()
    with ended(bridge):
        _until_job(running, "running")
        os.kill(bridge.pid, signal.SIGKILL)
    _until_job(running, "cancelled")


def _until_job(program: Program, status: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not any(job["status"] == status and "killed" in job["tags"] for job in program.data("jobs")):
        assert time.monotonic() < end, f"the job is not {status}"


def test_connections_to_the_socket_beyond_its_bound_are_told_so(running: Program) -> None:
    assert running.record is not None
    clients = []
    try:
        for _ in range(65):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(LIMIT_S)
            client.connect(running.record["socket"])
            clients.append(client)
        clients[-1].sendall(b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}\n')
        assert b"connected to this node already" in clients[-1].recv(1 << 16)
    finally:
        for client in clients:
            client.close()
    assert Path(running.record["socket"]).exists()
