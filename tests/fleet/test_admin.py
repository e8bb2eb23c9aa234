"""What a person does with the herd of a Mac, and what happens around it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from herd_mcp.fleet.admin import HerdAdmin
from herd_mcp.fleet.trust import Trust
from herd_mcp.jobs import ErrorCode, HerdError
from tests.conftest import until
from tests.fleet.herds import A, B, C


class Mac:
    """A node as far as its herd goes; notes what its fleet would be told."""

    def __init__(self, folder: Path, node_id: str, name: str) -> None:
        self.told: list[str] = []
        self.fails = False
        self.online: frozenset[str] = frozenset()
        self.trust = Trust.open(folder / node_id, node_id)
        self.admin = HerdAdmin(
            self.trust,
            name,
            "127.0.0.1",
            on_joined=self.on_joined,
            on_left=self.on_left,
            addresses=lambda: (f"{name}:11436",),
            online=lambda: self.online,
        )

    async def on_joined(self) -> None:
        if self.fails:
            raise HerdError(ErrorCode.NO_NODE, "Port 11436 is taken.", "Choose another.")
        self.told.append(f"joined {self.trust.herd_id}")
        self.online = frozenset(self.trust.known)

    async def on_left(self) -> None:
        self.told.append(f"left {self.trust.herd_id}")
        if self.fails:
            raise RuntimeError("nobody is there")


@contextlib.asynccontextmanager
async def macs(folder: Path) -> AsyncIterator[tuple[Mac, Mac]]:
    both = Mac(folder, A, "alpha"), Mac(folder, B, "beta")
    try:
        yield both
    finally:
        for mac in both:
            await mac.admin.close()


async def refusal(what: object) -> HerdError:
    with pytest.raises(HerdError) as caught:
        await what  # type: ignore[misc]
    assert caught.value.info.hint
    return caught.value


async def test_the_first_invite_makes_the_herd_and_the_second_keeps_it(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, _):
        assert one.admin.invitation() is None
        first = await one.admin.invite()
        assert one.trust.herd_id == first.herd_id
        second = await one.admin.invite()
        assert second.herd_id == first.herd_id
        assert second.code != first.code
        assert one.told == [f"joined {first.herd_id}"]


async def test_a_new_invite_replaces_the_one_before(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, other):
        first = await one.admin.invite()
        second = await one.admin.invite()
        assert "No invite is open" in str(await refusal(other.admin.join(first.code)))
        joined = await other.admin.join(second.code)
        assert [(member.name, member.reached) for member in joined.members] == [("alpha", True)]
        assert other.told == [f"joined {one.trust.herd_id}"]


async def test_a_mac_that_has_a_herd_joins_no_other_until_it_leaves(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, other):
        await other.admin.invite()
        before = other.trust.herd_id
        code = (await one.admin.invite()).code
        assert "herd-mcp leave" in str(await refusal(other.admin.join(code)))
        assert other.trust.herd_id == before
        await other.admin.leave()
        assert (await other.admin.join(code)).herd_id == one.trust.herd_id


async def test_leaving_tells_the_others_first_and_forgets_in_any_case(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, other):
        await other.admin.join((await one.admin.invite()).code)
        await until(lambda: B in one.trust.known, "the invite is over")
        herd_id = other.trust.herd_id
        other.fails = True
        left = await other.admin.leave()
        assert (left.herd_id, left.members, left.invite) == (herd_id, ("alpha",), None)
        assert other.told[-1] == f"left {herd_id}"
        assert not other.trust.has_herd
        assert "in no herd" in str(await refusal(other.admin.leave()))
        other.fails = False
        one.online = frozenset({B})  # it was not told, and has heard of it a moment ago
        assert "try again in a minute" in str(await refusal(other.admin.join((await one.admin.invite()).code)))
        one.online = frozenset()
        await other.admin.join((await one.admin.invite()).code)  # it may come back, with the same id
        assert other.trust.herd_id == herd_id


async def test_a_mac_whose_port_for_the_others_does_not_open_has_no_herd(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, other):
        one.fails = True
        assert "taken" in str(await refusal(one.admin.invite()))
        assert not one.trust.has_herd
        one.fails = False
        code = (await one.admin.invite()).code
        other.fails = True
        assert "taken" in str(await refusal(other.admin.join(code)))
        assert not other.trust.has_herd
        await until(lambda: str(one.admin.invitation()).count("unconfirmed") == 1, "the inviting Mac knows")
        assert B not in one.trust.known


async def test_rotate_makes_a_herd_that_the_old_members_are_not_in(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, other):
        await other.admin.join((await one.admin.invite()).code)
        await until(lambda: B in one.trust.known, "the invite is over")
        left = await one.admin.leave(rotate=True)
        assert left.members == ("beta",)
        assert left.invite is not None
        assert one.trust.herd_id == left.invite.herd_id != left.herd_id
        assert not one.trust.known
        await refusal(other.admin.join(left.invite.code))
        await other.admin.leave()
        await other.admin.join(left.invite.code)
        assert other.trust.herd_id == one.trust.herd_id


async def test_a_member_is_taken_out_by_name_or_id_and_does_not_come_back(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, other):
        await other.admin.join((await one.admin.invite()).code)
        await until(lambda: B in one.trust.known, "the invite is over")
        assert (await one.admin.take_out("BETA")).revoked == "beta"
        assert one.trust.revoked == {B}
        assert (await one.admin.take_out(B)).revoked == B  # once more is no error
        await other.admin.leave()
        assert "trust/node_id" in str(await refusal(other.admin.join((await one.admin.invite()).code)))
        other.trust.node_id = C  # what the hint leads to
        await other.admin.join((await one.admin.invite()).code)


@contextlib.contextmanager
def busy_disk(mac: Mac) -> Iterator[None]:
    """What is written under trust/ waits meanwhile."""
    with mac.trust._files._lock:
        yield


async def test_nobody_waits_for_the_disk_but_who_takes_a_member_out(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, _):
        await one.admin.invite()
        one.trust.remember(B, "beta", [])
        await one.trust.saved()
        with busy_disk(one):
            taking = asyncio.create_task(one.admin.take_out("beta"))
            await until(lambda: one.trust.revoked == {B}, "it is shut out at once")
            for number in range(100):
                one.trust.remember(f"{number:010x}", "one", ["h:1"])
            await asyncio.sleep(0)
            assert not taking.done(), "it is told as done when it is on the disk"
            assert not Trust.open(one.trust.folder, A).revoked
        assert (await taking).revoked == "beta"
        again = Trust.open(one.trust.folder, A)
        assert again.revoked == {B}
        await one.trust.saved()
        assert Trust.open(one.trust.folder, A).known == one.trust.known


async def test_a_member_is_not_told_as_taken_out_until_the_disk_has_it(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, _):
        await one.admin.invite()
        one.trust.remember(B, "beta", [])
        await one.trust.saved()
        away = one.trust.folder.rename(tmp_path / "elsewhere")
        for _ in range(2):
            assert (await refusal(one.admin.take_out(B))).info.code == ErrorCode.DISK
            assert one.trust.revoked == {B}
        away.rename(one.trust.folder)
        await one.admin.take_out(B)
        assert Trust.open(one.trust.folder, A).revoked == {B}


async def test_what_the_disk_did_not_take_is_written_when_it_does(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, _):
        await one.admin.invite()
        away = one.trust.folder.rename(tmp_path / "elsewhere")
        one.trust.revoke([B])
        await refusal(one.trust.saved())
        away.rename(one.trust.folder)
        keeping = asyncio.create_task(one.admin.keep())
        await until(lambda: Trust.open(one.trust.folder, A).revoked == {B}, "it is on the disk")
        keeping.cancel()


async def test_nothing_is_written_any_more_by_who_has_left(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, _):
        await one.admin.invite()
        with busy_disk(one):
            one.trust.remember(B, "beta", [])
            one.trust.revoke([C])
            leaving = asyncio.get_running_loop().run_in_executor(None, one.trust.forget)
            await asyncio.wait({leaving}, timeout=0.2)  # it waits for what is being written, which ends like this
            (one.trust.folder / "herd.json").write_text("{}")
        await leaving
        await one.trust.saved()
        assert list(one.trust.folder.iterdir()) == []
        one.trust.make_herd()
        away = one.trust.folder.rename(tmp_path / "elsewhere")
        one.trust.remember(B, "beta", [])
        await refusal(one.trust.saved())
        away.rename(one.trust.folder)
        one.trust.forget()
        await one.trust.saved()
        assert list(one.trust.folder.iterdir()) == []


async def test_names_that_mean_nobody_or_several_are_refused(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, _):
        assert "in no herd" in str(await refusal(one.admin.take_out("beta")))
        await one.admin.invite()
        assert "It has no other" in str(await refusal(one.admin.take_out("beta")))
        one.trust.remember(B, "mini", [])
        one.trust.remember(C, "mini", [])
        error = await refusal(one.admin.take_out("mini"))
        assert B in str(error)
        assert C in str(error)
        assert "There are: mini, mini" in str(await refusal(one.admin.take_out("x" * 500)))
        assert len(str(await refusal(one.admin.take_out("x" * 500)))) < 300
        assert "is this Mac" in str(await refusal(one.admin.take_out("alpha")))
        assert not one.trust.revoked


async def test_a_mac_that_was_taken_out_itself_invites_nobody(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, _):
        await one.admin.invite()
        one.trust.revoke([A])
        assert one.trust.shut_out
        assert "herd-mcp leave" in str(await refusal(one.admin.invite()))
        await one.admin.leave()
        await one.admin.invite()


async def test_several_commands_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    async with macs(tmp_path) as (one, _):
        made = await asyncio.gather(*(one.admin.invite() for _ in range(3)))
        assert len({invite.herd_id for invite in made}) == 1
        assert one.told == [f"joined {one.trust.herd_id}"]
