"""The secret, and what is derived from it."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
from pathlib import Path

import grpc.aio
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from exo_dl.errors import UsageError
from exo_dl.net.identity import NODE_SAN, Identity, is_node_id, new_node_id, new_secret, parse_secret

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Clock:
    def __init__(self, now: datetime.datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime.datetime:
        return self.now


def certificate_of(identity: Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.certificate()[1])


def test_a_secret_survives_how_people_copy_it() -> None:
    text = new_secret()
    assert text.startswith("exo-dl-")
    raw = parse_secret(text)
    assert len(raw) == 20
    for copied in (
        text.upper(),
        f"  {text}\n",
        text.replace("-", ""),
        text.replace("-", " "),
        text.removeprefix("exo-dl-"),
    ):
        assert parse_secret(copied) == raw
    assert parse_secret(text.replace("o", "0").replace("l", "1").replace("b", "8")) == raw
    assert new_secret() != text


@pytest.mark.parametrize(
    "words",
    ["", "correct horse battery staple", "hunter2", "exo-dl-", "a" * 36, "exo-dl-" + "a" * 36, "ä" * 36, "x" * 10_000],
)
def test_words_of_ones_own_are_refused_and_not_repeated(words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_secret(words)
    assert words in ("", "exo-dl-") or words not in str(caught.value)
    assert "new-secret" in str(caught.value) or "Copy" in str(caught.value)


@given(st.integers(7, 50), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_one_wrong_character_is_found(position: int, character: str) -> None:
    text = "exo-dl-asix-rkxe-3kna-vhj2-uilx-fm7r-pg6z-rnke-b3le"
    if text[position] in ("-", character):
        return
    with pytest.raises(UsageError, match="typing error"):
        parse_secret(text[:position] + character + text[position + 1 :])


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda data: "exo-dl-" + data.hex()))
def test_any_text_is_a_secret_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert len(parse_secret(text)) == 20


def test_members_derive_the_same_and_strangers_do_not() -> None:
    secret = new_secret()
    one, two, stranger = (Identity(text, new_node_id()) for text in (secret, secret.upper(), new_secret()))
    assert one.cluster_id == two.cluster_id != stranger.cluster_id
    assert one.ticket_key() == two.ticket_key() != stranger.ticket_key()
    assert len(one.ticket_key()) == 32
    authorities = [x509.load_pem_x509_certificate(each.ca_pem) for each in (one, two, stranger)]
    certificate_of(one).verify_directly_issued_by(authorities[1])
    with pytest.raises(Exception, match=r"(?i)issuer"):
        certificate_of(one).verify_directly_issued_by(authorities[2])


def test_derivation_never_changes() -> None:
    # Members of different versions must agree: these values are part of the protocol.
    identity = Identity("exo-dl-asix-rkxe-3kna-vhj2-uilx-fm7r-pg6z-rnke-b3le", "a" * 16)
    assert (identity.cluster_id, identity.ticket_key().hex()[:16]) == ("yaxtgtgfvy3trur2", "8ce8852bbd3cfcdf")


def test_a_certificate_names_its_node_and_begins_two_days_ago() -> None:
    identity = Identity(new_secret(), new_node_id(), clock=Clock())
    certificate = certificate_of(identity)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [identity.node_id, NODE_SAN]
    assert abs(certificate.not_valid_before_utc - (NOW - 2 * DAY)) < datetime.timedelta(seconds=2)
    assert abs(certificate.not_valid_after_utc - (NOW + 30 * DAY)) < datetime.timedelta(seconds=2)


@pytest.mark.parametrize(
    ("moved", "renewed"), [(0, False), (14, False), (16, True), (40, True), (-0.5, False), (-2, True), (-400, True)]
)
def test_certificates_are_renewed_in_time_and_when_the_clock_jumps(moved: float, renewed: bool) -> None:
    clock = Clock()
    identity = Identity(new_secret(), new_node_id(), clock=clock)
    before = identity.certificate()
    clock.now += moved * DAY
    assert (identity.certificate() != before) == renewed
    certificate = certificate_of(identity)
    assert certificate.not_valid_before_utc + DAY / 2 < clock.now < certificate.not_valid_after_utc - 10 * DAY


async def test_a_running_server_shows_the_renewed_certificate(tmp_path: Path) -> None:
    clock = Clock(NOW - 20 * DAY)
    secret = new_secret()
    identity, caller = Identity(secret, new_node_id(), clock=clock), Identity(secret, new_node_id())
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", identity.server_credentials())
    await server.start()
    try:
        first = shown_certificate(port, caller, tmp_path)
        assert shown_certificate(port, caller, tmp_path) == first
        clock.now += 20 * DAY
        assert shown_certificate(port, caller, tmp_path) != first
    finally:
        await server.stop(0)


def shown_certificate(port: int, caller: Identity, folder: Path) -> bytes | None:
    key, certificate = caller.certificate()
    (folder / "pair.pem").write_bytes(key + certificate)
    context = ssl.create_default_context(cadata=caller.ca_pem.decode())
    context.load_cert_chain(folder / "pair.pem")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=NODE_SAN) as encrypted,
    ):
        return encrypted.getpeercert(binary_form=True)


@pytest.mark.parametrize(
    "node_id", ["", "A" * 16, "a" * 15, "a" * 17, "a" * 15 + "\n", "../../etc/passwd", "*.exo-dl.internal"]
)
def test_a_node_id_has_one_form(node_id: str) -> None:
    assert not is_node_id(node_id)
    assert is_node_id(new_node_id())
    with pytest.raises(UsageError):
        Identity(new_secret(), node_id)
