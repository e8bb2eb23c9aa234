"""What MLX may hold in this process, and what it held."""

from __future__ import annotations

import logging

import mlx.core as mx

from herd_mcp.pipe import EngineSpec, Limit, Peak

log = logging.getLogger("herd_mcp.engine")


def set_limits(spec: EngineSpec) -> None:
    """Before anything is loaded. A limit that this device does not have is a line in the log."""
    if spec.memory_limit_bytes:
        mx.set_memory_limit(spec.memory_limit_bytes)
    if spec.cache_limit_bytes is not None:
        mx.set_cache_limit(spec.cache_limit_bytes)
    if spec.wired_limit_bytes:
        _wire(spec.wired_limit_bytes)


def keep_to(limit: Limit) -> None:
    """The part of a new limit that is the same for all engines: what is freed goes back to the system at once."""
    if limit.memory_limit_bytes:
        mx.set_memory_limit(limit.memory_limit_bytes)
    mx.clear_cache()


def _wire(wanted_bytes: int) -> None:
    most_bytes = mx.device_info().get("max_recommended_working_set_size")
    if most_bytes is None:
        log.warning("wired_limit_bytes is set, and this device has no such limit: nothing is wired")
        return
    try:
        mx.set_wired_limit(min(wanted_bytes, int(most_bytes)))  # more than the system allows would raise
    except (RuntimeError, ValueError) as error:
        log.warning("wired_limit_bytes is set, and the system refuses it: nothing is wired (%s)", error)


class Most:
    """The most that was worked on since the engine was last without work, and what MLX held then."""

    def __init__(self) -> None:
        self._rows = self._tokens = 0

    def begin(self) -> None:
        """Work comes to an engine that had none."""
        mx.reset_peak_memory()
        self._rows = self._tokens = 0

    def saw(self, rows: int = 0, tokens: int = 0) -> None:
        self._rows = max(self._rows, rows)
        self._tokens = max(self._tokens, tokens)

    def peak(self, prompt_cache_bytes: int = 0) -> Peak:
        active_bytes = mx.get_active_memory()
        return Peak(
            active_bytes=active_bytes,
            peak_bytes=max(active_bytes, mx.get_peak_memory()),
            rows=max(1, self._rows),
            tokens=self._tokens,
            prompt_cache_bytes=prompt_cache_bytes,
        )
