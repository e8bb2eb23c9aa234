"""Who may speak: the herd's authority, this node's certificate, and the ids that are shut out.

Every member holds the authority's key, so any of them can invite, and a Mac renews its own certificate. It also means
that a stolen Mac can make itself certificates: then the others need a new herd (docs/security.md).

Under HERD_HOME/trust, for this user only: `herd.json` is the herd (no such file: no herd), `members.json` who was met.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import re
import secrets
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from herd_mcp.fleet.grant import MAX_MEMBERS, MEMBERS, PREFIX_KEY_BYTES, Grant, Known, Secrets
from herd_mcp.fleet.private_files import PrivateFolder, write_private
from herd_mcp.jobs import NODE_ID, ErrorCode, HerdError
from herd_mcp.state import MAX_REVOKED

log = logging.getLogger(__name__)

RENEW_PART = 1 / 3
"""A certificate is made anew when less than this part of its time is left."""
DOMAIN = "herd.internal"
HERD_FILE, MEMBERS_FILE = "herd.json", "members.json"
Side = Literal["server", "client", "asking"]
_SAN = re.compile(rf"({NODE_ID})\.{re.escape(DOMAIN)}")


def dns_name(node_id: str) -> str:
    """The name in a node's certificate, which who connects to it checks."""
    return f"{node_id}.{DOMAIN}"


@functools.lru_cache(maxsize=4 * MAX_MEMBERS)
def _moment(text: str) -> float:
    return ssl.cert_time_to_seconds(text)


class Trust:
    """The herd of this node, or none. Open with `Trust.open`. One loop's, which waits for the
    disk only where a herd begins or ends."""

    def __init__(self, folder: Path, node_id: str, now: Callable[[], float]) -> None:
        self.folder = folder
        self.node_id = node_id
        self.known: Mapping[str, Known] = {}
        """Other members by id."""
        self.revoked: frozenset[str] = frozenset()
        """Ids that may not speak to this herd any more, for good."""
        self.on_revoked: Callable[[frozenset[str]], None] = lambda ids: None
        """Told of ids that are new among them: their connections are to be closed."""
        self._now = now
        self._files = PrivateFolder(folder)
        self._secrets: Secrets | None = None
        self._issuer: Any = None
        self._certificate = ""
        """Key and certificate of this node, PEM. On no disk, except for the moment in which OpenSSL reads it."""
        self._renew_at = 0.0
        self._contexts: dict[Side, ssl.SSLContext] = {}

    @classmethod
    def open(cls, folder: Path, node_id: str, now: Callable[[], float] = time.time) -> Trust:
        """The herd that `folder` holds, if it does. `now`: Unix seconds. A file that cannot be read is moved aside: the
        node then has no herd, and can join again."""
        trust = cls(folder, node_id, now)
        for left in folder.glob(".certificate.*"):  # of a node that was killed in that moment
            left.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            try:
                trust._take(Secrets.model_validate_json(trust._herd_file.read_bytes()))
                folder.chmod(0o700)
                trust._herd_file.chmod(0o600)
            except (ValidationError, HerdError) as error:
                aside = trust._herd_file.replace(folder / f"{HERD_FILE}.damaged")
                why = str(error) if isinstance(error, HerdError) else f"{error.error_count()} fields are wrong"
                log.error("the herd in %s cannot be used (%s); this Mac has none now: join again", aside, why)
        if trust.has_herd:
            try:
                met = MEMBERS.validate_json(trust._members_file.read_bytes())
                trust.known = {met_id: one for met_id, one in met.items() if trust._may_be_known(met_id)}
            except FileNotFoundError:
                pass
            except ValidationError:
                log.warning("%s cannot be read; the others are found anew", trust._members_file)
        return trust

    # ── the herd ──

    @property
    def has_herd(self) -> bool:
        return self._secrets is not None

    @property
    def herd_id(self) -> str:
        """16 hexadecimal digits that tell herds apart; empty without one. No secret."""
        return hashlib.sha256(self._secrets.authority_der).hexdigest()[:16] if self._secrets else ""

    @property
    def prefix_key(self) -> bytes:
        """The same on all members. Raises HerdError without a herd."""
        return bytes.fromhex(self._herd().prefix_key)

    @property
    def shut_out(self) -> bool:
        """Whether the others have revoked this node."""
        return self.node_id in self.revoked

    def make_herd(self) -> None:
        """A new herd, of which this node is the first member. Raises HerdError(disk)."""
        from herd_mcp.fleet.certificates import make_authority

        assert not self.has_herd
        key, authority = make_authority(self._now())
        self._begin(
            Secrets(authority_key=key, authority=authority, prefix_key=secrets.token_bytes(PREFIX_KEY_BYTES).hex())
        )

    def grant(self) -> Grant:
        """What a Mac needs to be a member, except for this node's own place in `members`."""
        herd = self._herd()
        return Grant(**herd.model_dump(), members=dict(self.known))

    def adopt(self, grant: Grant) -> None:
        """Be a member. Raises HerdError: unauthorized for a grant that is none, disk."""
        assert not self.has_herd
        self._begin(Secrets.model_validate(grant.model_dump(include=set(Secrets.model_fields))))
        for node_id, known in grant.members.items():
            self.remember(node_id, known.name, known.addresses)

    def forget(self) -> None:
        """Leave: the secrets and who was met are gone from memory and disk. Raises HerdError(disk)."""
        # The first is what makes a herd.
        self._files.remove(HERD_FILE, MEMBERS_FILE, ".*.draft", f"{HERD_FILE}.*")
        self._clear()

    # ── TLS ──

    def server_context(self) -> ssl.SSLContext:
        """For listeners: callers need a certificate of this herd. Stays valid over renewals, not over `forget`."""
        return self._context("server")

    def client_context(self) -> ssl.SSLContext:
        """For connections to members: the caller gives `dns_name` of the one that it means as the server's name."""
        return self._context("client")

    def asking_context(self) -> ssl.SSLContext:
        """For connections to a member of which only the address is known: it may be any."""
        return self._context("asking")

    def invite_context(self) -> ssl.SSLContext:
        """For the listener of an invite, which shows the authority's certificate to callers that have none."""
        herd = self._herd()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        self._load(context, herd.authority_key + herd.authority)
        return context

    def renew_when_due(self) -> None:
        """Make a new certificate when little of this one's time is left, also into contexts that are in use."""
        if self._secrets and self._now() >= self._renew_at:
            self._renew(self._secrets)

    def caller(self, certificate: Mapping[str, Any]) -> str:
        """The id of the node that speaks over a connection with this verified certificate (as `getpeercert` tells it).
        For each request: a connection may be older than what shuts its node out. Raises HerdError(unauthorized)."""
        names = certificate.get("subjectAltName", ())
        found = _SAN.fullmatch(names[0][1]) if len(names) == 1 and names[0][0] == "DNS" else None
        if found is None:
            raise _unauthorized("The certificate names no node.")
        node_id = found[1]
        if self._secrets is None or certificate.get("issuer") != self._issuer:
            raise _unauthorized(f"{node_id} is of another herd.")
        if _moment(certificate["notAfter"]) <= self._now():
            raise _unauthorized(
                f"The certificate of {node_id} has run out.", "Connect again; compare the Macs' clocks."
            )
        if node_id in self.revoked:
            raise _unauthorized(f"{node_id} was taken out of this herd.", "Run `herd-mcp leave` there.")
        if node_id == self.node_id:
            raise _unauthorized(
                f"Two Macs have the id {node_id}.",
                "A home was copied: on one of the two end the node, delete trust/ in its HERD_HOME, and join anew.",
            )
        return node_id

    # ── the others ──

    def revoke(self, node_ids: Iterable[str]) -> bool:
        """Shut nodes out for good. Whether one is new; at most MAX_REVOKED are kept. They are on the disk after
        `saved`."""
        herd = self._herd()
        new = sorted({one for one in node_ids if re.fullmatch(NODE_ID, one)} - self.revoked)
        new = new[: MAX_REVOKED - len(self.revoked)]
        if not new:
            return False
        changed = herd.model_copy(update={"revoked": tuple(sorted(self.revoked | set(new)))})
        self._secrets, self.revoked = changed, frozenset(changed.revoked)
        self._files.put(HERD_FILE, changed.model_dump_json())
        for node_id in new:
            self.drop(node_id)
        self.on_revoked(frozenset(new))
        return True

    def remember(self, node_id: str, name: str, addresses: Iterable[str]) -> bool:
        """Keep where a member was met. Whether that is new. What is no member's, or too many, is not kept."""
        try:
            met = Known(name=name, addresses=tuple(addresses))
        except ValidationError:
            return False
        if not self._may_be_known(node_id) or self.known.get(node_id) == met:
            return False
        if node_id not in self.known and len(self.known) >= MAX_MEMBERS - 1:
            return False
        self._keep({**self.known, node_id: met})
        return True

    def drop(self, node_id: str) -> None:
        """Forget a member that has left; it may join again."""
        if node_id in self.known:
            self._keep({one: known for one, known in self.known.items() if one != node_id})

    async def saved(self) -> None:
        """All that is known of the herd is on the disk. Raises HerdError(disk)."""
        await self._files.saved()

    # ── within ──

    @property
    def _herd_file(self) -> Path:
        return self.folder / HERD_FILE

    @property
    def _members_file(self) -> Path:
        return self.folder / MEMBERS_FILE

    def _herd(self) -> Secrets:
        if self._secrets is None:
            raise HerdError(
                ErrorCode.INVALID_REQUEST,
                "This Mac is in no herd.",
                "`herd-mcp invite` makes one; `herd-mcp join CODE` joins another Mac's.",
            )
        return self._secrets

    def _begin(self, made: Secrets) -> None:
        self._take(made)
        try:
            with self._files.disk():
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.folder.chmod(0o700)
            self._files.write(HERD_FILE, made.model_dump_json())
        except BaseException:
            with contextlib.suppress(HerdError):
                self.forget()
            self._clear()
            raise

    def _clear(self) -> None:
        self._secrets, self._issuer, self._certificate = None, None, ""
        self._contexts = {}
        self.known, self.revoked = {}, frozenset()

    def _take(self, made: Secrets) -> None:
        from herd_mcp.fleet.certificates import common_name, problem_of

        if problem := problem_of(made.authority_key, made.authority):
            raise _unauthorized(f"The herd's key and certificate are not valid: {problem}.")
        self._issuer = ((("commonName", common_name(made.authority)),),)
        self._renew(made)
        self._secrets, self.revoked = made, frozenset(made.revoked)

    def _renew(self, herd: Secrets) -> None:
        from herd_mcp.fleet.certificates import NODE_S, make_certificate

        now = self._now()
        self._certificate = make_certificate(herd.authority_key, herd.authority, dns_name(self.node_id), now)
        self._renew_at = now + NODE_S * (1 - RENEW_PART)
        for context in self._contexts.values():
            self._load(context, self._certificate)

    def _context(self, side: Side) -> ssl.SSLContext:
        herd = self._herd()
        self.renew_when_due()
        if side not in self._contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if side == "server" else ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            context.load_verify_locations(cadata=herd.authority)
            context.check_hostname = side == "client"
            if side == "server":
                context.num_tickets = 0  # a resumed session would show no certificate
            self._load(context, self._certificate)
            self._contexts[side] = context
        return self._contexts[side]

    def _load(self, context: ssl.SSLContext, pem: str) -> None:
        """OpenSSL reads keys from files only."""
        path = self.folder / f".certificate.{secrets.token_hex(4)}"
        try:
            with self._files.disk():
                write_private(path, pem)
            context.load_cert_chain(path)
        finally:
            path.unlink(missing_ok=True)

    def _may_be_known(self, node_id: str) -> bool:
        return bool(re.fullmatch(NODE_ID, node_id)) and node_id != self.node_id and node_id not in self.revoked

    def _keep(self, known: Mapping[str, Known]) -> None:
        self.known = known
        told = {node_id: one.model_dump(mode="json") for node_id, one in known.items()}
        self._files.put(MEMBERS_FILE, json.dumps(told))


def _unauthorized(message: str, hint: str = "") -> HerdError:
    return HerdError(ErrorCode.UNAUTHORIZED, message, hint)
