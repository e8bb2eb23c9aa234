"""Streaming chat over HTTP: tokens per second and time to the first token (TTFT).

Against `mlx_lm.server` with the same model and prompts, 1 to 48 clients at once, and against a bare loop over
mlx-lm's `BatchGenerator` in one process.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.parts import machine, model, processes
from benchmarks.parts.http import Burst, chats
from benchmarks.parts.measure import Goal, Row, interleave, row
from benchmarks.parts.report import Report, parser

CLIENTS = (1, 4, 8, 16, 48)
MAX_TOKENS = {1: 128, 4: 64, 8: 48, 16: 32, 48: 16}
"""By clients: enough for decoding to be most of it, few enough for the whole to end in minutes."""
PROMPT_CHARS = 40
RATES = {1: Goal(">=", 1.0), 16: Goal(">=", 1.2)}
TTFT_FROM = 4
BARE_CLIENTS = (1, 16)
NO_ERROR = Goal("<=", 0, of="value")


def bodies(clients: int, burst: int) -> list[dict[str, Any]]:
    """Requests that no earlier burst has made, so that no prompt cache knows them."""
    return [
        {
            "messages": [{"role": "user", "content": model.text(burst * 100 + client, PROMPT_CHARS)}],
            "max_tokens": MAX_TOKENS[clients],
        }
        for client in range(clients)
    ]


def _herd_bodies(clients: int, burst: int) -> list[dict[str, Any]]:
    return [{**body, "model": model.NAME} for body in bodies(clients, burst)]


def rows_of(clients: int, herd: list[Burst], server: list[Burst]) -> list[Row]:
    """Rates of both sides, the middle TTFT of each burst, and, over all bursts, how many streams broke."""
    many = f"{clients} client{'s' * (clients > 1)}"
    rate = (RATES[clients],) if clients in RATES else ()
    sooner = (Goal("<=", 1.0),) if clients >= TTFT_FROM else ()
    rows = [row(f"{many}: rate", "tok/s", _rates(herd), _rates(server), *rate)]
    if (ours := _ttfts(herd)) and (theirs := _ttfts(server)):
        rows.append(row(f"{many}: TTFT p50", "ms", ours, theirs, *sooner))
    broken = [[float(sum(burst.errors for burst in side))] for side in (herd, server)]
    if clients == max(CLIENTS) or any(count[0] for count in broken):
        rows.append(row(f"{many}: broken of {clients * len(herd)}", "streams", broken[0], broken[1], NO_ERROR))
    return rows


def _rates(bursts: list[Burst]) -> list[float]:
    return [burst.tokens_per_s for burst in bursts]


def _ttfts(bursts: list[Burst]) -> list[float]:
    return [statistics.median(burst.ttfts_ms) for burst in bursts if burst.ttfts_ms]


def measure(pairs: int, counts: tuple[int, ...] = CLIENTS) -> Report:
    before = machine.load()
    rows: list[Row] = []
    with (
        processes.folder() as folder,
        processes.mlx_lm_server(model.build(folder)) as port,
        processes.node(model_dirs=str(folder)) as node,
        processes.Peer("batch_loop", str(folder / model.NAME)) as bare,
    ):

        def ours(clients: int, number: int) -> Burst:
            return chats(node.port, _herd_bodies(clients, number))

        def theirs(clients: int, number: int) -> Burst:
            return chats(port, bodies(clients, number))

        def loop(clients: int, number: int) -> float:
            asked = bodies(clients, number)
            prompts = [body["messages"][0]["content"] for body in asked]
            told = bare.ask({"prompts": prompts, "max_tokens": MAX_TOKENS[clients]})
            return float(told["tokens"] / told["seconds"])

        burst = 0
        for clients in counts:
            sides: list[Callable[[int], Any]] = [partial(ours, clients), partial(theirs, clients)]
            if clients in BARE_CLIENTS:
                sides.append(partial(loop, clients))
            interleave([_numbered(side, burst) for side in sides], 1)  # loads, and sizes its buffers
            results = interleave([_numbered(side, burst + 1) for side in sides], pairs)
            burst += 1 + pairs
            rows += rows_of(clients, results[0], results[1])
            if clients in BARE_CLIENTS:
                what = f"{clients} client{'s' * (clients > 1)}: rate"
                goal = Goal(">=", 0.85)
                rows.append(row(what, "tok/s", _rates(results[0]), results[2], goal, peer_name="bare BatchGenerator"))
    about = "Streamed chats over HTTP with one tiny model, against `mlx_lm.server` where no other peer is named."
    lengths = ", ".join(f"{MAX_TOKENS[clients]} tokens at {clients}" for clients in counts)
    notes = (f"Every client asks at the same time with {PROMPT_CHARS} new tokens; answers have {lengths} clients.",)
    return Report("chat", about, tuple(rows), machine.look(before), pairs, notes)


def _numbered(side: Callable[[int], Any], first: int) -> Callable[[int], Any]:
    return lambda pair: side(first + pair)


def main(argv: list[str]) -> int:
    options = parser("chat", __doc__)
    options.add_argument("--clients", type=int, nargs="+", choices=CLIENTS, default=CLIENTS, help="how many at once")
    asked = options.parse_args(argv)
    return measure(asked.pairs, tuple(asked.clients)).show(as_json=asked.json)
