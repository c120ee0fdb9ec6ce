"""What a link writes when: a stream that notes what was written together."""

from __future__ import annotations

import asyncio
import time

import pytest

from exo_dl.net.identity import new_node_id
from exo_dl.rpc.v1.swarm_pb2 import Beat, Have, Hello, LeaseCut, LeaseProgress, LinkMessage, NodeProgress
from exo_dld.dropped import Reason
from exo_dld.link import Link, Timing
from exo_dld.nodestate import NodeState

REPORT = LinkMessage(lease_progress=LeaseProgress(pull_id="p"))
BEAT = LinkMessage(beat=Beat())
PULLING = LinkMessage(node_progress=NodeProgress(pull_id="p", state=NodeState.PULLING))
DONE = LinkMessage(node_progress=NodeProgress(pull_id="p", state=NodeState.DONE))
HAVE = LinkMessage(have=Have(pull_id="p"))


class Pipe:
    """One end of a stream in memory: ``to_read`` comes in, ``written`` went out, as it was written together."""

    def __init__(self) -> None:
        self.written: asyncio.Queue[tuple[LinkMessage, ...]] = asyncio.Queue()
        self.to_read: asyncio.Queue[LinkMessage | None] = asyncio.Queue()

    async def read(self) -> LinkMessage | None:
        return await self.to_read.get()

    async def write(self, *messages: LinkMessage) -> None:
        self.written.put_nowait(messages)

    async def finish(self) -> None:
        self.to_read.put_nowait(None)


class Running:
    """A link that runs over a `Pipe`, for an async with statement."""

    def __init__(self, timing: Timing | None = None) -> None:
        self.pipe = Pipe()
        hello = Hello(node_id=new_node_id())
        self.dropped: list[Reason] = []
        timing = timing or Timing()
        self.link = Link(
            self.pipe, hello=hello, dialed=True, host="127.0.0.1", timing=timing, dropped=self.dropped.append
        )

    async def __aenter__(self) -> Running:
        self.heard: asyncio.Queue[LinkMessage] = asyncio.Queue()
        self.task = asyncio.create_task(self.link.run(self.heard.put_nowait))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.link.close("The test is over.")
        await self.task

    async def next(self) -> tuple[LinkMessage, ...]:
        async with asyncio.timeout(5):
            return await self.pipe.written.get()


async def test_what_can_wait_goes_with_what_cannot() -> None:
    async with Running() as running:
        for message in (REPORT, BEAT):
            assert running.link.send(message)
        running.link.send(HAVE)
        assert await running.next() == (REPORT, BEAT, HAVE), "in the order in which they were sent"
        assert running.link.queued_bytes == 0


@pytest.mark.parametrize("message", [REPORT, BEAT])
async def test_what_can_wait_goes_by_itself_after_a_moment(message: LinkMessage) -> None:
    async with Running() as running:
        begin = asyncio.get_running_loop().time()
        running.link.send(message)
        assert await running.next() == (message,)
        assert asyncio.get_running_loop().time() - begin >= 0.09


async def test_a_beat_waits_longer_and_goes_with_what_waits_less_long() -> None:
    async with Running() as alone, Running() as both:
        alone.link.send(BEAT)
        for message in (BEAT, REPORT):
            both.link.send(message)
        assert await both.next() == (BEAT, REPORT)
        assert alone.pipe.written.empty(), "nothing has come along yet"
        assert await alone.next() == (BEAT,)


@pytest.mark.parametrize("message", [HAVE, PULLING, DONE])
async def test_what_others_wait_for_is_written_at_once(message: LinkMessage) -> None:
    async with Running() as running:
        running.link.send(message)
        for _ in range(5):  # turns of the loop, which take no time
            await asyncio.sleep(0)
        assert running.pipe.written.get_nowait() == (message,)


async def test_many_messages_are_written_in_order_and_never_too_much_at_once() -> None:
    maps = [LinkMessage(have=Have(pull_id=str(index) + "x" * 100_000)) for index in range(7)]
    async with Running() as running:
        for message in maps:
            running.link.send(message)
        written = [await running.next() for _ in range(4)]
    assert [len(together) for together in written] == [2, 2, 2, 1]
    assert [message for together in written for message in together] == maps


async def test_what_is_left_of_a_lease_that_was_cut_is_told_at_once() -> None:
    """The connection that is to read the rest stands idle until then."""
    async with Running() as running:
        running.pipe.to_read.put_nowait(LinkMessage(lease_cut=LeaseCut(pull_id="p")))
        await running.heard.get()
        running.link.send(REPORT)
        for _ in range(5):
            await asyncio.sleep(0)
        assert running.pipe.written.get_nowait() == (REPORT,)
        running.link.send(REPORT)
        for _ in range(5):
            await asyncio.sleep(0)
        assert running.pipe.written.empty(), "only the answer"


async def test_silence_is_noticed_when_it_has_lasted_long_enough_whenever_the_next_beat_is() -> None:
    loop = asyncio.get_running_loop()
    async with Running(Timing(beat_s=60, silence_s=0.3)) as running, asyncio.timeout(5):
        running.pipe.to_read.put_nowait(HAVE)
        await running.heard.get()
        heard = loop.time()
        assert await running.task == "Nothing was heard of it for 0.3 s."
        assert loop.time() - heard >= 0.29


async def test_a_peer_that_speaks_now_and_then_is_not_silent() -> None:
    loop = asyncio.get_running_loop()
    async with Running(Timing(beat_s=60, silence_s=0.3)) as running, asyncio.timeout(10):
        begin = loop.time()
        while loop.time() - begin < 0.8:
            loop.call_later(0.05, running.pipe.to_read.put_nowait, HAVE)
            await running.heard.get()
        assert not running.link.closed


async def test_what_came_while_this_node_stood_still_is_heard_before_the_peer_is_called_silent() -> None:
    async with Running(Timing(beat_s=0.05, silence_s=0.2)) as running, asyncio.timeout(5):
        running.pipe.to_read.put_nowait(HAVE)
        await running.heard.get()
        time.sleep(0.4)  # noqa: ASYNC251 - the whole loop stands still
        running.pipe.to_read.put_nowait(BEAT)
        assert await running.heard.get() == BEAT
        assert not running.link.closed
        assert await running.task == "Nothing was heard of it for 0.2 s.", "and is watched as before"
