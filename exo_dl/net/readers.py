"""Read-only tickets: a certificate and its key that let somebody watch a cluster, and do nothing else.

A ticket is one PEM text: key, certificate, and the authority that nodes' certificates are checked with, so that any TLS
client can use it. Its certificate has a name that no node's has, and is for clients only. It ends by itself; before
that it is revoked by its id, which stands in its name. (The tickets of `exo_dl.net.tickets` are another thing: one
request for pieces each.)
"""

from __future__ import annotations

import base64
import datetime
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exo_dl.errors import AccessError, UsageError
from exo_dl.net.identity import BACKDATE, Identity, key_usage

__all__ = ["MAX_DAYS", "ReaderTicket", "certified_reader", "is_reader_id", "issue", "read_ticket"]

MAX_DAYS = 366.0

_SUFFIX = ".reader.exo-dl.internal"
_ID = re.compile(r"[a-z2-7]{8}")
_MAX_BYTES = 16_384
_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----\n.+?-----END \1-----\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ReaderTicket:
    """A ticket in the hand of who uses it.

    Attributes:
        id: eight characters.
        key: PEM of the private key.
        certificate: PEM of the certificate.
        authority: PEM of the cluster's authority.
        ends_at_s: Unix time of its end.
    """

    id: str
    key: bytes
    certificate: bytes
    authority: bytes
    ends_at_s: float

    @property
    def pem(self) -> str:
        """The text that is given away."""
        return (self.key + self.certificate + self.authority).decode("ascii")


def is_reader_id(text: str) -> bool:
    """Whether `text` has the form of a ticket's id."""
    return _ID.fullmatch(text) is not None


def certified_reader(names: Collection[str]) -> str | None:
    """The id of the ticket whose verified certificate has these names; None where it is no ticket's."""
    ids = [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]
    return ids[0] if len(names) == 1 and len(ids) == 1 and is_reader_id(ids[0]) else None


def issue(identity: Identity, *, days: float, now: datetime.datetime | None = None) -> ReaderTicket:
    """A fresh ticket.

    Args:
        identity: a member's.
        days: how long it is good, at most `MAX_DAYS`.
        now: the time; None: that of the clock.

    Raises:
        UsageError: ``days`` is out of range.
    """
    if not 0 < days <= MAX_DAYS:
        raise UsageError(
            f"A ticket cannot be good for {days:g} days.", hint=f"Give more than 0 and at most {MAX_DAYS:g}."
        )
    begin = now or datetime.datetime.now(datetime.UTC)
    end = begin + datetime.timedelta(days=days)
    ticket_id = base64.b32encode(secrets.token_bytes(5)).decode("ascii").lower()
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = identity.sign(
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"exo-dl reader {ticket_id}")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - BACKDATE)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(ticket_id + _SUFFIX)]), critical=False)
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return ReaderTicket(
        id=ticket_id,
        key=pem,
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        authority=identity.ca_pem,
        ends_at_s=certificate.not_valid_after_utc.timestamp(),
    )


def read_ticket(text: str, *, now: datetime.datetime | None = None) -> ReaderTicket:
    """The ticket that `ReaderTicket.pem` gave.

    Args:
        text: PEM, as it was given away.
        now: the time; None: that of the clock.

    Raises:
        UsageError: the text is no ticket. It is never repeated.
        AccessError: the ticket has ended.
    """
    blocks: dict[str, list[str]] = {}
    for match in _BLOCK.finditer(text[:_MAX_BYTES].replace("\r\n", "\n")):
        blocks.setdefault(match[1], []).append(match[0].rstrip() + "\n")
    keys, certificates = blocks.get("PRIVATE KEY", []), blocks.get("CERTIFICATE", [])
    try:
        if len(keys) != 1 or len(certificates) != 2 or len(text) > _MAX_BYTES:
            raise ValueError("not the blocks of a ticket")
        certificate = x509.load_pem_x509_certificate(certificates[0].encode("ascii"))
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        ticket_id = certified_reader(extension.value.get_values_for_type(x509.DNSName))
        if ticket_id is None:
            raise ValueError("not the name of a ticket")
    except (ValueError, x509.ExtensionNotFound):
        raise UsageError(
            "This is no ticket of exo-dl.",
            hint="It is what `exo-dl cluster ticket --read-only` prints: a private key and two certificates.",
        ) from None
    end = certificate.not_valid_after_utc
    if (now or datetime.datetime.now(datetime.UTC)) >= end:
        raise AccessError(
            f"The ticket {ticket_id} ended on {end:%Y-%m-%d}.",
            hint="A member of the cluster makes a new one: exo-dl cluster ticket --read-only",
        )
    return ReaderTicket(
        id=ticket_id,
        key=keys[0].encode("ascii"),
        certificate=certificates[0].encode("ascii"),
        authority=certificates[1].encode("ascii"),
        ends_at_s=end.timestamp(),
    )
