"""pull_model's gate: through the client's form, with a token in two steps, or in a terminal only."""

from __future__ import annotations

import pytest
from mcp.client import Client
from mcp_types import ElicitationCapability, UrlElicitationCapability

from herd_mcp.herd import Herd
from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.surfaces.mcp.gate import TOKEN_LIFE_S, Tokens, can_ask
from herd_mcp.surfaces.mcp.server import make_mcp
from tests.surfaces.mcp.clients import MODES, answering, connected, data_of, error_of, text_of

PULL = {"model": "z-image-turbo"}


@pytest.mark.parametrize("mode", MODES)
async def test_where_the_client_has_a_form_the_person_is_asked_once(herd: Herd, mode: str) -> None:
    asked: list[str] = []
    async with connected(herd, mode, elicitation_callback=answering("accept", asked=asked)) as client:
        result = await client.call_tool("pull_model", PULL)
    error = error_of(result)
    assert error["code"] == "not_built_yet"
    assert "hf download Tongyi-MAI/Z-Image-Turbo" in error["hint"]
    assert len(asked) == 1
    assert "Tongyi-MAI/Z-Image-Turbo" in asked[0]
    assert "size is not known" in asked[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("action", "confirm"), [("decline", True), ("cancel", True), ("accept", False)])
async def test_a_no_is_a_no(herd: Herd, mode: str, action: str, confirm: bool) -> None:
    async with connected(herd, mode, elicitation_callback=answering(action, confirm=confirm)) as client:
        assert error_of(await client.call_tool("pull_model", PULL))["code"] == "not_confirmed"


@pytest.mark.parametrize("mode", MODES)
async def test_without_a_form_a_token_is_needed_and_works_once(herd: Herd, mode: str) -> None:
    async with connected(herd, mode) as client:
        first = await client.call_tool("pull_model", PULL)
        data = data_of(first)
        assert data["status"] == "confirmation_required"
        assert "A person must agree" in text_of(first)
        token = data["confirm_token"]
        for other in ({"model": "flux-dev"}, {**PULL, "node": herd.node_name}):
            refused = await client.call_tool("pull_model", {**other, "confirm_token": token})
            assert error_of(refused)["code"] == "not_confirmed"
        second = await client.call_tool("pull_model", {**PULL, "confirm_token": token})
        assert error_of(second)["code"] == "not_built_yet"
        third = await client.call_tool("pull_model", {**PULL, "confirm_token": token})
        assert error_of(third)["code"] == "not_confirmed"
        assert "used already" in text_of(third)
        invented = await client.call_tool("pull_model", {**PULL, "confirm_token": "ffffffff.00.00"})
        assert error_of(invented)["code"] == "not_confirmed"


@pytest.mark.parametrize("mode", MODES)
async def test_a_token_does_not_pass_by_the_form_of_a_client_that_has_one(herd: Herd, mode: str) -> None:
    asked: list[str] = []
    mcp = make_mcp(herd, local=True)
    async with Client(mcp, mode=mode) as without:
        token = data_of(await without.call_tool("pull_model", PULL))["confirm_token"]
    async with Client(mcp, mode=mode, elicitation_callback=answering("decline", asked=asked)) as client:
        result = await client.call_tool("pull_model", {**PULL, "confirm_token": token})
    assert error_of(result)["code"] == "not_confirmed"
    assert len(asked) == 1


@pytest.mark.parametrize("mode", MODES)
async def test_when_only_the_terminal_confirms_neither_form_nor_token_does(
    herd: Herd, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mcp = make_mcp(herd, local=True)
    async with Client(mcp, mode=mode) as client:
        token = data_of(await client.call_tool("pull_model", PULL))["confirm_token"]
    monkeypatch.setattr(herd, "settings", herd.settings.model_copy(update={"confirm": "terminal"}))
    asked: list[str] = []
    for options in ({}, {"elicitation_callback": answering("accept", asked=asked)}):
        async with Client(mcp, mode=mode, **options) as client:  # type: ignore[arg-type]
            for arguments in (PULL, {**PULL, "confirm_token": token}):
                result = await client.call_tool("pull_model", arguments)
                assert error_of(result)["code"] == "confirmation_required"
                assert "herd-mcp pull" in text_of(result)
                assert "hf download" in text_of(result)
    assert not asked


async def test_a_model_that_is_here_needs_no_question(herd: Herd) -> None:
    asked: list[str] = []
    async with connected(herd, elicitation_callback=answering("accept", asked=asked)) as client:
        assert data_of(await client.call_tool("pull_model", {"model": "herd-tiny-chat"}))["status"] == "present"
    assert not asked


async def test_what_is_not_known_is_not_made_up(herd: Herd) -> None:
    async with connected(herd) as client:
        result = await client.call_tool("pull_model", {"model": "some-model"})
        assert "does not know" in text_of(result)
        assert "repository" not in data_of(result)


def test_a_token_expires_after_five_minutes() -> None:
    now = 1_000_000.0
    tokens = Tokens(lambda: now)
    early, late = tokens.issue("pull", "a", "any"), tokens.issue("pull", "a", "any")
    now += TOKEN_LIFE_S - 1
    tokens.spend(early, "pull", "a", "any")
    now += 2
    with pytest.raises(HerdError, match="expired"):
        tokens.spend(late, "pull", "a", "any")


def test_a_token_is_for_its_subject_in_its_process_and_cannot_be_rewritten() -> None:
    tokens = Tokens()
    token = tokens.issue("pull", "ab", "c")
    expires, nonce, mac = token.split(".")
    wrong = [
        (token, ("pull", "a", "bc")),
        (token, ("remove", "ab", "c")),
        (f"{int(expires, 16) + 999:x}.{nonce}.{mac}", ("pull", "ab", "c")),
        (f"{expires}.{nonce[::-1]}.{mac}", ("pull", "ab", "c")),
        ("", ("pull", "ab", "c")),
        ("é.ü.ñ", ("pull", "ab", "c")),
    ]
    for told, subject in wrong:
        with pytest.raises(HerdError) as caught:
            tokens.spend(told, *subject)
        assert caught.value.info.code == ErrorCode.NOT_CONFIRMED
    with pytest.raises(HerdError):
        Tokens().spend(token, "pull", "ab", "c")
    tokens.spend(token, "pull", "ab", "c")


@pytest.mark.parametrize(
    ("declared", "asks"),
    [
        (None, False),
        (ElicitationCapability(), True),
        (ElicitationCapability(url=UrlElicitationCapability()), False),
    ],
)
def test_only_forms_count_as_a_way_to_ask(declared: ElicitationCapability | None, asks: bool) -> None:
    class Capabilities:
        elicitation = declared

    class Request:
        client_capabilities = Capabilities()

    assert can_ask(Request()) is asks  # type: ignore[arg-type]
