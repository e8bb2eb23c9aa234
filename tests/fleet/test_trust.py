from __future__ import annotations

import datetime
import json
import logging
import socket
import ssl
import stat
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509

from herd_mcp.fleet.grant import MAX_MEMBERS, Grant
from herd_mcp.fleet.trust import Trust, dns_name
from herd_mcp.jobs import ErrorCode, HerdError
from herd_mcp.state import MAX_REVOKED
from tests.fleet.herds import DAY_S, A, B, C, listening, member

REFUSED = (ssl.SSLError, ConnectionError, EOFError)
"""How a client sees that TLS did not let it in; under TLS 1.3 only when it reads."""


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


# ── the herd on disk ──


def test_a_herd_is_on_disk_for_this_user_only_and_is_there_after_a_restart(tmp_path: Path) -> None:
    first = member(tmp_path, A)
    first.remember(B, "beta", ["10.0.0.2:11436"])
    first.revoke([C])
    assert modes(first.folder) == {0o600}
    assert stat.S_IMODE(first.folder.stat().st_mode) == 0o700
    again = Trust.open(first.folder, A)
    assert again.has_herd
    assert (again.herd_id, again.prefix_key, again.revoked, again.known) == (
        first.herd_id,
        first.prefix_key,
        frozenset({C}),
        first.known,
    )


def test_a_node_without_a_herd_says_what_makes_one(tmp_path: Path) -> None:
    trust = Trust.open(tmp_path, A)
    assert not trust.has_herd
    assert trust.herd_id == ""
    for ask in (trust.server_context, trust.client_context, trust.grant, lambda: trust.prefix_key):
        with pytest.raises(HerdError, match="herd-mcp invite"):
            ask()
    assert list(tmp_path.iterdir()) == []


def test_leaving_leaves_nothing_of_the_herd(tmp_path: Path) -> None:
    trust = member(tmp_path, A)
    trust.remember(B, "beta", [])
    trust.server_context()
    for left in (".herd.json.draft", "herd.json.damaged"):  # by a node that was killed while it wrote
        (trust.folder / left).write_text("")
    trust.forget()
    assert not trust.has_herd
    assert not trust.known
    assert list(trust.folder.iterdir()) == []
    assert not Trust.open(trust.folder, A).has_herd


def test_a_herd_whose_file_is_damaged_is_moved_aside_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trust = member(tmp_path, A)
    key = json.loads((trust.folder / "herd.json").read_text())["authority_key"]
    other = json.loads((member(tmp_path, B).folder / "herd.json").read_text())
    for text in ("{", "{}", json.dumps({**other, "authority_key": key}), json.dumps({**other, "authority": "no"})):
        (trust.folder / "herd.json").write_text(text)
        caplog.clear()
        opened = Trust.open(trust.folder, A)
        assert not opened.has_herd
        assert "join again" in caplog.text
        assert "PRIVATE" not in caplog.text
        assert (trust.folder / "herd.json.damaged").read_text() == text


def test_a_herd_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    trust = member(tmp_path, A)
    (trust.folder / "herd.json").chmod(0o644)
    trust.folder.chmod(0o755)
    assert Trust.open(trust.folder, A).has_herd
    assert modes(trust.folder) == {0o600}
    assert stat.S_IMODE(trust.folder.stat().st_mode) == 0o700


def test_a_list_of_members_that_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    trust = member(tmp_path, A)
    (trust.folder / "members.json").write_text('{"../../etc": {"name": "x"}}')
    opened = Trust.open(trust.folder, A)
    assert opened.has_herd
    assert not opened.known


def test_a_folder_that_cannot_be_written_makes_no_herd(tmp_path: Path) -> None:
    trust = Trust.open(tmp_path / "trust", A)
    (tmp_path / "trust").write_text("a file")
    with pytest.raises(HerdError) as caught:
        trust.make_herd()
    assert caught.value.info.code == ErrorCode.DISK
    assert not trust.has_herd


def test_a_grant_is_checked_before_it_is_kept(tmp_path: Path) -> None:
    one, other = member(tmp_path, A), member(tmp_path, B)
    mixed = Grant(**{**one.grant().model_dump(), "authority_key": other.grant().authority_key})
    third = Trust.open(tmp_path, C)
    with pytest.raises(HerdError) as caught:
        third.adopt(mixed)
    assert caught.value.info.code == ErrorCode.UNAUTHORIZED
    assert not third.has_herd


def test_keys_are_not_in_what_is_printed(tmp_path: Path) -> None:
    grant = member(tmp_path, A).grant()
    assert "PRIVATE" not in repr(grant)
    assert grant.prefix_key not in repr(grant)


# ── who is known ──


def test_members_are_remembered_up_to_the_limit_and_only_by_what_may_be_one(tmp_path: Path) -> None:
    trust = member(tmp_path, A)
    trust.revoke([C])
    refused = [(A, "me"), (C, "revoked"), ("../../etc/x", "path"), ("b" * 11, "long"), (B, "../x"), (B, "")]
    assert not any(trust.remember(node_id, name, []) for node_id, name in refused)
    assert not trust.remember(B, "beta", ["x"] * 17)
    assert not trust.remember(B, "beta", ["x" * 257])
    ids = [f"{number:010x}" for number in range(MAX_MEMBERS)]
    assert [trust.remember(node_id, "one", ["h:1"]) for node_id in ids] == [True] * (MAX_MEMBERS - 1) + [False]
    assert not trust.remember(ids[0], "one", ["h:1"])
    assert trust.remember(ids[0], "one", ["h:2"])
    assert len(trust.known) == MAX_MEMBERS - 1
    trust.drop(ids[0])
    assert trust.remember(ids[-1], "one", [])
    assert Trust.open(trust.folder, A).known == trust.known


def test_revoked_ids_are_bounded_forgotten_as_members_told_once_and_given_to_who_joins(tmp_path: Path) -> None:
    trust = member(tmp_path, A)
    told: list[frozenset[str]] = []
    trust.on_revoked = told.append
    trust.remember(B, "beta", [])
    assert trust.revoke([B, "no id", "../x"])
    assert not trust.revoke([B])
    assert told == [frozenset({B})]
    assert B not in trust.known
    assert not trust.remember(B, "beta", [])
    assert member(tmp_path, C, of=trust).revoked == {B}
    assert trust.revoke(f"{number:010x}" for number in range(2 * MAX_REVOKED))
    assert len(trust.revoked) == MAX_REVOKED
    assert B in trust.revoked
    assert Trust.open(trust.folder, A).revoked == trust.revoked


# ── TLS ──


async def test_members_know_each_other_by_their_ids(tmp_path: Path) -> None:
    one = member(tmp_path, A)
    other = member(tmp_path, B, of=one)
    for server, client in ((one, other), (other, one)):
        async with listening(server) as listener, listener.line(client.client_context()) as line:
            assert await line.ask() == client.node_id
            assert line.writer.get_extra_info("ssl_object").version() == "TLSv1.3"


async def test_a_caller_without_a_certificate_is_refused(tmp_path: Path) -> None:
    one = member(tmp_path, A)
    bare = ssl.create_default_context(cadata=one.grant().authority)
    async with listening(one) as listener:
        with pytest.raises(REFUSED):
            async with listener.line(bare) as line:
                await line.ask()


async def test_another_herds_member_is_refused_by_both_sides(tmp_path: Path) -> None:
    one, stranger = member(tmp_path, A), member(tmp_path, B)
    async with listening(one) as listener:
        with pytest.raises(ssl.SSLCertVerificationError):
            async with listener.line(stranger.client_context()):
                pass
        credulous = stranger.client_context()
        credulous.check_hostname = False
        credulous.verify_mode = ssl.CERT_NONE
        with pytest.raises(REFUSED):
            async with listener.line(credulous) as line:
                await line.ask()


async def test_a_client_takes_no_member_for_another(tmp_path: Path) -> None:
    one = member(tmp_path, A)
    other = member(tmp_path, B, of=one)
    async with listening(one) as listener:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            async with listener.line(other.client_context(), dns_name(C)):
                pass


async def test_a_certificate_that_has_run_out_is_refused_by_both_sides(tmp_path: Path) -> None:
    one = member(tmp_path, A, now=lambda: time.time() - 1000 * DAY_S)
    old = member(tmp_path, B, of=one, now=lambda: time.time() - 200 * DAY_S)
    fresh = member(tmp_path, C, of=one)
    async with listening(fresh) as listener:
        with pytest.raises(REFUSED):
            async with listener.line(old.client_context()) as line:
                await line.ask()
    async with listening(old) as listener:
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            async with listener.line(fresh.client_context()):
                pass


@pytest.mark.parametrize("days", [-5, 5])
async def test_clocks_that_are_days_apart_do_not_keep_members_apart(tmp_path: Path, days: int) -> None:
    one = member(tmp_path, A, now=lambda: time.time() + days * DAY_S)
    other = member(tmp_path, B, of=one)
    async with listening(other) as listener, listener.line(one.client_context()) as line:
        assert await line.ask() == A


async def test_one_that_is_taken_out_is_refused_on_the_connection_it_has(tmp_path: Path) -> None:
    one = member(tmp_path, A)
    other = member(tmp_path, B, of=one)
    async with listening(one) as listener, listener.line(other.client_context()) as line:
        assert await line.ask() == B
        one.revoke([B])
        assert "taken out" in await line.ask()
        async with listener.line(other.client_context()) as new:
            assert "taken out" in await new.ask()


async def test_a_connection_is_refused_when_its_certificate_runs_out_or_the_herd_changes(tmp_path: Path) -> None:
    ahead_s = 0.0
    one = member(tmp_path, A, now=lambda: time.time() + ahead_s)
    other = member(tmp_path, B, of=one)
    async with listening(one) as listener, listener.line(other.client_context()) as line:
        assert await line.ask() == B
        ahead_s = 91 * DAY_S
        assert "run out" in await line.ask()
        ahead_s = 0.0
        one.forget()
        assert "another herd" in await line.ask()
        one.make_herd()
        assert "another herd" in await line.ask()


async def test_a_second_mac_with_the_id_of_this_one_is_refused(tmp_path: Path) -> None:
    one = member(tmp_path, A)
    (tmp_path / "copy").mkdir()
    twin = Trust.open(tmp_path / "copy", A)
    twin.adopt(one.grant())
    async with listening(one) as listener, listener.line(twin.client_context()) as line:
        assert "Two Macs have the id" in await line.ask()


@pytest.mark.parametrize(
    "names", [(), (("DNS", "localhost"),), (("DNS", f"{A}.herd.internal"), ("DNS", f"{B}.herd.internal"))]
)
def test_a_certificate_that_does_not_name_one_node_is_refused(tmp_path: Path, names: tuple[object, ...]) -> None:
    with pytest.raises(HerdError, match="names no node"):
        member(tmp_path, C).caller({"subjectAltName": names})


def test_no_session_is_resumed(tmp_path: Path) -> None:
    """A resumed session would show no certificate, so nobody could be shut out of it."""
    one = member(tmp_path, A)
    context = member(tmp_path, B, of=one).client_context()
    with socket.create_server(("127.0.0.1", 0)) as listening_on:
        server = threading.Thread(target=_greet, args=(listening_on, one.server_context(), 2))
        server.start()
        sessions: list[ssl.SSLSession | None] = [None]
        for _ in range(2):
            with (
                socket.create_connection(listening_on.getsockname(), 30) as raw,
                context.wrap_socket(raw, server_hostname=dns_name(A), session=sessions[-1]) as connection,
            ):
                assert connection.recv(5) == b"hello"  # a ticket would come before it
                assert not connection.session_reused
                session = connection.session
                assert session is None or not session.has_ticket
                sessions.append(session)
        server.join(30)


def _greet(listening_on: socket.socket, context: ssl.SSLContext, times: int) -> None:
    for _ in range(times):
        raw, _ = listening_on.accept()
        raw.settimeout(30)
        with raw, context.wrap_socket(raw, server_side=True) as connection:
            connection.sendall(b"hello")
            connection.recv(1)


async def test_a_certificate_is_renewed_in_the_contexts_that_are_in_use(tmp_path: Path) -> None:
    days = 0.0
    one = member(tmp_path, A, now=lambda: time.time() + days * DAY_S)
    looker = member(tmp_path, B, of=one).client_context()
    looker.check_hostname = False
    looker.verify_mode = ssl.CERT_NONE  # it looks at certificates of the future
    serials = []
    async with listening(one) as listener:
        for days in (0, 59, 61, 122):
            one.renew_when_due()
            async with listener.line(looker) as line:
                der = line.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            shown = x509.load_der_x509_certificate(der)
            serials.append(shown.serial_number)
            left_s = shown.not_valid_after_utc.timestamp() - time.time() - days * DAY_S
            assert left_s > 29 * DAY_S
            assert shown.not_valid_after_utc - shown.not_valid_before_utc < datetime.timedelta(days=365)
    assert serials[0] == serials[1]
    assert len(set(serials)) == 3
    assert modes(one.folder) == {0o600}


def test_who_calls_is_told_quickly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is asked for every request: no file, no signature, nothing logged."""
    one = member(tmp_path, A)
    certificate = {
        "subjectAltName": (("DNS", dns_name(B)),),
        "issuer": one._issuer,
        "notAfter": "Nov 21 00:00:00 2099 GMT",
    }
    one.folder.rename(tmp_path / "elsewhere")
    with caplog.at_level(logging.DEBUG):
        started = time.process_time()
        for _ in range(10_000):
            assert one.caller(certificate) == B
        assert time.process_time() - started < 5
    assert not caplog.records
