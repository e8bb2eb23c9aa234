"""Makes the built-in models anew.

uv run --group training python -m training image|chat [ARGUMENTS]
"""

from __future__ import annotations

import sys
from importlib import import_module

KINDS = ("image", "chat")


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in KINDS:
        raise SystemExit(f"usage: python -m training {'|'.join(KINDS)} [ARGUMENTS]")
    import_module(f"training.{arguments[0]}.train").main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
