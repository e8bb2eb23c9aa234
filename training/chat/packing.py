"""Conversations as rows of token ids of one length, several in a row."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.chat.corpus import texts
from training.chat.template import CLOSED_THOUGHTS, MARKERS, OPENING

SHARD = 4_000
"""Conversations in one shard; a shard has its own seed."""


@dataclass
class Rows:
    """`tokens` [rows, length]; `segments` number the conversations of a row from 1, 0 is padding; `counts` marks the
    tokens that the assistant says."""

    tokens: NDArray[np.uint16]
    segments: NDArray[np.uint8]
    counts: NDArray[np.bool_]


def said(ids: list[int], opening: list[int], end: int, think: list[int]) -> NDArray[np.bool_]:
    """Which tokens the assistant says: what follows its opening, up to and with the end of its turn."""
    marked = np.zeros(len(ids), bool)
    at = 0
    while at < len(ids):
        if ids[at : at + len(opening)] != opening:
            at += 1
            continue
        at += len(opening)
        if ids[at : at + len(think)] == think:  # part of the prompt
            at += len(think)
        stop = ids.index(end, at)
        marked[at : stop + 1] = True
        at = stop + 1
    return marked


def pack(tokenizer: Tokenizer, conversations: list[str], length: int) -> Rows:
    """Fill rows in order; a conversation longer than a row is left out."""
    opening = list(tokenizer.encode(OPENING, add_special_tokens=False).ids)
    think = list(tokenizer.encode(CLOSED_THOUGHTS, add_special_tokens=False).ids)
    end = MARKERS.index("<|im_end|>")
    tokens = [np.zeros(length, np.uint16)]
    segments = [np.zeros(length, np.uint8)]
    counts = [np.zeros(length, bool)]
    filled, segment = 0, 0
    for encoded in tokenizer.encode_batch(conversations, add_special_tokens=False):
        size = len(encoded.ids)
        if size > length:
            continue
        if filled + size > length or segment == 255:
            tokens.append(np.zeros(length, np.uint16))
            segments.append(np.zeros(length, np.uint8))
            counts.append(np.zeros(length, bool))
            filled, segment = 0, 0
        segment += 1
        tokens[-1][filled : filled + size] = encoded.ids
        segments[-1][filled : filled + size] = segment
        counts[-1][filled : filled + size] = said(encoded.ids, opening, end, think)
        filled += size
    return Rows(np.stack(tokens), np.stack(segments), np.stack(counts))


def _shard(task: tuple[str, int, int]) -> Rows:
    path, seed, length = task
    return pack(Tokenizer.from_file(path), texts(seed, SHARD), length)


def make_rows(tokenizer: Path, seed: int, shards: int, length: int, workers: int) -> Rows:
    """The rows of `shards` shards, made by several processes; how many does not change the result."""
    tasks = [(str(tokenizer), seed + shard, length) for shard in range(1, shards + 1)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        made = list(pool.map(_shard, tasks))
    return Rows(
        np.concatenate([rows.tokens for rows in made]),
        np.concatenate([rows.segments for rows in made]),
        np.concatenate([rows.counts for rows in made]),
    )
