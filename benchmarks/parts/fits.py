"""The table of docs/memory.md: which well-known models fit on which Mac, by the node's own arithmetic.

`python -m benchmarks.parts.fits` writes it into the page; a test compares the two.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.parts.known_models import CHATS, IMAGES, MACS_GIB, KnownChat, KnownImage
from herd_mcp.node import memory
from herd_mcp.node.memory import Needs
from herd_mcp.settings import GIB, Settings

PAGE = Path(__file__).parent.parent.parent / "docs" / "memory.md"
BEGIN, END = "<!-- made by: python -m benchmarks.parts.fits -->\n", "<!-- end -->\n"
PX = 1024 * 1024
LEAST_TOKENS = 1024
PROMPT_CACHE_BYTES = int(Settings.model_fields["prompt_cache_bytes"].default)


def chat(model: KnownChat, budget: int) -> Needs:
    share = memory.prompt_cache_share(PROMPT_CACHE_BYTES, budget, builtin=False)
    return memory.chat_needs(model.config, model.weights_bytes, prompt_cache_bytes=share, fused=True)


def budget_of(mac_gib: int) -> int:
    return memory.budget_bytes(
        Settings.model_construct(memory_budget_bytes=None, memory_floor_bytes=None), mac_gib * GIB
    )


def chat_cell(model: KnownChat, mac_gib: int) -> str:
    """The longest conversation alone, and of four at once."""
    budget = budget_of(mac_gib)
    needs = chat(model, budget)
    alone, four = (memory.longest_tokens(needs, budget, model.context_tokens, rows) for rows in (1, 4))
    if alone < LEAST_TOKENS:
        return "no"
    return f"{_tokens(alone)}" + (f" · 4 × {_tokens(four)}" if four >= LEAST_TOKENS else " · one at a time")


def image_cell(model: KnownImage, mac_gib: int) -> str:
    needs = memory.image_needs(model.family, model.weights_bytes, builtin=False)
    return "yes" if needs.bytes_for([PX]) <= budget_of(mac_gib) else "no"


def table() -> str:
    macs = [f"{gib} GB" for gib in MACS_GIB]
    lines = [f"| chat model, 4 bits | weights | {' | '.join(macs)} |", "|---" * (len(macs) + 2) + "|"]
    for known in CHATS:
        cells = [chat_cell(known, gib) for gib in MACS_GIB]
        lines.append(f"| {known.name} | {known.weights_bytes / GIB:.1f} GiB | {' | '.join(cells)} |")
    lines += [
        "",
        f"| image model, 8 bits, 1024 × 1024 | weights | {' | '.join(macs)} |",
        "|---" * (len(macs) + 2) + "|",
    ]
    for image in IMAGES:
        cells = [image_cell(image, gib) for gib in MACS_GIB]
        lines.append(f"| {image.name} | {image.weights_bytes / GIB:.1f} GiB | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _tokens(tokens: int) -> str:
    return f"{tokens // 1024}k"


def page_with(text: str) -> str:
    """The page with the table made anew."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text("utf-8")), "utf-8")
    sys.stdout.write(table())
