"""Asking another node: `PeerApi` over HTTP and TLS.

A node may have several addresses; the one that worked is tried first. Who answers is known by the name in its
certificate alone, and each node has connections of its own, so that none is taken for another's. All that is waited for
has a limit, and so has all that is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator
from typing import TypeVar

import httpx

from herd_mcp.fleet import dial, trouble, wire
from herd_mcp.fleet.places import merged
from herd_mcp.fleet.silence import socket_options
from herd_mcp.fleet.trust import dns_name
from herd_mcp.jobs import IMAGE_ID, ErrorCode, HerdError, Job
from herd_mcp.orders import GONE, PARTED, Accepted, Later, Line, Order
from herd_mcp.state import MAX_ADDRESSES, NodeState, OwnStats

KEPT_S = 30.0
"""How long an idle connection is kept: longer than the time between two states, shorter than servers keep it."""
MAX_CONNECTIONS = 1024
"""To one node; each attempt that waits or runs there has one."""
MAX_KEPT = 8
EXCHANGE_S = 5.0
ASK_S = 10.0
SUBMIT_S = 60.0
"""With the way of a picture over a slow Wi-Fi."""
END_S = 60.0
"""For a job's end after its cancel."""
FETCH_S = 120.0
"""For a picture; who needs longer goes on from where it was."""
DRAIN_S = 0.2
ORDERS = "/jobs"
T = TypeVar("T")

ENDS = frozenset({"completed", "failed", "cancelled", "returned"})


class Peers:
    """All other nodes that this process asks: one context, and what is open to each."""

    def __init__(self, context: ssl.SSLContext, lease_s: float) -> None:
        self._context, self._lease_s = context, lease_s
        self._peers: dict[str, HttpPeer] = {}

    def peer(self, node_id: str, addresses: Iterable[str]) -> HttpPeer:
        """The node, at the addresses that are known by now."""
        if (peer := self._peers.get(node_id)) is None:
            peer = self._peers[node_id] = HttpPeer(node_id, self._context, self._lease_s)
        peer.reach_at(addresses)
        return peer

    async def forget(self, node_id: str) -> None:
        """Close what is open to a node that is not of the herd any more."""
        if (peer := self._peers.pop(node_id, None)) is not None:
            await peer.aclose()

    async def aclose(self) -> None:
        for node_id in list(self._peers):
            await self.forget(node_id)


class HttpPeer:
    """One other node (`orders.PeerApi`)."""

    def __init__(self, node_id: str, context: ssl.SSLContext, lease_s: float) -> None:
        self.node_id = node_id
        self._context = context
        self._beat_s = wire.beat_s(lease_s)
        self._silence_s = wire.BEATS_MISSED * self._beat_s
        self._addresses: deque[str] = deque(maxlen=MAX_ADDRESSES)
        self._closed = False
        self._transport = httpx.AsyncHTTPTransport(
            verify=context,
            limits=httpx.Limits(
                max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_KEPT, keepalive_expiry=KEPT_S
            ),
            socket_options=socket_options(self._silence_s),
        )

    def reach_at(self, addresses: Iterable[str]) -> None:
        """Take over new addresses; one that worked stays first."""
        fit = merged(addresses)
        self._addresses = deque([*(old for old in self._addresses if old in fit)], MAX_ADDRESSES)
        self._addresses.extend(new for new in fit if new not in self._addresses)

    async def aclose(self) -> None:
        """Ask it nothing any more, nor hear the rest of what it says."""
        self._closed = True
        await self._transport.aclose()

    # ── questions ──

    async def exchange(self, state: NodeState) -> NodeState:
        answer = await self._ask("POST", "/state", EXCHANGE_S, wire.STATE_BYTES, content=wire.pack_state(state))
        with self._understood():
            theirs = wire.unpack_state(answer)
            if theirs.node_id != self.node_id:
                raise wire.invalid("it told the state of another node")
            return theirs

    async def submit(self, order: Order) -> Accepted:
        answer = await self._ask("POST", ORDERS, SUBMIT_S, read_s=ASK_S, content=wire.pack_order(order))
        with self._understood():
            return wire.read(Accepted, answer)

    async def follow(self, job_id: str, attempt: int, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        query = f"attempt={attempt}&after_seq={after_seq}&beat_s={self._beat_s:g}"
        async with contextlib.aclosing(self._lines(f"{_job(job_id)}/events?{query}")) as lines:
            async for line in lines:
                if line.attempt != attempt:
                    raise self._garbage("it told of another attempt")
                yield line

    async def watch(self, job_id: str, after_seq: int = 0) -> AsyncGenerator[Line, None]:
        query = f"after_seq={after_seq}&beat_s={self._beat_s:g}"
        async with contextlib.aclosing(self._lines(f"{_job(job_id)}/events?{query}")) as lines:
            async for line in lines:
                yield line

    async def cancel(self, job_id: str, attempt: int) -> None:
        await self._ask("DELETE", f"{_job(job_id)}?attempt={attempt}", ASK_S)

    async def take_back(self, job_id: str, attempt: int) -> bool:
        answer = await self._ask("POST", f"{_job(job_id)}/take-back?attempt={attempt}", ASK_S)
        with self._understood():
            told = wire.parse(answer)
            if not isinstance(told, dict) or not isinstance(told.get("taken_back"), bool):
                raise wire.invalid("taken_back: is required")
            return bool(told["taken_back"])

    async def job(self, job_id: str) -> Job:
        return self._job(job_id, await self._ask("GET", _job(job_id), ASK_S, wire.ORDER_BYTES))

    async def cancel_job(self, job_id: str) -> Job:
        return self._job(job_id, await self._ask("DELETE", _job(job_id), END_S, wire.ORDER_BYTES))

    async def stats(self) -> OwnStats:
        answer = await self._ask("GET", "/stats", ASK_S)
        with self._understood():
            return wire.read(OwnStats, answer)

    async def image(self, image_id: str) -> bytes:
        if not IMAGE_ID.fullmatch(image_id):
            raise HerdError(ErrorCode.IMAGE_NOT_FOUND, "There is no such image.")
        return await self._ask("GET", f"/images/{image_id}", FETCH_S, wire.IMAGE_BYTES)

    async def blob(self, sha256: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        if not wire.SHA256.fullmatch(sha256):
            raise HerdError(ErrorCode.IMAGE_NOT_FOUND, "There is no such picture.")
        range_ = {"range": f"bytes={offset}-"} if offset else {}
        async with self._asked("GET", f"/blobs/{sha256}", ASK_S, ASK_S, headers=range_) as response:
            if offset and response.status_code != 206:
                raise self._garbage("it began a picture anew that was asked for from its middle")
            left = wire.IMAGE_BYTES - offset
            end_at = asyncio.get_running_loop().time() + FETCH_S
            async with contextlib.aclosing(self._parts(response)) as parts:
                while (part := await self._before(end_at, anext(parts, None))) is not None:
                    left -= len(part)
                    if left < 0:
                        raise self._garbage(f"a picture of more than {wire.IMAGE_BYTES} bytes")
                    yield part

    def _job(self, job_id: str, answer: bytes) -> Job:
        with self._understood():
            job = wire.read(Job, answer)
            if job.id != job_id:
                raise wire.invalid("it told of another job")
            return wire.told_job(job)

    # ── how ──

    async def _ask(
        self,
        method: str,
        path: str,
        limit_s: float,
        max_bytes: int = wire.ANSWER_BYTES,
        *,
        read_s: float | None = None,
        content: bytes = b"",
    ) -> bytes:
        """The whole answer, in time. `read_s`: a shorter limit for its beginning once all was sent, and its parts."""
        try:
            async with (
                asyncio.timeout(limit_s),
                self._asked(method, path, limit_s, read_s or limit_s, content=content) as response,
            ):
                return await self._body(response, max_bytes)
        except TimeoutError as error:
            raise trouble.of_failure(error, self._at) from None

    @contextlib.asynccontextmanager
    async def _asked(
        self,
        method: str,
        path: str,
        limit_s: float,
        read_s: float,
        *,
        content: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> AsyncGenerator[httpx.Response, None]:
        """An answer whose head came within `limit_s`, and which goes on at least every `read_s`. Raises the error that
        it is."""
        try:
            async with asyncio.timeout(limit_s):
                response = await self._head(method, path, content, headers or {}, read_s)
                try:
                    with self._understood():
                        wire.check_version(response.headers.get(wire.VERSION_HEADER, ""))
                    if not 200 <= response.status_code < 300:
                        raise self._refusal(path, await self._body(response, wire.ANSWER_BYTES))
                except BaseException:
                    await response.aclose()
                    raise
        except TimeoutError as error:
            raise trouble.of_failure(error, self._at) from None
        try:
            yield response
        finally:
            await response.aclose()

    async def _head(
        self, method: str, path: str, content: bytes, headers: dict[str, str], read_s: float
    ) -> httpx.Response:
        """Ask at one address after the other, until one lets us in."""
        waits = {"connect": dial.CONNECT_S, "pool": dial.CONNECT_S, "read": read_s, "write": self._silence_s}
        failures: list[tuple[Exception, str]] = []
        for address in list(self._addresses):
            if self._closed:
                raise trouble.lost(PARTED, self.node_id, "is in no herd with this one any more")
            request = httpx.Request(
                method,
                f"https://{address}{wire.ROOT}{path}",
                headers={wire.VERSION_HEADER: wire.VERSION, **headers},
                content=content or None,
                extensions={"timeout": waits, "sni_hostname": dns_name(self.node_id)},
            )
            try:
                response = await self._transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failures.append((error, address))
                self._move(address, to_front=False)
            except (httpx.NetworkError, httpx.RemoteProtocolError, ssl.SSLError) as error:
                raise await self._reason(error, address) from None
            except httpx.TransportError as error:
                raise trouble.of_failure(error, address) from None
            else:
                self._move(address, to_front=True)
                return response
        if not failures:
            raise trouble.lost("unreachable", self.node_id, "has no address that is known")
        told = [trouble.of_failure(error, address) for error, address in failures]
        # Of several addresses one may be of another machine by now: the node is gone if it is at all of them.
        found = next((one for (error, _), one in zip(failures, told, strict=True) if trouble.of_tls(error)), None)
        raise found or next((one for one in told if one.info.details.get("reason") != GONE), told[0]) from None

    async def _reason(self, error: Exception, address: str) -> HerdError:
        """Why a connection ended without an answer."""
        try:
            if await dial.is_refused(address, self._context, self.node_id):
                return trouble.refused(address)
        except OSError as gone:
            return trouble.of_failure(gone, address)
        return trouble.of_failure(error, address)

    def _move(self, address: str, *, to_front: bool) -> None:
        """Remember whether an address worked; new ones may have come while it was tried."""
        if address in self._addresses and self._addresses[0 if to_front else -1] != address:
            self._addresses.remove(address)
            (self._addresses.appendleft if to_front else self._addresses.append)(address)

    async def _parts(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The bytes as they come, never unpacked."""
        assert isinstance(response.stream, httpx.AsyncByteStream)
        try:
            async for part in response.stream:
                yield part
        except (httpx.TransportError, ssl.SSLError) as error:
            raise trouble.of_failure(error, self._at) from None

    async def _before(self, end_at: float, part: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout_at(end_at):
                return await part
        except TimeoutError as error:
            raise trouble.of_failure(error, self._at) from None

    async def _body(self, response: httpx.Response, max_bytes: int) -> bytes:
        body = bytearray()
        async with contextlib.aclosing(self._parts(response)) as parts:
            async for part in parts:
                body += part
                if len(body) > max_bytes:
                    raise self._garbage(f"an answer of more than {max_bytes} bytes")
        return bytes(body)

    async def _drain(self, parts: AsyncGenerator[bytes, None]) -> None:
        """Read what is left of an answer, so that its connection serves the next question. Nobody waits long for it."""
        end_at = asyncio.get_running_loop().time() + DRAIN_S
        with contextlib.suppress(HerdError):
            while await self._before(end_at, anext(parts, None)) is not None:
                pass

    async def _lines(self, path: str) -> AsyncGenerator[Line, None]:
        """The lines of a stream to the event that ends it. Raises node_lost where that does not come."""
        loop = asyncio.get_running_loop()
        async with self._asked("GET", path, ASK_S, self._silence_s) as response:
            rest, heard_at, size = bytearray(), loop.time(), 0
            async with contextlib.aclosing(self._parts(response)) as parts:
                while (part := await self._before(heard_at + self._silence_s, anext(parts, None))) is not None:
                    size += len(part)
                    with self._understood():
                        raws = [raw for raw in wire.split_lines(rest, part) if raw]
                    for raw in raws:
                        with self._understood():
                            line = wire.unpack_line(raw, size)
                        size = 0
                        if line.event is not None and line.event.type in ENDS:
                            await self._drain(parts)
                            yield line
                            return
                        yield line
                    if raws:
                        heard_at = loop.time()  # bytes alone are no sign of life
        raise trouble.lost("broken", self._at, "ended its answer in the middle")

    def _refusal(self, path: str, answer: bytes) -> Exception:
        with self._understood():
            told = wire.parse(answer)
            if path == ORDERS and isinstance(told, dict) and "finish_s" in told:
                later = wire.read(wire.LaterWord, answer)
                return Later(later.finish_s, later.state)
            error = wire.unpack_error(told)
            if isinstance(error, wire.Garbled):
                raise error
            return error

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except wire.Garbled as error:
            raise self._garbage(error.info.message) from None

    def _garbage(self, words: str) -> HerdError:
        return trouble.lost("garbage", self._at, f"said what is not understood: {words.rstrip('.')}")

    @property
    def _at(self) -> str:
        """The address that is tried first."""
        return self._addresses[0] if self._addresses else self.node_id


def _job(job_id: str) -> str:
    wire.check_job(job_id)
    return f"/jobs/{job_id}"
