"""`herd-mcp` with engines of a fixed pace: `python command.py PACE up …`, see engine.py."""

from __future__ import annotations

import sys
from pathlib import Path

from herd_mcp import __main__ as program
from herd_mcp.node import engines

if __name__ == "__main__":
    engines.WORKER = (sys.executable, "-IS", str(Path(__file__).parent / "engine.py"), sys.argv[1])
    sys.argv[1:2] = []
    program.main()
