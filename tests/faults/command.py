"""`herd-mcp` with engines that fall where told: `python command.py FOLDER POINT SIGNAL up …`, see worker.py."""

from __future__ import annotations

import sys
from pathlib import Path

from herd_mcp import __main__ as program
from herd_mcp.node import engines

if __name__ == "__main__":
    engines.WORKER = (sys.executable, "-P", str(Path(__file__).parent / "worker.py"), *sys.argv[1:4])
    sys.argv[1:4] = []
    program.main()
