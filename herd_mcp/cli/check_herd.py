"""What `doctor` says of the other Macs of the herd. They are asked by the node, for macOS may let a terminal into the
local network and a program in the background not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from herd_mcp.cli.console import human_s
from herd_mcp.cli.findings import Finding
from herd_mcp.jobs import HerdError

if TYPE_CHECKING:
    from herd_mcp.fleet.words import PeerCheck

CLOCK_S = 60.0
"""Clocks that differ by more are told: certificates have their times."""
HERE = frozenset({"local_network", "refused", "expired", "another_herd", "name", "tls", "wire"})
"""Reasons that do not go away by themselves. Others may be a Mac that is off or asleep."""
ASLEEP = "Wake that Mac; `herd-mcp up` starts its node. If it is for ever gone: herd-mcp leave --node {}"


def herd() -> Iterable[Finding]:
    """Each other Mac of the herd, asked by the node of this home."""
    from herd_mcp.cli.client import find_node

    try:
        node = find_node()
        told, checks = node.status(), node.check()
    except HerdError:
        return  # told by `node`
    own = told.nodes[0]
    for advice in told.health.recommendations:
        if advice.check_id == "apart":
            yield Finding("herd", "broken", f"{advice.title}: {advice.description}", advice.fix)
            return  # no other can be asked
    for check in checks:
        yield of_peer(check, own.version)
        if check.ahead_s > CLOCK_S:
            text = f"the clock of {check.name} is at least {human_s(check.ahead_s)} ahead of this Mac's"
            yield Finding("herd", "note", text, "Let both set the time by themselves: System Settings > General.")
    for stranger in told.strangers:
        yield Finding("herd", "note", f"not let in: {stranger}", "herd-mcp invite lets a Mac into this herd")


def of_peer(check: PeerCheck, version: str) -> Finding:
    """One Mac: how long its answer took, or why there was none and what mends it."""
    where = f" ({check.addresses[0]})" if check.addresses else ""
    if check.took_s is not None:
        text = f"{check.name}{where} answers in {check.took_s * 1000:.0f} ms"
        if check.version == version:
            return Finding("herd", "ok", f"{text}, version {version}")
        text += f", with version {check.version}; this Mac has {version}"
        return Finding("herd", "note", text, "Install the same version on both.")
    if check.stopped:
        return Finding("herd", "note", f"{check.name}{where} was stopped", ASLEEP.format(check.name))
    fix = check.hint or ASLEEP.format(check.name)
    return Finding("herd", "broken" if check.reason in HERE else "note", f"{check.name}{where}: {check.problem}", fix)
