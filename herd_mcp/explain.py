"""Why a job runs where it runs, in sentences for people. Pure functions over a job's record."""

from __future__ import annotations

from collections.abc import Sequence

from herd_mcp.jobs import Attempt, Job, NodeEstimate, Routed

NEAR = 0.1
"""What differs by no more than this part is told as the same."""
_ENDS = {
    "node_lost": "{} was lost",
    "engine_crashed": "on {} its engine died",
    "returned": "{} gave it back",
    "completed": "{} did it",
    "": "{} has it",
}


def why(routed: Routed | None, here: str = "") -> str:
    """`on mac2 because it is done there in 12 s; here it would be 31 s`. Empty where there was no choice. `here`: id of
    the node whose people read it."""
    rows = routed.estimates if routed else ()
    chosen = next((row for row in rows if routed and row.node == routed.node), None)
    if chosen is None or chosen.finish_s is None or len(rows) < 2:
        return ""
    others = [row for row in rows if row is not chosen]
    own = next((row for row in others if here and row.node_id == here), None)
    where = f"here, on {chosen.node}," if here and chosen.node_id == here else f"on {chosen.node}"
    there = "" if where.startswith("here") else " there"
    return f"{where} because it is done{there} in {seconds(chosen.finish_s)}; {_against(own, others, chosen.finish_s)}"


def _against(own: NodeEstimate | None, others: Sequence[NodeEstimate], chosen_s: float) -> str:
    able = sorted((row for row in others if row.finish_s is not None), key=lambda row: row.finish_s or 0.0)
    rival = own or (able[0] if able else others[0])
    where = "here" if rival is own else f"on {rival.node}"
    if rival.finish_s is None:
        return f"{where} it cannot run now: {rival.reason}"
    took = seconds(rival.finish_s)
    if rival.reason:
        return f"{where} it would be {took}, but {rival.reason}"
    later = rival.finish_s > chosen_s * (1 + NEAR)
    return f"{where} it would be {took}" if later else f"{where} it would be about as soon ({took})"


def again(attempts: Sequence[Attempt]) -> str:
    """`it was tried 2 times: mac2 was lost, then mac1 did it`. Empty for a job that had one place."""
    if len(attempts) < 2:
        return ""
    ends = [_ENDS.get(one.outcome, f"on {{}} it ended with {one.outcome}").format(one.node) for one in attempts]
    tries = sum(one.outcome != "returned" for one in attempts)
    return f"{f'it was tried {tries} times' if tries > 1 else 'it moved'}: {', then '.join(ends)}"


def story(job: Job, here: str = "") -> str:
    """Both, as sentences that stand alone. Empty where there is nothing to tell."""
    told = [part for part in (why(job.routed, here), again(job.attempts)) if part]
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in told)


def seconds(value: float) -> str:
    """`0.4 s`, `12 s`."""
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
