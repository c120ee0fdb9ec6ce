"""Certificates of running nodes: renewed before they end, and good where clocks differ."""

from __future__ import annotations

import datetime

from cryptography import x509

from tests.unit.daemon.members import Node

DAY = datetime.timedelta(days=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


async def test_nodes_link_again_after_their_first_certificates_have_ended() -> None:
    life = datetime.timedelta(seconds=3)
    one = await Node(name="one", life=life).start()
    two = await Node(name="two", life=life, peers=[one.address]).start()
    try:
        await two.sees(one)
        shown = [node.identity.certificate()[1] for node in (one, two)]
        end = max(x509.load_pem_x509_certificate(pem).not_valid_after_utc for pem in shown)
        await two.until(lambda: now() > end + datetime.timedelta(seconds=1), seconds=8)
        assert two.membership.up() == [one.id], "a link that stands was lost"
        two.membership.drop(one.id, "to see another handshake")
        await two.until(lambda: two.events.count(("up", one.id)) == 2)
        await one.sees(two)
        assert all(node.identity.certificate()[1] not in shown for node in (one, two))
    finally:
        await two.stop()
        await one.stop()


async def test_clocks_may_differ_by_a_day() -> None:
    early = await Node(name="early", clock=lambda: now() - DAY).start()
    late = await Node(name="late", clock=lambda: now() + DAY, peers=[early.address]).start()
    try:
        await late.sees(early)
        await early.sees(late)
    finally:
        await late.stop()
        await early.stop()
