"""What a node learns of its engines' memory, from what they tell and from how they end: it corrects the next plans."""

from __future__ import annotations

import time
from collections.abc import Callable

from herd_mcp import pipe
from herd_mcp.node.lanes import Engine, EngineKey, Lane, State
from herd_mcp.node.measured import Known, Measurements
from herd_mcp.node.relief import overgrown


class Learning:
    """Looks at the state and changes nothing in it."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.measured = Measurements()
        self.on_learned: Callable[[str, int | None, Known], None] = lambda model, quantize, known: None
        """Called when something was learned of a model, to store it."""

    def heard(self, key: EngineKey, message: pipe.Message) -> None:
        now = time.time()
        lane = self._state.lanes.get(key)
        if isinstance(message, pipe.Ready):
            self._tell(key, self.measured.ready(key.model, key.quantize, message, now))
        elif isinstance(message, pipe.Done) and lane is not None:
            self._tell(key, self.measured.done(key.model, key.quantize, lane.plan.needs, message.facts, now))
        elif (
            isinstance(message, pipe.RunFailed)
            and lane is not None
            and message.error.details.get("out_of_memory") is True
        ):
            engine = lane.engine
            if engine is not None and not engine.condemned:  # the first of its runs; the others die of the same
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

    def _tell(self, key: EngineKey, known: Known | None) -> None:
        if known is not None:
            self.on_learned(key.model, key.quantize, known)
