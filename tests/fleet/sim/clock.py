"""An asyncio loop in virtual time, shared by several simulated Macs: each can sleep, be stopped, and die.

When nothing is ready, time jumps to the next timer. Threads run inline. A callback belongs to the Mac in whose context
it was made; `HOST` tells which. Nothing here knows what the Macs do.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import selectors
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")

HOST: contextvars.ContextVar[Host | None] = contextvars.ContextVar("host", default=None)


class Stuck(AssertionError):
    """Nothing can happen any more, or too much happens."""


class Host:
    """A Mac, as the loop knows it: one process on it, from its start to its end."""

    def __init__(self, loop: VirtualLoop, name: str, behind_s: float = 0.0) -> None:
        self.loop = loop
        self.name = name
        self.behind_s = behind_s
        """How much of the loop's time this Mac's own clock did not see, since it slept."""
        self.asleep = False
        self.dead = False
        self.context = contextvars.copy_context()
        self.context.run(HOST.set, self)
        self.parked: deque[events.Handle] = deque()
        self.timers: list[_Timer] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self._slept_at = 0.0

    def spawn(self, work: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """Run something on this Mac."""
        task: asyncio.Task[T] = self.loop.create_task(work, name=name or None, context=self.context)
        return task

    async def sleep(self) -> None:
        """From now on nothing runs here."""
        await self.loop.between(self._sleep)

    async def wake(self, *, clock_stood: bool) -> None:
        """Everything runs on. `clock_stood`: its clock stood still (a Mac that slept), else its timers are late (a
        process that was stopped)."""
        await self.loop.between(lambda: self._wake(clock_stood))

    async def die(self) -> None:
        """All that runs here ends, and can tell nobody."""
        self.dead = True
        if self.asleep:
            await self.wake(clock_stood=False)
        for _ in range(100):
            left = [task for task in self.tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
        else:
            raise Stuck(f"tasks of {self.name} outlive it: {left}")
        await self.loop.between(self._bury)

    def _sleep(self) -> None:
        self.asleep, self._slept_at = True, self.loop.now
        loop = self.loop
        self.parked.extend(handle for handle in loop._ready if host_of(handle) is self)
        loop._ready = deque(handle for handle in loop._ready if host_of(handle) is not self)
        self.timers += loop.take_timers(self)

    def _wake(self, clock_stood: bool) -> None:
        if not self.asleep:
            return
        self.asleep = False
        slept_s = self.loop.now - self._slept_at
        if clock_stood:
            self.behind_s += slept_s
        for timer in self.timers:
            if not timer.cancelled():
                if clock_stood:
                    timer._when += slept_s
                self.loop.put_timer(timer)
        self.timers = []
        self.loop._ready.extend(self.parked)
        self.parked.clear()

    def _bury(self) -> None:
        self.loop.take_timers(self)
        self.tasks.clear()


class _Timer(asyncio.TimerHandle):
    """`_when` is of the loop, `when()` of the Mac that it belongs to."""

    _when: float
    _scheduled: bool

    def __init__(self, number: int, *args: Any) -> None:
        super().__init__(*args)
        self._number = number
        """Timers of one moment ring in the order in which they were set."""

    def __lt__(self, other: object) -> bool:
        assert isinstance(other, _Timer)
        return (self._when, self._number) < (other._when, other._number)

    def when(self) -> float:
        host = host_of(self)
        return self._when - (host.behind_s if host else 0.0)


def host_of(handle: events.Handle) -> Host | None:
    context: contextvars.Context = handle._context  # type: ignore[attr-defined]
    return context.get(HOST)


class _Jump(selectors.DefaultSelector):
    """Waits for nothing: time passes instead."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            self.loop.jump(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """`most_s` and `most_rounds` are the bounds of a run."""

    _ready: deque[events.Handle]
    _scheduled: list[_Timer]

    def __init__(self, most_s: float = 6_000.0, most_rounds: int = 3_000_000) -> None:
        self.now = 1_000.0
        selector = _Jump()
        selector.loop = self
        super().__init__(selector)
        self._end_s, self._rounds = self.now + most_s, most_rounds
        self._numbers = count()
        self._between: list[tuple[Callable[[], None], asyncio.Future[None]]] = []

    def time(self) -> float:
        """Seconds of the clock of the Mac that asks."""
        host = HOST.get()
        return self.now - host.behind_s if host else self.now

    def jump(self, seconds: float | None) -> None:
        if seconds is None:
            raise Stuck("nothing can happen any more")
        self.now += seconds
        if self.now > self._end_s:
            raise Stuck("the time of this run is over")

    async def between(self, act: Callable[[], None]) -> None:
        """Do something while no callback runs."""
        future = self.create_future()
        self._between.append((act, future))
        await future

    def take_timers(self, host: Host) -> list[_Timer]:
        """All timers of a Mac, out of the loop."""
        taken = [timer for timer in self._scheduled if host_of(timer) is host]
        self._scheduled = [timer for timer in self._scheduled if host_of(timer) is not host]
        heapq.heapify(self._scheduled)
        for timer in taken:
            timer._scheduled = False
        return sorted(taken, key=lambda timer: timer._when)

    def put_timer(self, timer: _Timer) -> None:
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True

    # ── what asyncio asks ──

    def _run_once(self) -> None:
        self._rounds -= 1
        if self._rounds < 0:
            raise Stuck("more happens than can be meant")
        for act, future in self._between:
            act()
            future.set_result(None)
        self._between.clear()
        super()._run_once()  # type: ignore[misc]

    def _call_soon(
        self, callback: Callable[..., object], args: Any, context: contextvars.Context | None
    ) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        host = host_of(handle)
        (host.parked if host and host.asleep else self._ready).append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(next(self._numbers), when, callback, args, self, context)
        host = host_of(timer)
        if host is None or not host.asleep:
            timer._when += host.behind_s if host else 0.0
            self.put_timer(timer)
        else:
            timer._when += host.behind_s
            host.timers.append(timer)
        return timer

    def create_task(  # type: ignore[override]
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None
    ) -> Any:
        task = super().create_task(coro, name=name, context=context)
        host = (context or contextvars.copy_context()).get(HOST)
        if host is not None:
            if len(host.tasks) > 200:
                host.tasks = {other: None for other in host.tasks if not other.done()}
            host.tasks[task] = None
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """At once: the time that threads take is no part of a run."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]], most_s: float = 6_000.0) -> T:
    """Run `main` in a virtual loop of its own, to its end."""
    loop = VirtualLoop(most_s)
    asyncio.set_event_loop(loop)
    mistakes: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: mistakes.append(context))
    try:
        result = loop.run_until_complete(main(loop))
        assert not mistakes, f"nobody caught: {mistakes[:3]}"
        return result
    finally:
        asyncio.set_event_loop(None)
        _end(loop)


def _end(loop: VirtualLoop) -> None:
    """Nothing of the run is left."""
    loop._rounds, loop._end_s = 100_000, loop.now + 3_600
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    try:
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=600))
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
