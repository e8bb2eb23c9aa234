"""Placement in a simulated herd: ours against random, simple rules, a peer's points, and greedy that knows all.

Herds of 2 to 8 unequal Macs in virtual time. The placer is the real one; Macs, engines and the wire are simulated.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.parts import machine, policies, traces
from benchmarks.parts.measure import Goal, Quartiles, Row
from benchmarks.parts.report import Report, parser
from benchmarks.parts.sim_herd import Herd

TUNING_SEEDS = range(1, 1000)
"""For looking at while something is changed. What is reported begins elsewhere."""
REPORTED_FROM = 348_983_764
"""Drawn after the tuning was committed."""
BOUND = "lower bound"
WITHIN, BETTER = 1.15, 1.5
"""Goals: the mean against greedy that knows all, and the peer's mean against ours where images are many."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one run: completion times and when the last task was done."""

    mean: float
    p95: float
    makespan: float


FIGURES: dict[str, Callable[[Times], float]] = {
    "mean": lambda times: times.mean,
    "p95": lambda times: times.p95,
    "makespan": lambda times: times.makespan,
}


def measure(name: str, seed: int, policy: str) -> Times:
    herd = Herd(traces.make(name, seed))
    took = sorted(herd.run(policies.make(policy, herd)))
    return Times(statistics.fmean(took), took[math.ceil(0.95 * len(took)) - 1], max(herd.done_s.values()))


def interval(ratios: Sequence[float]) -> Quartiles:
    """The geometric mean of paired ratios between the ends of its 95 % interval (Student's t of their logarithms)."""
    logs = [math.log(ratio) for ratio in ratios]
    middle = statistics.fmean(logs)
    half = t95(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0
    return Quartiles(math.exp(middle - half), math.exp(middle), math.exp(middle + half), len(logs))


def t95(freedom: int) -> float:
    """The 97.5th percentile of Student's t, by Cornish and Fisher: within 1 % from 4 degrees on."""
    z = statistics.NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


@dataclass(frozen=True, slots=True)
class Results:
    """Times by trace class and policy, in the order of the seeds, and the lower bounds of the means."""

    times: dict[tuple[str, str], list[Times]]
    bounds: dict[str, list[float]]

    def ratio(self, name: str, policy: str, to: str, figure: str = "mean") -> Quartiles:
        return interval(self.ratios(name, policy, to, figure))

    def ratios(self, name: str, policy: str, to: str, figure: str = "mean") -> list[float]:
        ours, theirs = self._figures(name, policy, figure), self._figures(name, to, figure)
        return [one / other for one, other in zip(ours, theirs, strict=True)]

    def _figures(self, name: str, policy: str, figure: str) -> list[float]:
        if policy == BOUND:
            return self.bounds[name]
        return [FIGURES[figure](times) for times in self.times[name, policy]]


def run(classes: Sequence[str], seeds: Sequence[int]) -> Results:
    times: dict[tuple[str, str], list[Times]] = {(name, policy): [] for name in classes for policy in policies.NAMES}
    bounds: dict[str, list[float]] = {name: [] for name in classes}
    for seed in seeds:
        for name in classes:
            bounds[name].append(traces.lower_bound_s(traces.make(name, seed)))
            for policy in policies.NAMES:
                times[name, policy].append(measure(name, seed, policy))
    return Results(times, bounds)


def rows_of(results: Results, classes: Sequence[str]) -> tuple[Row, ...]:
    """The goals. Against the simple rules: the one that is the best of them on that class."""
    rows = [
        Row(
            f"{name}: mean to greedy that knows all",
            "×",
            results.ratio(name, policies.OURS, policies.PERFECT),
            goals=(Goal("<=", WITHIN, "value"),),
        )
        for name in classes
    ]
    heavy = [name for name in classes if name in traces.IMAGE_HEAVY]
    if heavy:
        pooled = [ratio for name in heavy for ratio in results.ratios(name, policies.POINTS, policies.OURS)]
        words = "image-heavy traces: the peer's mean to ours"
        rows.append(Row(words, "×", interval(pooled), goals=(Goal(">=", BETTER, "value"),)))
    for name in classes:
        simple = min(policies.SIMPLE, key=lambda rule: results.ratio(name, rule, policies.PERFECT).median)
        ratio = results.ratio(name, policies.OURS, simple)
        rows.append(Row(f"{name}: mean to {simple}", "×", ratio, goals=(Goal("<=", 1, "value"),)))
    return tuple(rows)


def tables(results: Results, classes: Sequence[str]) -> str:
    """Every policy to greedy that knows all, by class."""
    parts = []
    for figure in FIGURES:
        lines = [["to greedy, " + figure, *classes]]
        for policy in (*policies.NAMES, *([BOUND] if figure == "mean" else [])):
            if policy == policies.PERFECT:
                continue
            cells = [results.ratio(name, policy, policies.PERFECT, figure) for name in classes]
            lines.append([policy, *(f"{cell.median:.2f} [{cell.q1:.2f}–{cell.q3:.2f}]" for cell in cells)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        parts += ["", *("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)]
    return "\n".join(parts) + "\n"


NOTES = (
    f"{traces.TASKS} tasks a trace, asked so fast that they keep the herd busy for 35 to 85 % of the time; 2 to 8 of "
    "nine chips from M1 8 GB to M3 Ultra 512 GB by public figures. What a Mac tells of its rates is up to 1.3 times "
    "wrong either way and nothing is learned; reports take 0.5 to 3 s; how much chats and images lose to each other "
    "and to a batch differs from what placement expects, and nobody but greedy knows how long an answer will be.",
    "Greedy that knows all looks ahead exactly by true rates, lengths and states of the moment, and knows who is down. "
    "It knows nothing of what comes next and moves nothing, so it can be beaten. The lower bound: each task alone and "
    "warm on its fastest Mac, without its prompt, and images at least as one machine as fast as all Macs together.",
    "Round robin, least connections and two choices know exactly what runs where, as one balancer would; they too are "
    "told who is gone, and place again what died. The peer's points are those of ollama-herd 0.6.1 as its repository "
    "has them, with queues known exactly and memory every 5 s; its rebalancer, and that it loads an image model for "
    "each image and never retries one, are left out.",
    "A Mac that dies or sleeps is noticed after 30 s by who has work there, and after 3 s by who sends it some.",
    "Tuned on other seeds than these, which were drawn after it.",
)


def main(argv: list[str]) -> int:
    options = parser("placement", __doc__, pairs=32)
    options.add_argument("--classes", nargs="+", choices=traces.CLASSES, default=traces.CLASSES, metavar="NAME")
    options.add_argument("--tuning", action="store_true", help="seeds that are not reported")
    asked = options.parse_args(argv)
    before = os.getloadavg()[0]
    first = TUNING_SEEDS[0] if asked.tuning else REPORTED_FROM
    results = run(asked.classes, range(first, first + asked.pairs))
    report = Report(
        "placement",
        "Completion times in simulated herds: ours as a ratio, with the 95 % interval of paired seeds.",
        rows_of(results, asked.classes),
        machine.look(before),
        asked.pairs,
        NOTES,
        spread="Geometric mean [95 % interval]",
    )
    if asked.json:
        sys.stdout.write(json.dumps(json.loads(report.json()), indent=2) + "\n")
        return 0
    sys.stdout.write(report.text() + tables(results, asked.classes))
    return 0
