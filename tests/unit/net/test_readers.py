"""Read-only tickets: what they are made of, and what is none."""

from __future__ import annotations

import datetime
import time

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from exo_dl.errors import AccessError, UsageError
from exo_dl.net.identity import NODE_SAN, Identity, certified_node, new_node_id, new_secret
from exo_dl.net.readers import certified_reader, issue, read_ticket

NOW = datetime.datetime.now(datetime.UTC)
MEMBER = Identity(new_secret(), new_node_id())


def names_in(pem: bytes) -> list[str]:
    certificate = x509.load_pem_x509_certificate(pem)
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


def test_a_ticket_is_read_as_it_was_written() -> None:
    before = time.time()
    ticket = issue(MEMBER, days=30)
    after = time.time()
    for text in (ticket.pem, ticket.pem.replace("\n", "\r\n"), f"\n{ticket.pem}\n"):
        assert read_ticket(text) == ticket
    # A certificate knows whole seconds.
    assert before - 1 <= ticket.ends_at_s - 30 * 86_400 <= after + 1


def test_a_ticket_is_no_member_and_a_member_no_ticket() -> None:
    ticket = issue(MEMBER, days=1)
    names = names_in(ticket.certificate)
    assert certified_reader(names) == ticket.id
    assert certified_node(names) is None
    names = names_in(MEMBER.certificate()[1])
    assert certified_reader(names) is None
    assert certified_node(names) == MEMBER.node_id
    assert certified_node([new_node_id(), new_node_id(), NODE_SAN]) is None
    certificate = x509.load_pem_x509_certificate(ticket.certificate)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [each.dotted_string for each in usage] == ["1.3.6.1.5.5.7.3.2"], "it must not serve as a node"


@pytest.mark.parametrize("days", [0, -1, 367, float("nan"), float("inf")])
def test_days_are_bounded(days: float) -> None:
    with pytest.raises(UsageError):
        issue(MEMBER, days=days)


def test_a_ticket_that_has_ended_says_so() -> None:
    ticket = issue(MEMBER, days=1, now=NOW - datetime.timedelta(days=3))
    with pytest.raises(AccessError, match="ended on"):
        read_ticket(ticket.pem)


@given(st.text(max_size=300) | st.integers(0, 1500).map(lambda cut: issue(MEMBER, days=1).pem[:cut]))
def test_anything_else_is_a_usage_error_that_repeats_nothing(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_ticket(text)
    assert len(text) < 12 or text not in str(caught.value)
