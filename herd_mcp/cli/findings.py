"""What a check of `doctor` gives."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """One thing that was looked at. `fix` is the command that mends it, or what to do."""

    check: str
    level: Literal["ok", "note", "broken"]
    text: str
    fix: str = ""
