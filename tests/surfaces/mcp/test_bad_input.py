"""What callers get wrong: each is a clear error that names the field, no job is made, and the next call works."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from herd_mcp.herd import Herd
from tests.surfaces.mcp.clients import SMALL, TALK, connected, data_of, error_of, picture, text_of

IMAGE, CHAT = "generate_image", "chat"

REFUSED: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("unknown image model", IMAGE, {**SMALL, "model": "herd-tiny-imagine"}, "model_not_found", "herd-tiny-image"),
    ("unknown chat model", CHAT, {**TALK, "model": "herd-tiny-chatt"}, "model_not_found", "herd-tiny-chat"),
    ("a chat model for an image", IMAGE, {**SMALL, "model": "herd-tiny-chat"}, "kind_not_supported", "chat"),
    ("a folder of nobody", IMAGE, {**SMALL, "image": "~nosuchuser/x.png"}, "invalid_request", "path"),
    ("an address that is none", IMAGE, {**SMALL, "image": "file://["}, "invalid_request", "path"),
    ("empty prompt", IMAGE, {**SMALL, "prompt": ""}, "invalid_request", "prompt"),
    ("blank prompt", IMAGE, {**SMALL, "prompt": " \n"}, "invalid_request", "prompt"),
    ("no prompt", IMAGE, {}, "invalid_request", "prompt"),
    ("200,000 characters", IMAGE, {**SMALL, "prompt": "a" * 200_000}, "invalid_request", "prompt"),
    ("NUL", IMAGE, {**SMALL, "prompt": "a\x00b"}, "invalid_request", "NUL"),
    ("width 0", IMAGE, {**SMALL, "width": 0}, "invalid_request", "width"),
    ("width negative", IMAGE, {**SMALL, "width": -64}, "invalid_request", "width"),
    ("height 7", IMAGE, {**SMALL, "height": 7}, "invalid_request", "height"),
    ("height 100,000", IMAGE, {**SMALL, "height": 100_000}, "invalid_request", "height"),
    ("width over the setting", IMAGE, {**SMALL, "width": 8192}, "invalid_request", "8192"),
    ("width no number", IMAGE, {**SMALL, "width": "wide"}, "invalid_request", "width"),
    ("steps 0", IMAGE, {**SMALL, "steps": 0}, "invalid_request", "steps"),
    ("steps 10,000", IMAGE, {**SMALL, "steps": 10_000}, "invalid_request", "steps"),
    ("steps half", IMAGE, {**SMALL, "steps": 2.5}, "invalid_request", "steps"),
    ("quantize 1", IMAGE, {**SMALL, "quantize": 1}, "invalid_request", "quantize"),
    ("seed negative", IMAGE, {**SMALL, "seed": -1}, "invalid_request", "seed"),
    ("wrong type", IMAGE, {**SMALL, "prompt": 5}, "invalid_request", "prompt"),
    ("null prompt", IMAGE, {**SMALL, "prompt": None}, "invalid_request", "prompt"),
    ("unknown argument", IMAGE, {**SMALL, "num_steps": 4}, "invalid_request", "Did you mean steps?"),
    ("too many tags", IMAGE, {**SMALL, "tags": ["t"] * 17}, "invalid_request", "tags"),
    ("empty tag", IMAGE, {**SMALL, "tags": [""]}, "invalid_request", "tags"),
    ("wait_s negative", IMAGE, {**SMALL, "wait_s": -1}, "invalid_request", "wait_s"),
    ("file that does not exist", IMAGE, {**SMALL, "image": "/nowhere/a.png"}, "invalid_request", "does not exist"),
    ("folder", IMAGE, {**SMALL, "image": "/tmp"}, "invalid_request", "not a file"),
    ("device", IMAGE, {**SMALL, "image": "/dev/zero"}, "invalid_request", "not a file"),
    ("relative path", IMAGE, {**SMALL, "image": "a.png"}, "invalid_request", "full path"),
    ("no image at the link", IMAGE, {**SMALL, "image": "herd://images/../../x"}, "image_not_found", "no image"),
    ("broken data", IMAGE, {**SMALL, "image": "data:image/png;base64,?"}, "invalid_request", "base64"),
    ("data that is no picture", IMAGE, {**SMALL, "image": "data:image/png;base64,aGFsbG8="}, "invalid_request", "PNG"),
    ("strength without image", IMAGE, {**SMALL, "image_strength": 2}, "invalid_request", "image_strength"),
    ("chat without anything", CHAT, {}, "invalid_request", "prompt or messages"),
    ("chat with both", CHAT, {**TALK, "messages": [{"role": "user", "content": "x"}]}, "invalid_request", "not both"),
    ("empty chat prompt", CHAT, {**TALK, "prompt": ""}, "invalid_request", "prompt"),
    ("no messages", CHAT, {"messages": []}, "invalid_request", "messages"),
    ("unknown role", CHAT, {"messages": [{"role": "king", "content": "x"}]}, "invalid_request", "messages.0.role"),
    ("unknown field", CHAT, {"messages": [{"role": "user", "text": "x"}]}, "invalid_request", "messages.0.text"),
    ("temperature text", CHAT, {**TALK, "temperature": "hot"}, "invalid_request", "temperature"),
    ("temperature 11", CHAT, {**TALK, "temperature": 11}, "invalid_request", "temperature"),
    ("max_tokens 0", CHAT, {**TALK, "max_tokens": 0}, "invalid_request", "max_tokens"),
    ("tool without name", CHAT, {**TALK, "tools": [{"description": "x"}]}, "invalid_request", "tools.0.name"),
    ("NUL in a chat", CHAT, {**TALK, "prompt": "\x00"}, "invalid_request", "NUL"),
    ("unknown job", "get_job", {"job_id": "job-0-0"}, "job_not_found", "no job"),
    ("unknown job to cancel", "cancel_job", {"job_id": "../../etc"}, "job_not_found", "no job"),
    ("unknown kind", "list_models", {"kind": "video"}, "invalid_request", "kind"),
    ("argument where none is taken", "fleet_health", {"verbose": True}, "invalid_request", "nothing"),
    ("a name that is a path", "pull_model", {"model": "../../x"}, "invalid_request", "model"),
    ("a name that is a command", "pull_model", {"model": "a; rm -rf ~"}, "invalid_request", "model"),
    ("a node that is not there", "pull_model", {"model": "dev", "node": "mars"}, "no_node", "mars"),
]


CASES = [pytest.param(*row[1:], id=row[0]) for row in REFUSED]


@pytest.mark.parametrize(("name", "arguments", "code", "words"), CASES)
async def test_bad_input_is_refused_in_clear_words(
    warm: Herd, name: str, arguments: dict[str, Any], code: str, words: str
) -> None:
    before = await warm.jobs()
    async with connected(warm) as client:
        result = await client.call_tool(name, arguments)
    error = error_of(result)
    assert error["code"] == code, error
    assert words in text_of(result)
    assert len(text_of(result)) < 1000
    assert await warm.jobs() == before


async def test_a_prompt_that_looks_like_an_option_is_a_prompt(warm: Herd) -> None:
    async with connected(warm) as client:
        assert data_of(await client.call_tool(IMAGE, {**SMALL, "prompt": "--help -rf"}))["status"] == "completed"
        assert data_of(await client.call_tool(CHAT, {**TALK, "prompt": "-- $(id) \u2028"}))["status"] == "completed"


async def test_a_prompt_that_is_json_stays_the_text_it_is(warm: Herd) -> None:
    async with connected(warm) as client:
        for prompt in ('{"a": [1]}', "null", "[]"):
            assert data_of(await client.call_tool(CHAT, {**TALK, "prompt": prompt, "system": "{}"}))["text"] is not None
        listed = data_of(await client.call_tool(CHAT, {**TALK, "stop": '["\\n"]', "tags": '["a"]'}))
        assert (await warm.job(listed["job_id"])).tags == ("a",)


async def test_a_chat_longer_than_the_context_fails_and_the_engine_goes_on(warm: Herd) -> None:
    async with connected(warm) as client:
        result = await client.call_tool(CHAT, {**TALK, "prompt": "word " * 30_000})
        assert error_of(result)["code"] == "invalid_request"
        assert data_of(await client.call_tool(CHAT, TALK))["status"] == "completed"


async def test_a_file_that_is_no_picture_or_not_whole_is_refused(warm: Herd, tmp_path: Path) -> None:
    text, cut, huge, secret = (tmp_path / name for name in ("text.png", "cut.png", "huge.png", "secret.png"))
    text.write_text("not a picture")
    cut.write_bytes(picture()[:100])
    with huge.open("wb") as file:
        file.truncate(warm.settings.max_body_bytes + 1)
    os.mkfifo(tmp_path / "pipe.png")
    expected = [
        (text, "invalid_request", "not a whole PNG"),
        (cut, "invalid_request", "not a whole PNG"),
        (huge, "too_large", "at most"),
        (tmp_path / "pipe.png", "invalid_request", "not a file"),
    ]
    if os.getuid() != 0:
        secret.write_bytes(picture())
        secret.chmod(0)
        expected.append((secret, "invalid_request", "may not be read"))
    async with connected(warm) as client:
        for path, code, words in expected:
            result = await client.call_tool(IMAGE, {**SMALL, "image": str(path)})
            assert error_of(result)["code"] == code
            assert words in text_of(result)


async def test_what_macos_keeps_private_is_told_with_the_mend(warm: Herd, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("herd_mcp.surfaces.mcp.pictures.os.open", refused)
    async with connected(warm) as client:
        result = await client.call_tool(IMAGE, {**SMALL, "image": "/Users/me/Desktop/a.png"})
    assert "Privacy & Security" in text_of(result)
