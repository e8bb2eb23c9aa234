"""Beginnings of conversations, known by keyed hashes: which node keeps one is told without telling what was said.

A hash stands at the end of each message of a request, so no tokenizer is needed to find the longest beginning that a
node keeps. The key is the herd's: outside of it nobody can try whether a known text was said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from typing import NamedTuple

from herd_mcp.jobs import ChatRequest, ChatResult, Message
from herd_mcp.state import MAX_PREFIXES_TOLD

HASH_BYTES = 4
"""8 digits in hex. A chance hit, one beginning in two million in the largest herd, costs a wrong guess of some seconds
and nothing else."""


class Prefix(NamedTuple):
    """The beginning of a conversation, to the end of one of its messages."""

    digest: str
    bytes: int
    """UTF-8 of what was said until there."""


def prefixes_of(request: ChatRequest, model: str, key: bytes) -> tuple[Prefix, ...]:
    """Every beginning of the conversation, the shortest first. A model keeps only what it has read itself, so its name
    is part of the hash; so are the tools, which templates write before the first message."""
    so_far = hashlib.blake2b(key=key[: hashlib.blake2b.MAX_KEY_SIZE], digest_size=HASH_BYTES)
    length = 0
    found = []
    tools = [[tool.name, tool.description, tool.parameters] for tool in request.tools]
    so_far.update(_part([model.lower(), tools, request.reasoning]))
    length += len(_part(tools)) if tools else 0
    for message in request.messages:
        part = _part(_said(message))
        so_far.update(part)
        length += sum(len(text.encode()) for text in _texts(message))
        found.append(Prefix(so_far.copy().hexdigest(), length))
    return tuple(found)


def kept_of(request: ChatRequest, result: ChatResult, model: str, key: bytes) -> tuple[str, ...]:
    """What a node keeps after it answered, newest first: the conversation with its answer, as the next turn will say
    it, the prompt, and the system's part that other conversations may share."""
    answer = Message(role="assistant", content=result.text, tool_calls=result.tool_calls)
    whole = prefixes_of(request.model_copy(update={"messages": (*request.messages, answer)}), model, key)
    system = 0
    while system < len(request.messages) and request.messages[system].role in ("system", "developer"):
        system += 1
    ends = [len(whole), len(whole) - 1, system]
    return tuple(dict.fromkeys(whole[end - 1].digest for end in ends if end))


def _said(message: Message) -> list[object]:
    """What a message says, in the form that it has when a client sends it back: without reasoning, which clients drop,
    and without the ids of calls, which some make anew."""
    calls = [[call.name, call.arguments] for call in message.tool_calls]
    return [message.role, (message.content or "").strip(), calls]


def _texts(message: Message) -> Iterable[str]:
    yield message.content or ""
    for call in message.tool_calls:
        yield call.name
        yield call.arguments


def _part(said: object) -> bytes:
    """JSON ends where it ends: no two lists of parts read alike."""
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


class Prefixes:
    """What this node's engines keep, newest first, bounded."""

    def __init__(self, most: int = MAX_PREFIXES_TOLD) -> None:
        self._most = most
        self._model_of: dict[str, str] = {}
        """By hash, oldest first."""

    def add(self, model: str, digests: Iterable[str]) -> None:
        """`digests`: as `kept_of` gives them."""
        for digest in reversed(tuple(digests)):
            self._model_of.pop(digest, None)
            self._model_of[digest] = model
        while len(self._model_of) > self._most:
            del self._model_of[next(iter(self._model_of))]

    def keep(self, models: Collection[str]) -> None:
        """Of these there are engines; those of others have ended, and what they kept with them."""
        self._model_of = {digest: of for digest, of in self._model_of.items() if of in models}

    def told(self) -> tuple[str, ...]:
        """For the node's state."""
        return tuple(reversed(self._model_of))
