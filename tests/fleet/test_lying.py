"""A member of the herd that answers garbage, too much, too slowly, or without end: each question ends, in bounds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import pytest

from herd_mcp.fleet import peers as peers_room
from herd_mcp.fleet import wire
from herd_mcp.fleet.peers import HttpPeer, Peers
from herd_mcp.fleet.remote import RemoteRunner
from herd_mcp.jobs import ChatRequest, Delta, ErrorCode, Failed, HerdError, Message, Progress
from herd_mcp.orders import Line
from tests.conftest import until

from .certificates import Authority
from .scripted import ALPHA, BETA, IMAGE_ID, LEASE_S, LIMIT_S, SHA256, job_id_of, order_of, state_of

MIB = 1024 * 1024
HEAD = f"HTTP/1.1 200 OK\r\n{wire.VERSION_HEADER}: {wire.VERSION}\r\n".encode()
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
Say = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Liar:
    """Answers every request alike, and counts what was taken of it."""

    def __init__(self) -> None:
        self.say: Say = nothing
        self.sent = 0
        self.talks = 0
        """Connections on which it still says something."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            write = writer.write

            def counted(data: bytes) -> None:
                self.sent += len(data)
                write(data)

            writer.write = counted  # type: ignore[method-assign,assignment]
            self.talks += 1
            try:
                await self.say(writer)
            finally:
                self.talks -= 1
        writer.transport.abort()


async def nothing(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(600)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    pass


def says(data: bytes) -> Say:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(600)

    return say


def body(data: bytes, *headers: bytes) -> Say:
    lines = b"".join(header + b"\r\n" for header in (*headers, b"content-length: %d" % len(data)))
    return says(HEAD + lines + b"\r\n" + data)


def endless(head: bytes, part: bytes, pause_s: float = 0.0) -> Say:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return say


LINE = wire.pack_line(Line(attempt=1))
LIES: dict[str, Say] = {
    "nothing": nothing,
    "hangs up": hang_up,
    "no HTTP": says(b"SSH-2.0-OpenSSH\r\n\r\n"),
    "no version": says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"),
    "another version": says(HEAD.replace(wire.VERSION.encode(), b"7.0") + b"content-length: 2\r\n\r\n{}"),
    "half": says(HEAD + b"content-length: 100\r\n\r\n{"),
    "an error without words": says(HEAD.replace(b"200 OK", b"500 No") + b"content-length: 4\r\n\r\noops"),
    "later": says(HEAD.replace(b"200 OK", b"409 No") + b'content-length: 15\r\n\r\n{"finish_s": 1}'),
    "a redirect": says(HEAD.replace(b"200 OK", b"302 No") + b"location: http://x/\r\ncontent-length: 2\r\n\r\n{}"),
    "endless heads": endless(b"HTTP/1.1 200 OK\r\n", b"x: " + b"y" * 1000 + b"\r\n"),
    "endless hints": endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.001),
    "endless error": endless(CHUNKED.replace(b"200 OK", b"500 No"), b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "a slow head": endless(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", 0.05),
}
"""No question has an answer here, but that to an order: it may be done later."""

BODIES: dict[str, Say] = {
    "100 MB": endless(HEAD + b"content-length: 100000000\r\n\r\n", b"x" * 65536),
    "endless": endless(CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "drop by drop": endless(CHUNKED, b"1\r\nx\r\n", 0.05),
    "cut off": endless(HEAD + b"content-length: 100000000\r\n\r\n", b"", 600),
}
MESSAGES: dict[str, Say] = {
    "empty": body(b""),
    "no JSON": body(b"garbage\n"),
    "other JSON": body(b"[1, 2]\n"),
    "deep": body(b"[" * 10_000 + b"]" * 10_000 + b"\n"),
    "no numbers": body(b'{"attempt": NaN, "queued": 1e400}\n'),
    "packed": body(b"\x1f\x8b" + b"x" * 1000, b"content-encoding: gzip"),
}

QUESTIONS: dict[str, Callable[[HttpPeer], Awaitable[object]]] = {
    "exchange": lambda beta: beta.exchange(state_of(ALPHA)),
    "submit": lambda beta: beta.submit(order_of(ALPHA)),
    "cancel": lambda beta: beta.cancel(job_id_of(ALPHA), 1),
    "take_back": lambda beta: beta.take_back(job_id_of(ALPHA), 1),
    "job": lambda beta: beta.job(job_id_of(BETA)),
    "cancel_job": lambda beta: beta.cancel_job(job_id_of(BETA)),
    "stats": lambda beta: beta.stats(),
    "image": lambda beta: beta.image(IMAGE_ID),
    "blob": lambda beta: emptied(beta.blob(SHA256)),
    "follow": lambda beta: emptied(beta.follow(job_id_of(ALPHA), 1)),
    "watch": lambda beta: emptied(beta.watch(job_id_of(BETA))),
}
PICTURES = {"image", "blob"}
HEEDLESS = {"cancel"}
"""What is said to it is not looked at."""


async def emptied(parts: AsyncGenerator[object, None]) -> None:
    async for _ in parts:
        pass


@contextlib.asynccontextmanager
async def lied_to() -> AsyncIterator[tuple[HttpPeer, Liar]]:
    authority, liar = Authority(), Liar()
    server = await asyncio.start_server(liar, "127.0.0.1", 0, ssl=authority.member(BETA).server())
    port = server.sockets[0].getsockname()[1]
    peers = Peers(authority.member(ALPHA).client(), LEASE_S)
    try:
        yield peers.peer(BETA, [f"127.0.0.1:{port}"]), liar
    finally:
        await peers.aclose()
        server.close()
        for task in asyncio.all_tasks():
            if getattr(task.get_coro(), "__qualname__", "") == "Liar.__call__":
                task.cancel()
        await server.wait_closed()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EXCHANGE_S", "ASK_S", "SUBMIT_S", "END_S", "FETCH_S"):
        monkeypatch.setattr(peers_room, name, 1.0)
    monkeypatch.setattr(wire, "IMAGE_BYTES", 4 * MIB)
    monkeypatch.setattr(wire, "ORDER_BYTES", 4 * MIB)
    monkeypatch.setattr(wire, "LINE_BYTES", 4 * MIB)


async def outcome(question: str, beta: HttpPeer) -> HerdError | None:
    try:
        async with asyncio.timeout(LIMIT_S):
            await QUESTIONS[question](beta)
    except HerdError as error:
        return error
    return None


@pytest.mark.parametrize("lie", LIES)
async def test_no_question_is_answered_by_what_is_no_answer(lie: str) -> None:
    async with lied_to() as (beta, liar):
        liar.say = LIES[lie]
        questions = [question for question in QUESTIONS if (question, lie) != ("submit", "later")]
        errors = await asyncio.gather(*(outcome(question, beta) for question in questions))
        for question, error in zip(questions, errors, strict=True):
            assert error is not None, question
            assert error.info.code == (ErrorCode.FORBIDDEN if lie == "another version" else ErrorCode.NODE_LOST)
            assert error.info.retryable == (lie != "another version")
        assert liar.sent < len(QUESTIONS) * 8 * MIB


@pytest.mark.parametrize("lie", BODIES)
async def test_too_long_an_answer_is_not_read_to_its_end(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if lie in ("endless", "100 MB"):  # ended by what they are, and not by how long they take
        for name in ("EXCHANGE_S", "ASK_S", "SUBMIT_S", "END_S", "FETCH_S"):
            monkeypatch.setattr(peers_room, name, LIMIT_S)
    async with lied_to() as (beta, liar):
        liar.say = BODIES[lie]
        errors = await asyncio.gather(*(outcome(question, beta) for question in QUESTIONS))
        assert [error and error.info.code for error in errors] == [ErrorCode.NODE_LOST] * len(QUESTIONS)
        if lie in ("endless", "100 MB"):
            reasons = {error.info.details["reason"] for error in errors if error}
            assert reasons == {"garbage"}
            assert liar.sent < len(QUESTIONS) * 12 * MIB, "a bound, and what the sockets hold"


@pytest.mark.parametrize("lie", MESSAGES)
async def test_an_answer_that_says_something_else_is_not_believed(lie: str) -> None:
    async with lied_to() as (beta, liar):
        liar.say = MESSAGES[lie]
        questions = [question for question in QUESTIONS if question not in PICTURES | HEEDLESS]
        errors = await asyncio.gather(*(outcome(question, beta) for question in questions))
        for question, error in zip(questions, errors, strict=True):
            assert error is not None, question
            assert error.info.code == ErrorCode.NODE_LOST, question


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("exchange", wire.pack_state(state_of(ALPHA))),
        ("job", b'{"id": "%s", "kind": "chat", "client": "x", "created_at": 1}' % job_id_of(BETA, 2).encode()),
        ("follow", wire.pack_line(Line(attempt=2))),
    ],
)
async def test_an_answer_about_another_is_not_believed(question: str, answer: bytes) -> None:
    async with lied_to() as (beta, liar):
        liar.say = body(answer)
        error = await outcome(question, beta)
        assert error is not None
        assert error.info.details["reason"] == "garbage"


async def test_a_picture_that_begins_anew_is_not_taken_for_its_rest() -> None:
    async with lied_to() as (beta, liar):
        liar.say = body(b"x" * 1000)
        with pytest.raises(HerdError, match="began a picture anew"):
            await emptied(beta.blob(SHA256, 500))


async def test_a_stream_that_only_says_that_it_lives_can_be_left() -> None:
    async with lied_to() as (beta, liar):
        liar.say = endless(CHUNKED, b"%x\r\n%s\r\n" % (len(LINE), LINE), 0.001)
        lines = beta.follow(job_id_of(ALPHA), 1)
        async with asyncio.timeout(LIMIT_S):
            for _ in range(100):
                assert (await anext(lines)).event is None
            await lines.aclose()


# ── An attempt that it runs ──


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def lines_of(seq: int, event: Delta | Progress, count: int = 500) -> bytes:
    """So many lines in one part, numbered on."""
    return b"".join(wire.pack_line(Line(attempt=1, seq=seq + i, event=event)) for i in range(count))


def numbered(event: Delta | Progress) -> Say:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        seq = 1
        while True:
            writer.write(chunk(lines_of(seq, event)))
            seq += 500
            await writer.drain()
            await asyncio.sleep(0)

    return say


FLOODS: dict[str, Say] = {
    "tokens": numbered(Delta(text="a")),
    "steps": numbered(Progress(step=1, steps=2)),
    "beats": endless(CHUNKED, chunk(LINE * 1000)),
    "the same again": endless(CHUNKED, chunk(lines_of(1, Delta(text="a")))),
    "empty lines": endless(CHUNKED, chunk(b"\n" * 65536 + LINE)),
    "long lines": endless(CHUNKED, chunk(b'{"attempt": 1, "more": "%s"}\n' % (b"x" * MIB))),
    "a line without end": endless(CHUNKED + chunk(LINE), chunk(b"x" * 65536)),
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_runner_that_tells_more_than_the_job_can_have_is_lost_and_hung_up_on(flood: str) -> None:
    request = ChatRequest(messages=(Message(role="user", content="hello"),), max_tokens=10)
    order = order_of(ALPHA)
    order = order.model_copy(update={"job": order.job.model_copy(update={"request": request})})
    async with lied_to() as (beta, liar):
        liar.say = FLOODS[flood]
        runner = RemoteRunner(BETA, "beta", beta, 600.0, 600.0)
        told = 0

        def heard(event: object) -> None:
            nonlocal told
            told += 1

        async with asyncio.timeout(LIMIT_S):
            ending = await runner.run(order, heard)
        assert isinstance(ending, Failed)
        assert ending.error.code == ErrorCode.NODE_LOST, "so the job goes on elsewhere"
        assert "beta" in ending.error.message
        await until(lambda: not liar.talks and not runner._beside, "it is hung up on")
        assert told < 25_000
        assert liar.sent < 32 * MIB
