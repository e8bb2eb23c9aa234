"""`herd-mcp` and `python -m herd_mcp`: MCP over stdio starts before anything large is imported."""

from __future__ import annotations

import os
import stat
import sys


def main() -> int:
    """Run the program. As MCP server on stdin when asked by `mcp`, or by a pipe and no arguments; else as a command."""
    words = sys.argv[1:]
    if words == ["mcp"] or (not words and _piped()):
        from herd_mcp import bridge

        code = bridge.main()
        os._exit(code)  # the thread that reads stdin would hold up a normal end
    from herd_mcp.cli.main import run

    run()


def _piped() -> bool:
    """Whether a program is at the other end of stdin: a pipe or, as some clients start us, a socket."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


if __name__ == "__main__":
    sys.exit(main())
