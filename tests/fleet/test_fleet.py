"""Whole fleets in virtual time over a network in memory."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.parts.mesh import MemoryTrust, Net, node_id, state_of, statuses, virtually
from herd_mcp.fleet.fleet import BEAT_S, CONTACT_S
from herd_mcp.fleet.found import Found
from herd_mcp.fleet.links import MOST_HINTS, MOST_LINKS, MOST_TRIED
from herd_mcp.fleet.strangers import MOST_SHOWN
from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.settings import load_settings
from herd_mcp.state import MAX_REVOKED, MAX_REVOKED_TOLD, NodeState, Work


def test_a_node_that_joins_and_knows_the_others_is_known_to_all_within_a_second() -> None:
    async def main() -> None:
        net = Net()
        macs = [*await net.herd(4), await net.mac(5, knows=[1, 2, 3, 4])]
        await asyncio.sleep(1)
        for mac in macs:
            assert list(statuses(mac).values()) == ["online"] * 4

    virtually(main())


def test_nothing_to_tell_is_one_exchange_of_each_two_nodes_in_five_seconds() -> None:
    async def main() -> None:
        net = Net()
        await net.herd(4)
        net.calls.clear()
        await asyncio.sleep(100)
        pairs = 4 * 3 / 2
        assert 100 / 5 * pairs <= len(net.calls) <= 100 / 4 * pairs
        assert len(set(net.calls)) == 12, "each calls each at times, so that both know whether they reach each other"

    virtually(main())


def test_a_change_that_matters_is_known_everywhere_within_half_a_second_in_the_largest_herd() -> None:
    async def main() -> None:
        net = Net(delay_s=0.02)
        macs = await net.herd(32)
        for _ in range(20):
            await asyncio.sleep(0.07)
            macs[3].state = macs[3].state.model_copy(update={"queued": macs[3].state.queued + 1})
            macs[3].fleet.changed()
        await asyncio.sleep(0.5)
        for mac in macs[:3] + macs[4:]:
            view = next(view for view in mac.fleet.views() if view.node_id == node_id(4))
            assert view.queued == 20

    virtually(main())


def test_a_single_change_is_told_within_a_tenth_of_a_second() -> None:
    async def main() -> None:
        net = Net(delay_s=0.0)
        one, two = await net.herd(2)
        one.state = one.state.model_copy(update={"running": 1})
        one.fleet.changed()
        await asyncio.sleep(0.1)
        assert two.fleet.views()[0].running == 1

    virtually(main())


def test_noise_alone_causes_no_traffic() -> None:
    async def main() -> None:
        net = Net()
        one, _ = await net.herd(2)
        await asyncio.sleep(0.5)
        net.calls.clear()
        for n in range(30):
            memory = one.state.memory.model_copy(update={"available_bytes": 30 * 1024**3 - n * 10**7})
            one.state = one.state.model_copy(update={"memory": memory, "work": Work(chat_s=n / 20)})
            one.fleet.changed()
            await asyncio.sleep(0.1)
        assert len(net.calls) <= 1, "the beat alone"

    virtually(main())


def test_a_killed_node_is_degraded_soon_offline_after_thirty_seconds_and_healed_by_its_first_word() -> None:
    async def main() -> None:
        net = Net()
        one, two = await net.herd(2)
        await net.kill(two)
        await asyncio.sleep(7.5)  # the next beat and a second try
        assert statuses(one) == {node_id(2): "degraded"}
        assert "Connection refused" in one.fleet.views()[0].reason
        await asyncio.sleep(30)
        assert statuses(one) == {node_id(2): "offline"}
        net.calls.clear()
        await asyncio.sleep(300)
        assert 10 <= len(net.calls) <= 14, "it is asked every half minute and no oftener"
        assert one.fleet.peer(node_id(2)) is not None
        changes = one.changes
        await net.mac(2, knows=[1], incarnation=2)
        await asyncio.sleep(0.1)
        assert statuses(one) == {node_id(2): "online"}
        assert one.changes > changes

    virtually(main())


def test_a_node_that_is_stopped_is_degraded_and_then_offline_by_its_silence() -> None:
    async def main() -> None:
        net = Net()
        one, _ = await net.herd(2)
        net.silent = lambda asker, target: True
        heard_s = one.fleet.views()[0].heard_s or 0.0
        await asyncio.sleep(16 - heard_s)
        assert statuses(one) == {node_id(2): "degraded"}
        await asyncio.sleep(15)
        assert statuses(one) == {node_id(2): "offline"}
        net.silent = lambda asker, target: False
        await asyncio.sleep(CONTACT_S + 31)
        assert statuses(one) == {node_id(2): "online"}

    virtually(main())


def test_a_node_that_is_heard_but_not_reached_gets_no_work() -> None:
    async def main() -> None:
        net = Net()
        one, two = await net.herd(2)
        net.cut = lambda asker, target: asker == node_id(1)
        await asyncio.sleep(60)
        assert statuses(one) == {node_id(2): "degraded"}
        assert one.fleet.views()[0].heard_s is not None
        assert statuses(two) == {node_id(1): "online"}
        net.cut = lambda asker, target: False
        await asyncio.sleep(6)
        assert statuses(one) == {node_id(2): "online"}

    virtually(main())


def test_after_a_sleep_nothing_is_believed_until_it_is_told_anew() -> None:
    async def main() -> None:
        net = Net()
        one, _, _ = await net.herd(3)
        net.cut = lambda asker, target: True
        net.calls.clear()
        one.steady_s += 3600
        assert set(statuses(one).values()) == {"degraded"}, "at once, not with the next tick"
        assert "slept" in one.fleet.views()[0].reason
        assert (one.fleet.views()[0].heard_s or 0) >= 3600
        await asyncio.sleep(0.01)
        assert net.calls.count((node_id(1), node_id(2))) == net.calls.count((node_id(1), node_id(3))) == 1
        net.cut = lambda asker, target: False
        await asyncio.sleep(2.5)
        assert set(statuses(one).values()) == {"online"}
        one.steady_s += 60
        await asyncio.sleep(1.1)  # noticed without anybody asking
        assert set(statuses(one).values()) == {"online"}
        assert len(net.calls) >= 6

    virtually(main())


def test_a_sleep_ends_the_silence_before_it_for_who_asks_at_once() -> None:
    async def main() -> None:
        net = Net()
        one, _ = await net.herd(2)
        net.silent = lambda asker, target: True
        await asyncio.sleep(12)
        assert one.fleet.silent_s(node_id(2)) > 5
        one.steady_s += 3600
        assert one.fleet.silent_s(node_id(2)) == 0, "not only with the next tick"

    virtually(main())


def test_who_stays_silent_after_a_sleep_is_offline_half_a_minute_later() -> None:
    async def main() -> None:
        net = Net()
        one, _ = await net.herd(2)
        net.silent = lambda asker, target: True
        one.steady_s += 3600
        await asyncio.sleep(28)
        assert statuses(one) == {node_id(2): "degraded"}
        await asyncio.sleep(4)
        assert statuses(one) == {node_id(2): "offline"}
        one.steady_s += 3600
        await asyncio.sleep(2)
        assert statuses(one) == {node_id(2): "offline"}, "another sleep makes nobody better"

    virtually(main())


def test_a_node_that_goes_says_so_and_one_that_drains_too() -> None:
    async def main() -> None:
        net = Net()
        one, two = await net.herd(2)
        two.state = two.state.model_copy(update={"status": "draining"})
        two.fleet.changed()
        await asyncio.sleep(0.2)
        assert statuses(one) == {node_id(2): "draining"}
        net.at.pop(two.address)
        await two.fleet.close("it left the herd")
        view = one.fleet.views()[0]
        assert (view.status, view.reason) == ("offline", "it left the herd")
        net.calls.clear()
        await asyncio.sleep(100)
        assert len(net.calls) <= 5, "who said good-bye is called every half minute from the first time on"

    virtually(main())


def test_a_full_herd_takes_no_other_and_shows_it_until_one_is_offline() -> None:
    async def main() -> None:
        net = Net()
        one = await net.mac(1)
        for n in range(2, 33):
            one.fleet.heard(node_id(n), state_of(n, addresses=(f"10.0.0.{n}:11436",)))
        with pytest.raises(HerdError, match="32 nodes") as refusal:
            one.fleet.heard(node_id(40), state_of(40))
        assert refusal.value.info.code is ErrorCode.FORBIDDEN
        assert [stranger.who for stranger in one.fleet.refused] == [node_id(40)]
        assert len(one.fleet.views()) == 31
        await asyncio.sleep(40)
        one.fleet.heard(node_id(40), state_of(40))
        assert len(one.fleet.views()) == 31

    virtually(main())


@pytest.mark.parametrize(
    ("caller", "told", "why"),
    [
        (2, state_of(3), "another node"),
        (2, state_of(2, wire=(2, 0)), "update herd-mcp on this Mac"),
        (1, state_of(1), "a home was copied"),
        (66, state_of(66), "was removed"),
    ],
)
def test_who_may_not_tell_is_refused_and_shown(caller: int, told: NodeState, why: str) -> None:
    async def main() -> None:
        net = Net()
        trust = MemoryTrust(revoked=frozenset({node_id(66)}))
        one = await net.mac(1, trust=trust)
        with pytest.raises(HerdError, match=why):
            one.fleet.heard(node_id(caller), told)
        assert one.fleet.views() == []
        assert why in one.fleet.refused[0].reason
        assert one.fleet.peer(node_id(caller)) is None

    virtually(main())


def test_an_answer_in_the_name_of_another_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        net = Net()
        one, two, _ = await net.herd(3)
        # the second gives the third's state for its own
        monkeypatch.setattr(two.fleet, "heard", lambda caller, state: state_of(3, incarnation=99))
        await asyncio.sleep(60)
        assert statuses(one)[node_id(3)] == "online"
        assert statuses(one)[node_id(2)] != "online"
        assert one.fleet.views()[1].incarnation == 1

    virtually(main())


def test_a_newer_minor_version_is_let_in() -> None:
    async def main() -> None:
        one = await Net().mac(1)
        one.fleet.heard(node_id(2), state_of(2, wire=(1, 9)))
        assert statuses(one) == {node_id(2): "online"}

    virtually(main())


def test_of_two_nodes_with_one_id_the_one_that_began_later_counts() -> None:
    async def main() -> None:
        one = await Net().mac(1)
        one.fleet.heard(node_id(2), state_of(2, incarnation=5, queued=5))
        with pytest.raises(HerdError, match="two say that they are this node"):
            one.fleet.heard(node_id(2), state_of(2, incarnation=4, revision=9, queued=4))
        assert one.fleet.views()[0].queued == 5
        assert one.fleet.refused[0].who == node_id(2)

    virtually(main())


def test_who_is_revoked_is_forgotten_by_all_and_the_word_passes_on() -> None:
    async def main() -> None:
        net = Net()
        one, two, three = await net.herd(3)
        # the second does not reach the third: it hears it from the first
        net.cut = lambda asker, target: {asker, target} == {node_id(1), node_id(2)}
        one.trust.revoke({node_id(9)})
        one.fleet.changed()
        await asyncio.sleep(0.6)
        assert node_id(9) in three.trust.revoked
        assert node_id(9) in two.trust.revoked
        net.cut = lambda asker, target: False
        one.trust.revoke({node_id(3)})
        one.fleet.changed()
        await asyncio.sleep(0.6)
        assert set(statuses(one)) == {node_id(2)}
        assert set(statuses(two)) == {node_id(1)}
        assert one.fleet.peer(node_id(3)) is None
        with pytest.raises(HerdError) as refusal:
            one.fleet.heard(node_id(3), three.fleet.state())
        assert refusal.value.info.code is ErrorCode.UNAUTHORIZED
        net.calls.clear()
        await asyncio.sleep(60)
        assert (node_id(1), node_id(3)) not in net.calls

    virtually(main())


def test_who_says_of_itself_that_it_is_shut_out_is_no_member_any_more() -> None:
    async def main() -> None:
        net = Net()
        one, two = await net.herd(2)
        with pytest.raises(HerdError, match="it left this herd") as refusal:
            one.fleet.heard(node_id(2), two.fleet.state().model_copy(update={"revoked": (node_id(2),)}))
        assert refusal.value.info.code is ErrorCode.UNAUTHORIZED
        assert not one.fleet.views()
        one.fleet.heard(node_id(3), state_of(3))
        changes = one.changes
        one.trust.revoke({node_id(3)})
        one.fleet.state()
        assert one.changes > changes, "who shows the others hears that one is gone"
        one.fleet.heard(node_id(4), state_of(4, revoked=(node_id(1),)))
        assert any("mac-4 says that this Mac was taken out" in stranger.reason for stranger in one.fleet.refused)

    virtually(main())


def test_a_long_list_of_those_who_are_shut_out_is_known_to_all_at_once_in_small_parts() -> None:
    async def main() -> None:
        net = Net()
        parts: list[int] = []

        def note(state: NodeState) -> int:
            parts.append(len(state.revoked))
            return 0

        net.size = note
        macs = await net.herd(3)
        gone = {node_id(1000 + n) for n in range(MAX_REVOKED)}
        macs[0].trust.revoke(gone)
        macs[0].fleet.changed()
        await asyncio.sleep(2.5)
        assert all(mac.trust.revoked == gone for mac in macs)
        assert max(parts) == MAX_REVOKED_TOLD
        await asyncio.sleep(35)
        parts.clear()
        await asyncio.sleep(60)
        assert parts
        assert max(parts) == 0, "who knows of all is told of none"

    virtually(main())


def test_who_can_only_ask_and_is_never_reached_hears_of_all_who_are_shut_out() -> None:
    async def main() -> None:
        net = Net()
        one, two = await net.herd(2)
        net.cut = lambda asker, target: asker == node_id(1)
        gone = {node_id(1000 + n) for n in range(MAX_REVOKED)}
        one.trust.revoke(gone)
        one.fleet.changed()
        await asyncio.sleep(MAX_REVOKED / MAX_REVOKED_TOLD * BEAT_S + 10)
        assert two.trust.revoked == gone

    virtually(main())


def test_a_member_that_tells_ever_new_ids_as_shut_out_is_remembered_within_bounds() -> None:
    async def main() -> None:
        trust = MemoryTrust()
        one = await Net().mac(1, trust=trust)
        one.fleet.heard(node_id(2), state_of(2))
        trust.revoke = lambda node_ids: False  # type: ignore[method-assign]  # its list is full
        for n in range(20):
            told = tuple(node_id(1000 * n + m) for m in range(1000, 1000 + MAX_REVOKED))
            one.fleet.heard(node_id(2), state_of(2, revision=n, revoked=told))
        link = one.fleet._links.get(node_id(2))
        assert link is not None
        assert len(link._shut_out) <= MAX_REVOKED

    virtually(main())


def test_who_is_started_anew_and_has_lost_whom_to_shut_out_is_told_again() -> None:
    async def main() -> None:
        net = Net()
        one, two = await net.herd(2)
        one.trust.revoke({node_id(9)})
        one.fleet.changed()
        await asyncio.sleep(60)
        assert node_id(9) in two.trust.revoked
        await net.kill(two)
        again = await net.mac(2, knows=[1], incarnation=2)
        await asyncio.sleep(1)
        assert node_id(9) in again.trust.revoked

    virtually(main())


def test_two_nodes_with_one_name_are_shown_apart() -> None:
    async def main() -> None:
        one = await Net().mac(1)
        for n in (2, 3, 4):
            one.fleet.heard(node_id(n), state_of(n, name="Studio" if n < 4 else "mac-1"))
        names = {view.node_id: view.name for view in one.fleet.views()}
        assert names == {
            node_id(2): f"Studio-{node_id(2)}",
            node_id(3): f"Studio-{node_id(3)}",
            node_id(4): f"mac-1-{node_id(4)}",
        }

    virtually(main())


def test_what_is_announced_by_a_thousand_strangers_takes_bounded_memory_and_few_calls_and_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        net = Net()
        one, _ = await net.herd(2)
        net.calls.clear()
        ours = one.trust.herd_id[:16]
        for n in range(1000):
            one.fleet.found(Found(node_id(1000 + n), ours, (1, 0), (f"10.9.0.{n % 250}:1",)))
            one.fleet.found(Found(node_id(9000 + n), "cd" * 8, (1, 0), ("10.9.0.1:1",)))
            one.fleet.found(Found(node_id(2), ours, (1, 0), (f"10.9.{n % 250}.9:1",)))
        assert len(one.fleet._links) <= MOST_TRIED + 1
        assert len(one.fleet._links._hints) <= MOST_HINTS
        assert len(one.fleet.refused) <= MOST_SHOWN
        assert len(one.fleet._links.to(node_id(2)).addresses) <= 16
        await asyncio.sleep(20)
        assert statuses(one) == {node_id(2): "online"}
        strange = [target for asker, target in net.calls if asker == node_id(1) and target != node_id(2)]
        assert len(strange) <= MOST_TRIED * 3 * 7
        await asyncio.sleep(600)
        assert len(one.fleet._links) == 1, "who never answered is not asked for ever"

    virtually(main())
    assert len([record for record in caplog.records if "not let in" in record.message]) <= 12


def test_who_announces_another_herd_is_shown_and_never_called() -> None:
    async def main() -> None:
        net = Net()
        one, two = await net.mac(1), await net.mac(2)
        one.fleet.found(Found(node_id(2), "cd" * 8, (1, 0), (two.address,)))
        one.fleet.found(Found(node_id(1), "cd" * 8, (1, 0), (two.address,)))
        await asyncio.sleep(60)
        assert net.calls == []
        assert [(one.who, one.reason) for one in one.fleet.refused] == [(node_id(2), "it is of another herd")]
        await asyncio.sleep(600)
        assert one.fleet.refused == [], "shown for a while"

    virtually(main())


def test_an_announced_node_of_the_herd_is_met_and_remembered_once() -> None:
    async def main() -> None:
        net = Net()
        one, two = await net.mac(1), await net.mac(2)
        one.fleet.found(Found(node_id(2), one.trust.herd_id[:16], (1, 0), (two.address,)))
        one.fleet.found(Found(node_id(3), one.trust.herd_id[:16], (2, 0), ("10.0.0.3:1",)))
        for _ in range(20):
            two.state = two.state.model_copy(update={"queued": two.state.queued + 1})
            two.fleet.changed()
            await asyncio.sleep(1)
        assert statuses(one) == {node_id(2): "online"}
        assert statuses(two) == {node_id(1): "online"}
        assert one.trust.known[node_id(2)].addresses == (two.address,)
        assert one.trust.writes == 1
        assert [stranger.who for stranger in one.fleet.refused] == [node_id(3)]

    virtually(main())


def test_a_given_address_is_asked_who_it_is_until_somebody_is_there() -> None:
    async def main() -> None:
        net = Net()
        asked: list[float] = []

        async def identify(address: str) -> str:
            asked.append(asyncio.get_running_loop().time())
            if address == "10.0.0.66:1":
                raise HerdError(ErrorCode.UNAUTHORIZED, "It is not of this herd.")
            if address not in net.at:
                raise HerdError(ErrorCode.NODE_LOST, "Connection refused.")
            return net.at[address].fleet.node_id

        settings = load_settings(bonjour=False, peers=("10.0.0.2:11436", "10.0.0.1:11436", "10.0.0.66:1"))
        one = await net.mac(1, settings=settings, identify=identify)
        await asyncio.sleep(300)
        assert one.fleet.views() == []
        assert [stranger.who for stranger in one.fleet.refused] == ["10.0.0.66:1"]
        two = await net.mac(2)
        await asyncio.sleep(31)
        assert statuses(one) == {node_id(2): "online"}
        assert statuses(two) == {node_id(1): "online"}
        assert len(asked) < 60

    virtually(main())


def test_after_a_sleep_given_addresses_are_asked_again_at_once() -> None:
    async def main() -> None:
        net = Net()
        asked: list[str] = []

        async def identify(address: str) -> str:
            asked.append(address)
            raise HerdError(ErrorCode.NODE_LOST, "No route to host.")

        one = await net.mac(1, settings=load_settings(bonjour=False, peers=("10.0.0.2:11436",)), identify=identify)
        await asyncio.sleep(300)
        asked.clear()
        one.steady_s += 3600
        one.fleet.views()
        await asyncio.sleep(0.01)
        assert asked == ["10.0.0.2:11436"]

    virtually(main())


def test_an_address_that_fails_gives_way_to_the_next() -> None:
    async def main() -> None:
        net = Net()
        one = await net.mac(1)
        two = await net.mac(2)
        one.trust.remember(node_id(2), "mac-2", ("10.7.7.7:1", "10.7.7.8:1", two.address))
        await asyncio.sleep(10)
        assert statuses(one) == {node_id(2): "online"}
        assert one.fleet._links.to(node_id(2)).addresses[0] == two.address

    virtually(main())


def test_links_are_bounded_whatever_is_remembered() -> None:
    async def main() -> None:
        net = Net()
        one = await net.mac(1, knows=range(2, 200))
        await asyncio.sleep(2)
        assert len(one.fleet._links) == MOST_LINKS
        assert net.most_open <= MOST_LINKS

    virtually(main())


def test_a_node_whose_clock_was_set_back_is_heard_again_once_its_earlier_start_is_silent() -> None:
    async def main() -> None:
        net = Net()
        one, two = await net.herd(2)
        await net.kill(two)
        await net.mac(2, knows=[1], incarnation=0)
        await asyncio.sleep(70)
        assert statuses(one) == {node_id(2): "online"}

    virtually(main())


def test_the_state_answered_after_a_reservation_has_it_in_it() -> None:
    async def main() -> None:
        one = await Net().mac(1)
        before = one.fleet.state()
        one.state = one.state.model_copy(update={"queued": 1})
        after = one.fleet.state()
        assert (after.incarnation, after.revision) == (before.incarnation, before.revision + 1)
        assert after.queued == 1
        assert one.fleet.state() is after, "nothing changed: nothing is stamped anew"

    virtually(main())
