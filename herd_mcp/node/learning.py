"""What a node learns from what its engines tell and from how they end: their memory, which corrects the next plans, and
how fast they are, by which work is placed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from herd_mcp import pipe
from herd_mcp.node import samples
from herd_mcp.node.lanes import Engine, EngineKey, Lane, State
from herd_mcp.node.measured import Known, Measurements
from herd_mcp.node.rates import Place, Rates, Seen
from herd_mcp.node.relief import overgrown


class Learning:
    """Looks at the state and changes nothing in it. `clock`: the one that the state's times are of."""

    def __init__(self, state: State, clock: Callable[[], float] = time.monotonic) -> None:
        self._state = state
        self._clock = clock
        self.measured = Measurements()
        self.rates = Rates()
        self.on_learned: Callable[[str, int | None, Known], None] = lambda model, quantize, known: None
        """Called when something was learned of a model's memory, to store it."""
        self.on_rate: Callable[[Place, Seen], None] = lambda place, seen: None
        """Called when a rate was measured, to store it."""

    def heard(self, key: EngineKey, generation: int, message: pipe.Message) -> None:
        """What an engine said, before the state knows of it."""
        now = time.time()
        lane = self._state.lanes.get(key)
        engine = lane.engine if lane and lane.engine and lane.engine.generation == generation else None
        if isinstance(message, pipe.Ready):
            self._tell(key, self.measured.ready(key.model, key.quantize, message, now))
            if lane is not None and engine is not None and engine.phase == "starting" and not engine.condemned:
                self._learn(lane, [("load_s", self._clock() - engine.started_at)])
        elif isinstance(message, pipe.Done) and lane is not None:
            self._tell(key, self.measured.done(key.model, key.quantize, lane.plan.needs, message.facts, now))
            if engine is not None and message.facts.kind == lane.plan.spec.kind and not engine.broken:
                self._time(lane, engine, message)
        elif (
            isinstance(message, pipe.RunFailed)
            and message.error.details.get("out_of_memory") is True
            and lane is not None
            and engine is not None
            and not engine.condemned  # the first of its runs; the others die of the same
        ):
            self._died(key, lane, engine, now)

    def exiting(self, key: EngineKey, generation: int) -> None:
        """An engine is gone, which the state does not know yet. One that died while it worked, unasked, may have taken
        more than was computed; one that was ended for what it held did. One that lived on less gives some back."""
        lane = self._state.lanes.get(key)
        engine = lane.engine if lane else None
        if lane is None or engine is None or engine.generation != generation:
            return
        now = time.time()
        if overgrown(engine):
            # Nobody can say which part was too low: the load, or the work beside it.
            work_bytes = max(engine.lately_bytes - lane.plan.needs.load_bytes, 0)
            self._tell(key, self.measured.outgrown(key.model, key.quantize, engine.held_bytes - work_bytes, now))
        elif engine.condemned:
            if engine.phase == "ready":
                self._tell(key, self.measured.held_less(key.model, key.quantize, engine.most_bytes, now))
            return
        if engine.running:
            self._died(key, lane, engine, now)

    def _died(self, key: EngineKey, lane: Lane, engine: Engine, now: float) -> None:
        sizes = [run.size for run in engine.running.values()]
        self._tell(key, self.measured.died(key.model, key.quantize, lane.plan.needs, sizes, now))

    def _time(self, lane: Lane, engine: Engine, done: pipe.Done) -> None:
        """How fast the run was that has just ended."""
        run = engine.running.get(done.run)
        if run is None or run.started_at is None:
            return
        key, first, now = lane.plan.key, lane.plan.first, time.time()
        alone = samples.had_gpu_to_itself(self._state, engine, run.started_at)
        if isinstance(done.facts, pipe.ImageFacts):
            if alone:
                rates = self.rates.image(key.model, key.quantize, first, now)
                self._learn(lane, samples.of_image(run, done.facts, rates))
            return
        if alone:
            took_s = max(self._clock() - run.started_at, 1e-3)
            batch = (engine.streams_until(self._clock()) - run.streams_s) / took_s
            self._learn(lane, samples.of_chat(done.facts, batch))
        answer = self.rates.value(key.model, key.quantize, "answer", first, now)
        self._learn(lane, samples.of_words(run, done.facts, answer))

    def _learn(self, lane: Lane, measured: Iterable[samples.Sample]) -> None:
        key = lane.plan.key
        for figure, value in measured:
            place: Place = (key.model, key.quantize, figure)
            self.on_rate(place, self.rates.learn(place, lane.plan.first.of(figure), value, time.time()))

    def _tell(self, key: EngineKey, known: Known | None) -> None:
        if known is not None:
            self.on_learned(key.model, key.quantize, known)
