"""The real worker on a device that has a wired limit, as GPUs of Macs have: `python counting_worker.py FILE`. Every
limit that is set goes to FILE, as `name bytes`, and no wired limit is really set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx

from herd_mcp.engines import worker

SYSTEM_BYTES = 1 << 34


def note(name: str, *, really: bool) -> None:
    set_limit = getattr(mx, name)

    def noted(limit: int) -> Any:
        with Path(sys.argv[1]).open("a") as file:
            file.write(f"{name} {limit}\n")
        return set_limit(limit) if really else 0

    setattr(mx, name, noted)


def main() -> None:
    Path(sys.argv[1]).touch()
    for name in ("set_memory_limit", "set_cache_limit"):
        note(name, really=True)
    note("set_wired_limit", really=False)
    told = mx.device_info()
    mx.device_info = lambda *_: {**told, "max_recommended_working_set_size": SYSTEM_BYTES}
    worker.main()


if __name__ == "__main__":
    main()
