"""What the daemon does where a machine says that something cannot be."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest

from exo_dl.core import swarm as core
from exo_dl.core.pieces import mask
from exo_dl.errors import ExoDlError
from exo_dl.net.wire import piece_set
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dl.sim.scenarios import model
from exo_dld.coordinator import Coordinator
from exo_dld.driving import Driver

MANIFEST = model(size_bytes=64 << 20, files=1)
EVERY = mask(0, MANIFEST.piece_count)


def test_an_event_that_cannot_be_is_told_with_its_story_and_the_machine_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = core.Swarm(MANIFEST, node="me", want=EVERY, rng=random.Random(1))
    broken: list[ExoDlError] = []
    driver = Driver[core.SwarmEvent, core.SwarmAction](machine, pull_id="p1", broken=broken.append)
    fetch = next(a for a in driver.handle(core.PeerHas("a", 0b11), 0.0) if isinstance(a, core.FetchFromPeer))
    ended = core.FetchEnded(fetch.fetch_id, core.FetchResult.DONE)
    driver.handle(ended, 1.0)
    for _ in range(30):
        assert driver.handle(ended, 2.0) == []
    assert not broken
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 20, "and the log does not grow without end"
    text = told[0].getMessage()
    assert "pull p1" in text and f"FetchFromPeer(fetch_id={fetch.fetch_id}, peer=a" in text
    assert any(isinstance(a, core.FetchFromPeer) for a in driver.handle(core.PeerHas("b", EVERY), 3.0))


async def test_a_lease_table_that_broke_ends_the_pull_once(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[pb.LinkMessage] = []
    hopeless: list[str] = []
    coordinator = Coordinator(
        pull_id="p1",
        manifest=MANIFEST,
        epoch=1,
        expected=[],
        want_of=lambda node: EVERY,
        send=lambda node, message: sent.append(message),
        on_fault=pytest.fail,
        on_hopeless=hopeless.append,
    )
    join = pb.PullJoin(pull_id="p1", epoch=1, want=piece_set(EVERY))
    coordinator.on_message("a", pb.LinkMessage(pull_join=join))
    coordinator.on_message("a", pb.LinkMessage(lease_ask=pb.LeaseAsk(pull_id="p1", epoch=1, slot=0)))
    grant = sent.pop().lease_grant
    del coordinator._table._leases._leases[grant.lease_id]  # as if it had been ended by half
    coordinator.node_lost("a")
    (why,) = hopeless
    assert f"Lease {grant.lease_id} ended and does not stand." in why and "log" in why
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert f"Grant(node=a, slot=0, lease_id={grant.lease_id}" in record.getMessage()
    coordinator.on_message("a", pb.LinkMessage(pull_join=join))
    await asyncio.sleep(0)
    assert coordinator._timer is None or coordinator._timer.cancelled(), "nothing is driven any more"
    assert not sent and len(hopeless) == 1
