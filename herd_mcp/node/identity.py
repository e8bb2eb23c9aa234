"""Who this node is: an id made once and kept in HERD_HOME, so that job and image ids name their owner for good."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from herd_mcp.jobs import NODE_ID


def node_id(home: Path) -> str:
    """Read the id of the node of this home, or make one. `home/trust/` is 0700, the file 0600."""
    folder = home / "trust"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / "node_id"
    try:
        found = file.read_text().strip()
    except FileNotFoundError:
        found = ""
    if re.fullmatch(NODE_ID, found):
        return found
    made = secrets.token_hex(5)
    temporary = folder / f".node_id.{os.getpid()}"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(made + "\n")
    temporary.replace(file)
    return made
