"""What others say in vain: whose word counts in a pull, and what is told of the rest."""

from __future__ import annotations

import asyncio
import logging

import pytest

from exo_dl.core.succession import Claim
from exo_dl.rpc.v1 import cluster_pb2
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dld.dropped import Dropped, Reason
from exo_dld.hearing import objection
from tests.unit.daemon.test_link import Running

CHAIR = Claim(5, "chair")


def heard(node: str, *, me: str = "me", wants: bool = True, banned: bool = False, **body: object) -> Reason | None:
    message = pb.LinkMessage(**body)  # type: ignore[arg-type]
    return objection(node, message, wants=wants, banned=banned, me=me, claim=CHAIR, generation=2)


@pytest.mark.parametrize("body", [{"lease_grant": pb.LeaseGrant}, {"lease_cut": pb.LeaseCut}])
def test_leases_come_from_the_coordinator_of_this_epoch(body: dict[str, type[pb.LeaseGrant]]) -> None:
    ((field, kind),) = body.items()
    assert heard("chair", **{field: kind(epoch=5)}) is None
    assert heard("other", **{field: kind(epoch=5)}) is Reason.NO_SAY
    for epoch in (0, 4, 6):
        assert heard("chair", **{field: kind(epoch=epoch)}) is Reason.OTHER_EPOCH


def test_only_the_coordinator_is_asked_for_leases() -> None:
    ask = pb.LeaseAsk(epoch=5)
    assert heard("peer", me="chair", lease_ask=ask) is None
    assert heard("peer", me="chair", lease_ask=pb.LeaseAsk(epoch=4)) is Reason.OTHER_EPOCH
    assert heard("peer", me="me", lease_ask=ask) is Reason.OTHER_EPOCH
    assert heard("peer", me="chair", banned=True, lease_ask=ask) is Reason.NO_SAY
    assert heard("peer", me="chair", wants=False, lease_ask=ask) is Reason.NO_SAY


def test_who_has_no_part_or_was_banned_is_not_believed() -> None:
    for wants, banned in ((False, False), (True, True)):
        assert heard("peer", wants=wants, banned=banned, have=pb.Have()) is Reason.NO_SAY
    assert heard("peer", have=pb.Have()) is None
    # What this node holds may be asked for all the same.
    assert heard("peer", banned=True, have_query=pb.HaveQuery()) is None


def test_the_end_is_told_by_the_coordinator_of_this_run() -> None:
    assert heard("chair", pull_end=pb.PullEnd(state=2, generation=2)) is None
    assert heard("peer", pull_end=pb.PullEnd(state=4, generation=2)) is None, "anybody may cancel"
    assert heard("peer", pull_end=pb.PullEnd(state=2, generation=2)) is Reason.NO_SAY
    assert heard("chair", pull_end=pb.PullEnd(state=2, generation=1)) is Reason.OTHER_EPOCH
    assert heard("chair", pull_end=pb.PullEnd(state=1, generation=2)) is Reason.MALFORMED


def test_all_is_counted_and_little_is_told(caplog: pytest.LogCaptureFixture) -> None:
    dropped = Dropped(lambda node: f"name of {node}")
    with caplog.at_level(logging.WARNING):
        for node in ("a", "b"):
            for _ in range(1000):
                dropped.add(node, Reason.UNKNOWN_PULL)
        dropped.add("a", Reason.MALFORMED)
    assert (dropped[Reason.UNKNOWN_PULL], dropped[Reason.MALFORMED], dropped[Reason.NO_SAY]) == (2000, 1, 0)
    assert ["name of a" in line for line in caplog.messages] == [True, False, True]
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            dropped.add(f"node {number}", Reason.TOO_MANY)
    assert len(caplog.messages) < 60


def test_each_reason_has_a_field() -> None:
    fields = cluster_pb2.NodeMetrics.DESCRIPTOR.fields_by_name
    assert {name for name in fields if name.startswith("dropped_")} == {f"dropped_{each.value}" for each in Reason}


async def test_a_flood_is_held_back() -> None:
    async with Running() as running:
        for _ in range(60_000):
            running.pipe.to_read.put_nowait(pb.LinkMessage(have=pb.Have()))
        async with asyncio.timeout(20):
            count = 0
            while not running.dropped:
                await running.heard.get()
                count += 1
    assert running.dropped[0] is Reason.TOO_MANY
    assert count + running.heard.qsize() >= 7_999, "whole maps may come at once"


async def test_a_message_of_a_kind_that_is_not_known_is_passed_over() -> None:
    async with Running() as running:
        running.pipe.to_read.put_nowait(pb.LinkMessage())
        await running.heard.get()
        running.pipe.to_read.put_nowait(pb.LinkMessage(have=pb.Have()))
        await running.heard.get()
        assert running.dropped == [Reason.OTHER_PROTOCOL]
