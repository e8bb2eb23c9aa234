"""The second turn of a conversation: how much sooner it answers than a cold one, and whether its prefix is still there.

Conversations with 2,000 tokens of history, all first turns one after the other and then all second ones.
"""

from __future__ import annotations

from benchmarks.parts import machine, model, processes
from benchmarks.parts.http import Stream, one_chat
from benchmarks.parts.measure import Goal, interleave, row
from benchmarks.parts.report import Report, parser

HISTORY_CHARS = 2000
LAYERS, WIDTH = 2, 64
"""Of the model: small, because a CPU takes ten seconds for 2,000 tokens of the one of `chat`."""
ANSWER_TOKENS = 16
CONVERSATIONS = 50
BOUND_BYTES = 1024 * 1024 * 1024


def first(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": model.text(number, HISTORY_CHARS)}]


def second(number: int, answer: Stream) -> list[dict[str, str]]:
    more = {"role": "user", "content": "And what does that mean?"}
    return [*first(number), {"role": "assistant", "content": "".join(answer.text)}, more]


def is_hit(stream: Stream) -> bool:
    """Whether all that was said in the first turn came from the cache."""
    return stream.cached_tokens >= HISTORY_CHARS + ANSWER_TOKENS - 1


def measure(conversations: int) -> Report:
    before = machine.load()
    with (
        processes.folder() as folder,
        processes.mlx_lm_server(model.build(folder, LAYERS, WIDTH)) as port,
        processes.node(model_dirs=str(folder), prompt_cache_bytes=str(BOUND_BYTES)) as node,
    ):

        def herd(messages: list[dict[str, str]]) -> Stream:
            return one_chat(node.port, {"model": model.NAME, "max_tokens": ANSWER_TOKENS, "messages": messages})

        def server(messages: list[dict[str, str]]) -> Stream:
            return one_chat(port, {"max_tokens": ANSWER_TOKENS, "messages": messages})

        for side in (herd, server):
            side([{"role": "user", "content": "warm " * 100}])
        cold, peer_cold = interleave([lambda n: herd(first(n)), lambda n: server(first(n))], conversations)
        warm, peer_warm = interleave(
            [lambda n: herd(second(n, cold[n])), lambda n: server(second(n, peer_cold[n]))], conversations
        )
    hits, peer_hits = ([float(sum(map(is_hit, side)))] for side in (warm, peer_warm))
    wanted = Goal(">=", conversations, of="value")
    rows = (
        row("TTFT of the second turn", "ms", _ttfts(warm), _ttfts(cold), Goal("<=", 0.5), peer_name="the same, cold"),
        row("TTFT of a cold turn", "ms", _ttfts(cold), _ttfts(peer_cold)),
        row("TTFT of the second turn", "ms", _ttfts(warm), _ttfts(peer_warm)),
        row(f"second turns that hit, of {conversations}", "hits", hits, peer_hits, wanted),
    )
    about = f"Conversations with {HISTORY_CHARS:,} tokens of history, against `mlx_lm.server` where no other is named."
    kept = conversations * (HISTORY_CHARS + 2 * ANSWER_TOKENS) * model.kv_bytes_per_token(LAYERS, WIDTH) // 2**20
    notes = (
        f"Their caches need about {kept} MiB; the bound was {BOUND_BYTES // 2**20} MiB, which is the default.",
        f"One after the other: {conversations} first turns, then {conversations} second ones; "
        "the runs that are counted below are conversations.",
    )
    return Report("prefix", about, rows, machine.look(before), conversations, notes)


def _ttfts(streams: list[Stream]) -> list[float]:
    return [stream.ttft_ms for stream in streams]


def main(argv: list[str]) -> int:
    """A pair is a conversation."""
    asked = parser("prefix", __doc__, pairs=CONVERSATIONS).parse_args(argv)
    return measure(asked.pairs).show(as_json=asked.json)
