"""When pieces are told: at once where somebody may wait for them, together while there is time."""

from __future__ import annotations

import random

import pytest

from exo_dl.core.announcing import Announcing, Word
from exo_dl.core.pieces import mask
from exo_dl.core.swarm import Held, PeerHas, PeerJoined, PiecesArrived, Swarm
from exo_dl.sim.scenarios import model

MIB = 1 << 20
PEERS = ("a", "b")
LARGE_MIB = 1700


class Speaker:
    """A node with two peers, which gets its last pieces from a first, to have a rate, and then others by itself."""

    def __init__(self, *, size_mib: int) -> None:
        self.manifest = model(size_bytes=size_mib * MIB, files=1)
        every = mask(0, self.manifest.piece_count)
        self.swarm = Swarm(self.manifest, node="me", want=every, rng=random.Random(1))
        self.announcing = Announcing(self.swarm)
        for peer in PEERS:
            self.swarm.handle(PeerJoined(peer), 0.0)

    def measure(self, pieces: int) -> None:
        """Peer a brings the last ``pieces``, one a second."""
        count = self.manifest.piece_count
        self.swarm.handle(PeerHas("a", mask(count - pieces, count)), 0.0)
        for index in range(pieces):
            self.swarm.handle(PiecesArrived(1, 1 << (count - 1 - index), MIB), 1.0 + index)

    def gain(self, first: int, end: int, now: float) -> Word | None:
        self.swarm.handle(Held(mask(first, end)), now)
        return self.announcing.gained(mask(first, end), PEERS, now)


def test_the_first_pieces_and_those_near_the_end_are_told_at_once() -> None:
    young = Speaker(size_mib=400)
    assert young.gain(0, 1, 0.0) == Word(mask(0, 1), PEERS)
    assert young.gain(1, 2, 0.1) == Word(mask(1, 2), PEERS)
    near = Speaker(size_mib=12)
    near.measure(3)
    assert near.gain(0, 8, 4.0) is not None
    assert near.swarm.seconds_left(9.0) > 0
    near.swarm.handle(Held(mask(8, 9)), 9.0)
    assert near.swarm.seconds_left(9.0) == 0
    assert near.announcing.gained(mask(8, 9), PEERS, 9.0) == Word(mask(8, 9), PEERS)


def test_while_the_end_is_far_pieces_are_told_together_a_second_later_at_most() -> None:
    speaker = Speaker(size_mib=LARGE_MIB)
    speaker.measure(3)
    assert speaker.gain(0, 1, 3.0) == Word(mask(0, 1), PEERS)
    assert speaker.swarm.seconds_left(8.0) > 10
    assert speaker.gain(100, 103, 8.0) is None
    assert speaker.announcing.due == 9.0
    assert speaker.gain(200, 201, 8.5) is None
    assert speaker.announcing.due == 9.0, "what waits longest says when"
    assert speaker.announcing.gathered(PEERS) == [Word(mask(100, 103) | mask(200, 201), PEERS)]
    assert speaker.announcing.due is None


@pytest.mark.parametrize(("size_mib", "much"), [(LARGE_MIB, 8), (400, 4)])
def test_what_is_gathered_is_told_when_it_is_much(size_mib: int, much: int) -> None:
    """8 pieces of 2 MiB, or one percent of the model: what nobody was told of is lost when its node dies."""
    speaker = Speaker(size_mib=size_mib)
    speaker.measure(3)
    assert speaker.gain(0, 1, 3.0) == Word(mask(0, 1), PEERS)
    assert speaker.gain(100, 100 + much - 1, 8.0) is None
    assert speaker.announcing.due == 9.0
    assert speaker.gain(100 + much - 1, 100 + much, 8.2) is None
    assert speaker.announcing.due == 8.2
    assert speaker.announcing.gathered(PEERS) == [Word(mask(100, 100 + much), PEERS)]


def test_what_others_hold_too_is_told_a_moment_later_to_those_that_lack_it() -> None:
    speaker = Speaker(size_mib=400)
    speaker.swarm.handle(PeerHas("a", mask(0, 2)), 0.0)
    assert speaker.gain(0, 2, 0.0) is None
    assert speaker.announcing.due is not None
    assert 0 < speaker.announcing.due < 0.1
    assert speaker.announcing.gathered(PEERS) == [Word(mask(0, 2), ("b",))]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_piece_that_is_lost_before_it_was_told_is_not_told(lost: int) -> None:
    speaker = Speaker(size_mib=400)
    speaker.swarm.handle(PeerHas("a", mask(0, 2)), 0.0)
    speaker.announcing.gained(mask(0, 2), PEERS, 0.0)  # it never came to hold the one that is lost
    speaker.swarm.handle(Held(1 << (1 - lost)), 0.0)
    assert speaker.announcing.gathered(PEERS) == [Word(1 << (1 - lost), ("b",))]


@pytest.mark.parametrize(("busy_s", "due"), [(0.1, 9.0), (1.0, 8.0)])
def test_other_sources_count_as_much_only_where_links_between_nodes_are_full(busy_s: float, due: float) -> None:
    speaker = Speaker(size_mib=400)
    speaker.swarm.handle(PeerHas("a", mask(0, 100)), 0.0)
    meter = speaker.swarm._peers.meter
    meter.pause(0.0)
    for second in range(8):  # a piece each second, which is on its way for a part of it
        meter.begin(second + 1 - busy_s)
        speaker.swarm.handle(PiecesArrived(1, 1 << (399 - second), MIB), second + 1.0)
        meter.pause(second + 1.0)
    assert speaker.swarm.peers_load(8.0) == pytest.approx(busy_s, abs=0.1)
    speaker.announcing.gained(0, PEERS, 0.0)
    assert speaker.gain(0, 16, 8.0) is None
    assert speaker.announcing.due == due


def test_where_nodes_are_many_and_much_is_lacking_pieces_are_told_sooner() -> None:
    speaker = Speaker(size_mib=LARGE_MIB)
    few, many = PEERS, tuple("abcdefgh")
    for peers, due_s in ((few, 0.05), (many, 0.007)):
        announcing = Announcing(speaker.swarm)
        assert announcing.gained(mask(0, 1), peers, 0.0)
        speaker.swarm.handle(PeerHas("a", mask(1, 2)), 0.0)
        announcing.gained(mask(1, 2), peers, 0.02)
        assert announcing.due == pytest.approx(0.02 + due_s)
    for first, wait_s in ((100, 0.5), (200, 0.1)):
        speaker.swarm.handle(Held(mask(first, first + 7)), 2.0)
        announcing = Announcing(speaker.swarm)
        announcing.gained(mask(0, 1), many, 0.0)
        assert announcing.gained(mask(first, first + 7), many, 2.0) is None
        assert announcing.due == pytest.approx(2.0 + wait_s)
