from __future__ import annotations

import pytest

from exo_dl.errors import AccessError
from exo_dl.net.tickets import TicketKey, TicketSigner, authorizer

NOW = 1_700_000_000.0
PATH = "/v1/pieces/0123456789abcdef0123/0-4"
KEY = TicketKey(b"a" * 32)


def test_a_ticket_names_the_node_that_asks() -> None:
    ticket = KEY.sign("GET", PATH, "node-a", now=NOW)
    assert TicketKey(b"a" * 32).verify(ticket, "GET", PATH, now=NOW) == "node-a"


@pytest.mark.parametrize(
    ("method", "path", "audience"),
    [("PUT", PATH, "b"), ("GET", PATH + "0", "b"), ("GET", PATH, "c"), ("GET", PATH, "")],
)
def test_a_ticket_is_good_for_its_request_alone(method: str, path: str, audience: str) -> None:
    ticket = KEY.sign("GET", PATH, "node-a", now=NOW, audience="b")
    with pytest.raises(AccessError):
        KEY.verify(ticket, method, path, now=NOW, audience=audience)
    assert KEY.verify(ticket, "GET", PATH, now=NOW, audience="b") == "node-a"


def test_a_ticket_of_another_cluster_is_refused() -> None:
    ticket = TicketKey(b"b" * 32).sign("GET", PATH, "node-a", now=NOW)
    with pytest.raises(AccessError, match="another cluster"):
        KEY.verify(ticket, "GET", PATH, now=NOW)


def test_a_ticket_is_good_once() -> None:
    ticket = KEY.sign("GET", PATH, "node-a", now=NOW)
    KEY.verify(ticket, "GET", PATH, now=NOW)
    with pytest.raises(AccessError, match="before"):
        KEY.verify(ticket, "GET", PATH, now=NOW + 1)


@pytest.mark.parametrize("when", [NOW + 61, NOW - 400])
def test_a_ticket_is_good_in_its_time(when: float) -> None:
    ticket = KEY.sign("GET", PATH, "node-a", now=NOW)
    with pytest.raises(AccessError, match="time"):
        KEY.verify(ticket, "GET", PATH, now=when)


def test_nobody_can_give_himself_a_longer_time() -> None:
    key = TicketKey(b"a" * 32)
    ticket = key.sign("GET", PATH, "node-a", now=NOW, ttl_s=1e9)
    with pytest.raises(AccessError):
        key.verify(ticket, "GET", PATH, now=NOW + 301)


@pytest.mark.parametrize(
    "header",
    ["", "exo-dl", "exo-dl ", "Bearer x", "exo-dl 1.a.b.c.d", "exo-dl " + "1." * 5000, "exo-dl 2.node-a.1.aa.bb"],
)
def test_what_is_no_ticket_is_refused(header: str) -> None:
    with pytest.raises(AccessError, match="no ticket"):
        KEY.verify(header, "GET", PATH, now=NOW)


def test_each_changed_character_is_noticed() -> None:
    ticket = KEY.sign("GET", PATH, "node-a", now=NOW)
    for index in range(len("exo-dl "), len(ticket)):
        changed = ticket[:index] + ("1" if ticket[index] != "1" else "2") + ticket[index + 1 :]
        with pytest.raises(AccessError):
            KEY.verify(changed, "GET", PATH, now=NOW)


def test_the_memory_of_used_tickets_is_bounded() -> None:
    key = TicketKey(b"a" * 32, max_remembered=10)
    for index in range(50):
        key.verify(key.sign("GET", PATH, "node-a", now=NOW + index), "GET", PATH, now=NOW + index)
    assert len(key._seen) == 10
    late = NOW + 1000
    key.verify(key.sign("GET", PATH, "node-a", now=late), "GET", PATH, now=late)
    assert len(key._seen) == 1


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="short"):
        TicketKey(b"x")


def test_a_signer_follows_the_clock_of_its_peer() -> None:
    authorize = authorizer(KEY, audience="b", clock=lambda: NOW)
    signer = TicketSigner(KEY, "node-a", audience="b", clock=lambda: NOW - 86_400)

    def ask() -> str | None:
        headers = {name.lower(): value for name, value in signer.headers("GET", PATH).items()}
        return authorize("GET", PATH, headers)

    assert ask() is None
    signer.adjust(NOW)
    assert ask() == "node-a"


def test_a_ticket_without_an_audience_is_accepted_but_not_one_for_another_node() -> None:
    authorize = authorizer(KEY, audience="b", clock=lambda: NOW)
    anyone = TicketSigner(KEY, "node-a", clock=lambda: NOW).headers("GET", PATH)
    other = TicketSigner(KEY, "node-a", audience="c", clock=lambda: NOW).headers("GET", PATH)
    assert authorize("GET", PATH, {"authorization": anyone["Authorization"]}) == "node-a"
    assert authorize("GET", PATH, {"authorization": other["Authorization"]}) is None
    assert authorize("GET", PATH, {}) is None
