"""An authority of a herd and certificates of its nodes, as TLS needs them."""

from __future__ import annotations

import datetime
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from herd_mcp.jobs import ErrorCode, HerdError

DAY = datetime.timedelta(days=1)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def id_in(cert: dict[str, Any]) -> str:
    return str(cert["subjectAltName"][0][1]).removesuffix(".herd.internal")


@dataclass
class Authority:
    """What signs the certificates of one herd; `revoked` ids may not speak."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    revoked: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.cert = self._signed("herd", self.key, x509.BasicConstraints(ca=True, path_length=0), ca=True)

    def _signed(
        self,
        common: str,
        key: ec.EllipticCurvePrivateKey,
        *extensions: x509.ExtensionType,
        days: tuple[float, float] = (-1, 1),
        ca: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common))
            .issuer_name(_name("herd"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * DAY)
            .not_valid_after(now + days[1] * DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=ca)
        return builder.sign(self.key, hashes.SHA256())

    def member(self, node_id: str, days: tuple[float, float] = (-1, 1)) -> Member:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(f"{node_id}.herd.internal")])
        cert = self._signed(node_id, key, names, days=days)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Member(node_id, self.pem, cert.public_bytes(serialization.Encoding.PEM) + private)

    @property
    def pem(self) -> str:
        return self.cert.public_bytes(serialization.Encoding.PEM).decode()

    def caller_of(self, cert: dict[str, Any]) -> str:
        """As the trust of a node does it."""
        node_id = id_in(cert)
        if node_id in self.revoked:
            raise HerdError(ErrorCode.UNAUTHORIZED, "This node was put out of the herd.")
        return node_id


@dataclass
class Member:
    """A node's certificate and key."""

    node_id: str
    authority_pem: str
    pem: bytes

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_REQUIRED
        return self._filled(context)

    def client(self) -> ssl.SSLContext:
        return self._filled(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _filled(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self.authority_pem)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "node.pem"
            file.write_bytes(self.pem)
            context.load_cert_chain(file)
        return context
