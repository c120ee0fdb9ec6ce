"""What a simulated node tells its neighbours by itself: which pieces it holds, and how much it lacks."""

from __future__ import annotations

from typing import Protocol

from exo_dl.core import swarm as sw
from exo_dl.core.announcing import Announcing, Word, progress_s
from exo_dl.sim.clock import Clock
from exo_dl.sim.wire import Counters
from exo_dl.sim.world import Message, World

__all__ = ["Speaker", "Voice"]

_FROZEN_S = 0.5


class Speaker(Protocol):
    """The node that speaks."""

    name: str
    cluster: World
    clock: Clock
    alive: bool
    frozen: bool
    life: int
    count: Counters
    swarm: sw.Swarm | None

    def neighbours(self) -> tuple[str, ...]:
        """The nodes with which it exchanges have maps."""

    def send(self, node: str, message: Message) -> None:
        """Over the link to ``node``."""


class Voice:
    """One life of a node: it falls silent with it.

    Args:
        node: whose voice it is.
        swarm: the node's machine.
    """

    def __init__(self, node: Speaker, swarm: sw.Swarm) -> None:
        self._node = node
        self._life = node.life
        self._announcing = Announcing(swarm)
        self._tells_at = float("inf")

    def begin(self) -> None:
        """From now on it tells how much the node lacks."""
        self._node.cluster.call_in(self._node.clock.span(progress_s(1)), self._progress)

    def gained(self, pieces: int) -> None:
        """These pieces are new: tells of them, now or soon."""
        node = self._node
        now = node.clock.read(node.cluster.now)
        if (word := self._announcing.gained(pieces, node.neighbours(), now)) is not None:
            self._tell(word)
        if (due := self._announcing.due) is not None and due < self._tells_at:
            self._tells_at = due
            node.cluster.call_at(node.clock.when(due), self._gathered)

    def _gathered(self) -> None:
        node = self._node
        if self._life == node.life and node.alive:
            if node.frozen:
                node.cluster.call_in(_FROZEN_S, self._gathered)
                return
            self._tells_at = float("inf")
            for word in self._announcing.gathered(node.neighbours()):
                self._tell(word)

    def _progress(self) -> None:
        node = self._node
        if self._life != node.life or not node.alive or node.swarm is None:
            return
        if not node.frozen:
            message = Message("lacks", sw.PeerLacks(node.name, node.swarm.lacking_bytes))
            for peer in node.neighbours():
                node.cluster.send(node.name, peer, message)
        if node.frozen or node.swarm.lacking_bytes:
            pause_s = progress_s(len(node.cluster.linked(node.name)))
            node.cluster.call_in(node.clock.span(pause_s), self._progress)

    def _tell(self, word: Word) -> None:
        message = Message("have", sw.PeerHas(self._node.name, word.pieces))
        self._node.count.announcements += len(word.nodes)
        for peer in word.nodes:
            self._node.send(peer, message)
