"""Beginnings of conversations by keyed hashes."""

from __future__ import annotations

from pathlib import Path

from herd_mcp.fleet.prefixes import Prefixes, kept_of, prefixes_of
from herd_mcp.jobs import ChatRequest, ChatResult, Message, Tool, ToolCall, Usage
from herd_mcp.state import MAX_PREFIXES_TOLD
from tests.conftest import until
from tests.faults.dictate import CHAT, chat, dictated, outcome

KEY = b"k" * 32
SYSTEM = Message(role="system", content="Be short.")
HELLO = Message(role="user", content="Hello")
ANSWER = Message(role="assistant", content="Hello!", reasoning="A greeting.")


def talk(*messages: Message, **fields: object) -> ChatRequest:
    return ChatRequest.model_validate({"messages": messages, **fields})


def digests(request: ChatRequest, model: str = "qwen", key: bytes = KEY) -> list[str]:
    return [prefix.digest for prefix in prefixes_of(request, model, key)]


def answered(text: str, *calls: ToolCall) -> ChatResult:
    return ChatResult(text=text, tool_calls=calls, finish_reason="stop", usage=Usage(), model="qwen", node="n")


def test_conversations_with_the_same_beginning_share_its_hashes() -> None:
    one, other = digests(talk(SYSTEM, HELLO)), digests(talk(SYSTEM, Message(role="user", content="Bye")))
    assert one[0] == other[0]
    assert one[1] != other[1]
    assert all(len(digest) == 8 for digest in one + other)


def test_another_model_key_role_or_tool_is_another_beginning() -> None:
    plain = digests(talk(HELLO))
    assert digests(talk(HELLO), "qwen2") != plain
    assert digests(talk(HELLO), key=b"other") != plain
    assert digests(talk(Message(role="assistant", content="Hello"))) != plain
    assert digests(talk(HELLO, tools=[Tool(name="look")])) != plain
    assert digests(talk(HELLO), "QWEN") == plain


def test_two_messages_are_not_one_of_the_same_words() -> None:
    both = digests(talk(Message(role="user", content="a"), Message(role="user", content="b")))
    assert digests(talk(Message(role="user", content='a"],["user","b')))[-1] != both[-1]
    assert digests(talk(Message(role="user", content="ab")))[-1] != both[-1]


def test_the_next_turn_finds_what_was_kept_also_without_reasoning_and_with_new_ids() -> None:
    call = ToolCall(id="1", name="look", arguments="{}")
    kept = kept_of(talk(SYSTEM, HELLO), answered("Hello!\n", call), "qwen", KEY)
    again = ANSWER.model_copy(update={"reasoning": None, "tool_calls": (call.model_copy(update={"id": "x"}),)})
    found = digests(talk(SYSTEM, HELLO, again, HELLO))
    assert kept == (found[2], found[1], found[0])


def test_bytes_count_what_was_said() -> None:
    assert [prefix.bytes for prefix in prefixes_of(talk(SYSTEM, Message(role="user", content="ü")), "m", KEY)] == [
        9,
        11,
    ]


def test_a_node_tells_the_newest_and_forgets_those_of_an_engine_that_ended() -> None:
    kept = Prefixes(most=3)
    kept.add("a", ("2", "1"))
    kept.add("b", ("3",))
    kept.add("a", ("1",))
    assert kept.told() == ("1", "3", "2")
    kept.add("b", ("4",))
    assert kept.told() == ("4", "1", "3")
    kept.keep({"a"})
    assert kept.told() == ("1",)
    full = Prefixes()
    full.add("a", map(str, range(1000)))
    assert len(full.told()) == MAX_PREFIXES_TOLD


async def test_what_an_engine_keeps_is_told_to_the_herd_until_the_engine_ends(tmp_path: Path) -> None:
    async with dictated(tmp_path / "engines") as herd:
        await herd.admin.invite()
        await outcome(herd, await herd.submit(chat("hello"), client="test"))
        assert herd.mesh.state().prefixes
        await herd.unload(CHAT)
        await until(lambda: not herd.mesh.state().prefixes, "it is told no more")
