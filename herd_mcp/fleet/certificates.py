"""Keys and certificates of a herd: one authority that signs itself, and one certificate per node that it signs.

Imported when there is a herd, and not before: a lone node needs no cryptography.
"""

from __future__ import annotations

import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BACKDATE_S = 7 * 86_400.0
"""How long before it is made a certificate is valid: clocks of Macs differ."""
AUTHORITY_S = 20 * 365 * 86_400.0
NODE_S = 90 * 86_400.0
"""Each node makes itself a new certificate at its start and long before this one ends, so it may be short."""


def make_authority(now: float) -> tuple[str, str]:
    """A new authority: its key and its certificate, PEM. `now`: Unix seconds."""
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = _name(f"herd-mcp {identifier.digest.hex()[:16]}")
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_S)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # It signs handshakes too: who listens for a Mac that joins shows this certificate itself.
        .add_extension(_usage(digital_signature=True, key_cert_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return _key_pem(key), _pem(certificate)


def make_certificate(authority_key: str, authority: str, dns_name: str, now: float) -> str:
    """A new key and a certificate for a node, PEM, both in one text. `now`: Unix seconds."""
    signer = load_pem_private_key(authority_key.encode(), password=None)
    issuer = x509.load_pem_x509_certificate(authority.encode())
    assert isinstance(signer, ec.EllipticCurvePrivateKey)  # `problem_of` was asked before
    key = ec.generate_private_key(ec.SECP256R1())
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(_name(dns_name), issuer.subject, key.public_key(), now, NODE_S)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(dns_name)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_issuer_identifier(issuer), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _key_pem(key) + _pem(certificate)


def common_name(certificate: str) -> str:
    """The name of whom a certificate (PEM) is for."""
    (name,) = x509.load_pem_x509_certificate(certificate.encode()).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


def problem_of(authority_key: str, authority: str) -> str:
    """Why these two are no authority, as part of a sentence; empty when they are."""
    try:
        key = load_pem_private_key(authority_key.encode(), password=None)
        certificate = x509.load_pem_x509_certificate(authority.encode())
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            return "the key is not that of the certificate"
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return "the certificate may not sign others"
        common_name(authority)
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        return f"they cannot be read ({type(error).__name__})"
    return ""


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: float, valid_s: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now - BACKDATE_S))
        .not_valid_after(_moment(now + valid_s))
    )


def _issuer_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, digital_signature: bool, key_cert_sign: bool = False) -> x509.KeyUsage:
    others: dict[str, Any] = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(digital_signature=digital_signature, key_cert_sign=key_cert_sign, **others)


def _moment(unix_s: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).replace(microsecond=0)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
