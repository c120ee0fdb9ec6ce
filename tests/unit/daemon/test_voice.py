"""Whom a node tells how far it is: all at one moment what is shown, neighbours between that what the exchange needs."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from exo_dl.core.pieces import mask
from exo_dl.core.succession import Claim
from exo_dl.core.swarm import Held, PeerHas, PeerJoined, Swarm
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dl.sim.scenarios import model
from exo_dld.messages import PullSpec
from exo_dld.nodestate import NodeState
from exo_dld.voice import Voice


class Speaker:
    """A voice whose words are kept: (node, brief, bytes done)."""

    def __init__(self, others: int) -> None:
        manifest = model(size_bytes=1 << 20, files=1)
        spec = PullSpec("pull", manifest, frozenset(), "hf", "", "main", 1, gated=False)
        swarm = Swarm(manifest, node="me", want=mask(0, manifest.piece_count), rng=random.Random(1))
        self.worker: Any = SimpleNamespace(
            swarm=swarm,
            state=NodeState.PULLING,
            bytes_wanted=100,
            bytes_done=1,
            bytes_held=0,
            error=None,
            check=SimpleNamespace(verdict=0),
            store=SimpleNamespace(digest=lambda piece: bytes(32)),
            readings=SimpleNamespace(to_pb=lambda: []),
            feed=lambda event: None,
        )
        self.others = [f"n{index}" for index in range(others)]
        self.said: list[tuple[str, bool, int]] = []
        self.words: list[tuple[str, str]] = []
        self.maps: asyncio.Queue[str] = asyncio.Queue()
        self.shown: list[int] = []
        self.voice = Voice(
            spec,
            self.worker,
            me="me",
            claim=lambda: Claim(1, "me"),
            send=self._send,
            participants=lambda: self.others,
            everyone=lambda: self.others,
            progressed=lambda word: self.shown.append(word.bytes_done),
        )

    def _send(self, node: str, message: pb.LinkMessage) -> None:
        self.words.append((node, message.WhichOneof("body") or ""))
        if message.WhichOneof("body") == "node_progress":
            word = message.node_progress
            self.said.append((node, word.brief, word.bytes_done))
        elif message.WhichOneof("body") == "have_map":
            self.maps.put_nowait(node)

    def says(self, done: int) -> list[tuple[str, bool, int]]:
        """What it says when it has got so far."""
        self.worker.bytes_done = done
        self.said.clear()
        self.voice.progress()
        return list(self.said)


@pytest.mark.parametrize("others", [1, 49])
async def test_in_a_small_cluster_all_hear_everything(others: int) -> None:
    speaker = Speaker(others)
    for done in (1, 2, 3):
        assert speaker.says(done) == [(node, False, done) for node in speaker.others]
    assert speaker.shown == [1, 2, 3]
    speaker.voice.close()


async def test_in_a_large_one_neighbours_hear_between_what_nobody_shows() -> None:
    speaker = Speaker(1000)
    assert speaker.says(1) == [(node, False, 1) for node in speaker.others]
    said = speaker.says(2)
    assert 2 <= len(said) <= 12
    assert all(brief and done == 2 for _, brief, done in said)
    assert speaker.shown == [1], "its own view is that of the others"
    speaker.worker.state = NodeState.DONE
    assert speaker.says(100) == [(node, False, 100) for node in speaker.others]
    assert speaker.shown == [1, 100]
    speaker.voice.close()


async def test_what_waits_to_be_told_goes_along_with_progress() -> None:
    speaker = Speaker(2)
    for event in (PeerJoined("n0"), PeerHas("n0", 1), Held(1)):
        speaker.worker.swarm.handle(event, asyncio.get_running_loop().time())
    speaker.voice.announce(1)
    speaker.words.clear()
    await asyncio.sleep(0)
    assert not speaker.words, "others can have it from n0: it is no hurry"
    speaker.voice.progress()
    assert speaker.words == [("n1", "have"), ("n0", "node_progress"), ("n1", "node_progress")]
    speaker.voice.progress()
    assert [kind for _, kind in speaker.words[3:]] == ["node_progress"] * 2, "once"
    speaker.voice.close()


async def test_that_a_node_publishes_is_told_with_the_next_word() -> None:
    speaker = Speaker(1)
    speaker.says(1)
    speaker.said.clear()
    speaker.worker.state = NodeState.PUBLISHING
    speaker.voice.changed()
    assert not speaker.said
    speaker.worker.state = NodeState.DONE
    speaker.voice.changed()
    assert speaker.said == [("n0", False, 1)]
    speaker.voice.close()


async def test_a_node_that_comes_hears_what_all_others_heard() -> None:
    speaker = Speaker(1000)
    speaker.says(1)
    speaker.others.append("late")
    speaker.voice.met("late")
    said = speaker.says(2)
    assert said[0] == ("late", False, 1)
    assert all(brief for _, brief, _ in said[1:])
    assert ("late", False, 1) not in speaker.says(3), "once"
    speaker.voice.close()


async def test_who_asks_for_a_map_again_at_once_is_told_again_later_and_once() -> None:
    """It dropped what it was told between: unheard it would wait for pieces that it believes nobody has."""
    speaker = Speaker(2)
    for node in ("n0", "n0", "n0", "n1"):
        speaker.voice.asked_for_map(node)
    assert [speaker.maps.get_nowait(), speaker.maps.get_nowait()] == ["n0", "n1"] and speaker.maps.empty()
    speaker.voice.asked_for_map("n1")
    speaker.voice.forget("n1")
    assert await asyncio.wait_for(speaker.maps.get(), 5) == "n0"
    speaker.voice.asked_for_map("n0")
    speaker.voice.close()
    assert speaker.maps.empty()
