"""The cluster secret, and what every node derives from it: the cluster's authority, certificates and keys.

The secret is 160 random bits. HKDF-SHA256 (RFC 5869) with one context string per use makes from it the private key of
the cluster's certificate authority (P-256) and the key of piece tickets. Each node signs its own certificate, whose
name is its node id, so nothing has to be exchanged beyond the secret itself. Who has the secret is a full member.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exo_dl.errors import UsageError

__all__ = [
    "BACKDATE",
    "NODE_SAN",
    "Identity",
    "certified_node",
    "is_node_id",
    "key_usage",
    "new_node_id",
    "new_secret",
    "parse_secret",
]

NODE_SAN = "node.exo-dl.internal"
"""The second name in every node's certificate: for calls to an address whose node id is not known yet."""

_PREFIX = "exo-dl-"
_SECRET_BYTES = 20
_SECRET_CHARS = 32
_CHECK_CHARS = 4
_SECRET_RE = re.compile(rf"[a-z2-7]{{{_SECRET_CHARS + _CHECK_CHARS}}}")
_NODE_ID_CHARS = 16
_NODE_ID_RE = re.compile(rf"[a-z2-7]{{{_NODE_ID_CHARS}}}")
_HOW_TO_GET_ONE = "Make one with `exo-dl cluster new-secret`, or copy it from another machine (`exo-dl cluster show`)."
# What people read wrongly when they copy by hand: these digits are not in the base32 alphabet.
_LOOK_ALIKES = str.maketrans({"0": "o", "1": "l", "8": "b"})
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

BACKDATE = datetime.timedelta(days=2)
"""Clocks of members may differ by a day: certificates begin well before now."""

_LIFE = datetime.timedelta(days=30)
# Made anew after half of its life, or when the clock was set back so far that peers could refuse it.
_RENEW_AFTER_START = datetime.timedelta(days=1)


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").lower().rstrip("=")


def _checksum(chars: str) -> str:
    return _base32(hashlib.sha256(b"exo-dl v1 secret checksum " + chars.encode("ascii")).digest())[:_CHECK_CHARS]


def _secret_text(secret: bytes) -> str:
    chars = _base32(secret)
    chars += _checksum(chars)
    return _PREFIX + "-".join(chars[i : i + 4] for i in range(0, len(chars), 4))


def new_secret() -> str:
    """A fresh cluster secret as text: "exo-dl-" and nine groups of four letters and digits."""
    return _secret_text(secrets.token_bytes(_SECRET_BYTES))


def parse_secret(text: str) -> bytes:
    """The 20 bytes of a secret that `new_secret` made. Case, spaces, line ends and missing dashes do not matter.

    Raises:
        UsageError: for anything else. The message never repeats the text.
    """
    chars = re.sub(r"[\s-]", "", text.casefold()).translate(_LOOK_ALIKES)
    if len(chars) > _SECRET_CHARS + _CHECK_CHARS:
        chars = chars.removeprefix(_PREFIX.replace("-", ""))
    if not _SECRET_RE.fullmatch(chars):
        raise UsageError(
            "The cluster secret is not one that exo-dl made: it begins with exo-dl- and has nine groups of four "
            "letters and digits. Words of your own cannot be used.",
            hint=_HOW_TO_GET_ONE,
        )
    body, check = chars[:_SECRET_CHARS], chars[_SECRET_CHARS:]
    if not hmac.compare_digest(_checksum(body), check):
        raise UsageError("The cluster secret has a typing error: its last group does not fit.", hint="Copy it again.")
    return base64.b32decode(body.upper())


def new_node_id() -> str:
    """A fresh node id: 16 characters of a-z and 2-7 (80 random bits)."""
    return _base32(secrets.token_bytes(10))


def is_node_id(text: str) -> bool:
    """Whether `text` has the form of a node id."""
    return _NODE_ID_RE.fullmatch(text) is not None


def certified_node(names: Collection[str]) -> str | None:
    """The node that the names of a verified certificate stand for; None where it is no member's.

    The cluster's authority signs more than members' certificates (`exo_dl.net.readers`), so whoever lets members in
    must ask this, and not only whether the signature is good.
    """
    ids = [name for name in names if is_node_id(name)]
    return ids[0] if len(ids) == 1 and NODE_SAN in names else None


def _derive(secret: bytes, context: str, length: int) -> bytes:
    info = f"exo-dl v1 {context}".encode()
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(secret)


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True, slots=True)
class _Keys:
    """What a secret stands for."""

    ca_key: ec.EllipticCurvePrivateKey
    ca: x509.Certificate
    ca_pem: bytes
    cluster_id: str
    ticket_key: bytes
    handover_key: bytes


@dataclass(frozen=True, slots=True)
class _Issued:
    """A certificate and when it may still be shown: well inside its validity, as peers' clocks differ."""

    pair: tuple[bytes, bytes]
    usable_from: datetime.datetime
    usable_until: datetime.datetime


class Identity:
    """One node's keys and certificate in one cluster. Thread-safe.

    Args:
        secret: the text that `new_secret` made.
        node_id: this node's id (`new_node_id`).
        clock: the time in UTC; only tests give another one.
        life: how long a certificate is good; only tests give another one.

    Raises:
        UsageError: the secret or the node id cannot be used.
    """

    def __init__(
        self,
        secret: str,
        node_id: str,
        *,
        clock: Callable[[], datetime.datetime] = _utc_now,
        life: datetime.timedelta = _LIFE,
    ) -> None:
        if not is_node_id(node_id):
            raise UsageError(f"{node_id[:40]!r} is not a node id.", hint="It has 16 characters of a-z and 2-7.")
        self._node_id = node_id
        self._clock = clock
        self._life = life
        self._keys = _keys_of(secret)
        self._lock = threading.Lock()
        self._issued: _Issued | None = None

    @property
    def node_id(self) -> str:
        """The id in this node's certificate."""
        return self._node_id

    @property
    def cluster_id(self) -> str:
        """16 characters, the same on all members: a hash of the authority's public key. It need not be hidden."""
        return self._keys.cluster_id

    @property
    def ca_pem(self) -> bytes:
        """The authority's certificate. Only its key counts: each node signs a copy of its own."""
        return self._keys.ca_pem

    def ticket_key(self) -> bytes:
        """32 bytes: the key of piece tickets, the same on all members."""
        return self._keys.ticket_key

    def adopt(self, secret: str) -> None:
        """Takes another secret: all that is asked for from now on is of that cluster. Open connections stay.

        Raises:
            UsageError: it is none.
        """
        keys = _keys_of(secret)
        with self._lock:
            self._keys, self._issued = keys, None

    def proof(self, node_id: str, peer_id: str) -> bytes:
        """32 bytes that show `peer_id` that `node_id` has this cluster's secret, where a link of both stands."""
        text = f"exo-dl v1 handover proof {node_id} {peer_id}"
        return hmac.digest(self._keys.handover_key, text.encode(), "sha256")

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """A certificate of this cluster's authority: `builder` has all but the issuer."""
        keys = self._keys
        key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys.ca_key.public_key())
        whole = builder.issuer_name(keys.ca.subject).add_extension(key_id, critical=False)
        return whole.sign(keys.ca_key, hashes.SHA256())

    def certificate(self) -> tuple[bytes, bytes]:
        """This node's private key and certificate (PEM), made anew when the old one comes near its end."""
        with self._lock:
            now = self._clock()
            issued = self._issued
            if issued is None or not issued.usable_from <= now <= issued.usable_until:
                issued = self._issued = self._issue(now)
            return issued.pair

    def server_credentials(self, *, knocked: Callable[[], None] = lambda: None) -> grpc.ServerCredentials:
        """For a gRPC port between machines: members only, and each new connection sees the certificate of that time.

        Args:
            knocked: called when a connection begins its handshake, in a thread of gRPC.
        """
        shown = self.certificate()

        def fetch() -> Any:  # None means: as before; the published types do not know that.
            nonlocal shown
            knocked()
            current = self.certificate()
            if current == shown:
                return None
            shown = current
            return self._configuration(current)

        return grpc.dynamic_ssl_server_credentials(
            self._configuration(shown), fetch, require_client_authentication=True
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For one channel to another member. Make new ones for each channel: certificates end."""
        key, certificate = self.certificate()
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca_pem, private_key=key, certificate_chain=certificate
        )

    def _configuration(self, issued: tuple[bytes, bytes]) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([issued], root_certificates=self.ca_pem)

    def _issue(self, now: datetime.datetime) -> _Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(self._node_id), x509.DNSName(NODE_SAN)])
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = self.sign(
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._node_id)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + self._life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(authority=False), critical=True)
            .add_extension(usages, critical=False)
            .add_extension(names, critical=False)
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return _Issued(
            pair=(pem, certificate.public_bytes(serialization.Encoding.PEM)),
            usable_from=now - BACKDATE + _RENEW_AFTER_START,
            usable_until=now + self._life / 2,
        )


def _keys_of(secret: str) -> _Keys:
    raw = parse_secret(secret)
    # 64 bits more than the order has: the remainder is even to within 2^-64 (FIPS 186-5, A.2.1).
    number = int.from_bytes(_derive(raw, "cluster CA key", 40), "big") % (_P256_ORDER - 1) + 1
    ca_key = ec.derive_private_key(number, ec.SECP256R1())
    spki = ca_key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    cluster_id = _base32(hashlib.sha256(b"exo-dl v1 cluster id " + spki).digest())[:_NODE_ID_CHARS]
    ca = _sign_ca(ca_key, cluster_id)
    return _Keys(
        ca_key=ca_key,
        ca=ca,
        ca_pem=ca.public_bytes(serialization.Encoding.PEM),
        cluster_id=cluster_id,
        ticket_key=_derive(raw, "piece tickets", 32),
        handover_key=_derive(raw, "handover proof", 32),
    )


def _sign_ca(key: ec.EllipticCurvePrivateKey, cluster_id: str) -> x509.Certificate:
    # The years are fixed, not counted from now: a copy made under a wrong clock is as good as any other.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"exo-dl cluster {cluster_id}")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def key_usage(*, authority: bool) -> x509.KeyUsage:
    """What a key of an authority, or of anybody else, is for."""
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
