"""Who coordinates a pull, and who is next: pure rules that every node applies to what it knows.

The order of a pull is the same on every node: its initiator, then all others by a hash of pull and node, so that
different pulls are coordinated by different nodes. When two nodes claim a pull (a split that healed), the higher
epoch stands; within an epoch the smaller id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

__all__ = ["Claim", "Succession", "better", "order", "successor"]


@dataclass(frozen=True, slots=True)
class Claim:
    """A node's claim to coordinate: its id and the epoch, which grows with every change of coordinator."""

    epoch: int
    node: str


def better(a: Claim, b: Claim) -> bool:
    """Whether claim ``a`` stands against ``b``: higher epoch, then smaller id. False where they are equal."""
    return a.epoch > b.epoch or (a.epoch == b.epoch and a.node < b.node)


def order(pull_id: str, initiator: str, nodes: Iterable[str]) -> tuple[str, ...]:
    """All ``nodes`` and the initiator in the order in which they coordinate this pull."""

    def key(node: str) -> bytes:
        return hashlib.sha256(f"{pull_id}\0{node}".encode()).digest()

    return (initiator, *sorted({n for n in nodes if n != initiator}, key=key))


def successor(candidates: Iterable[str], alive: Collection[str]) -> str | None:
    """The first of ``candidates`` that is alive; None when none is."""
    return next((node for node in candidates if node in alive), None)


class Succession:
    """One node's view of who coordinates one pull.

    Args:
        pull_id: the pull.
        self_id: the node that holds this view; it is always alive.
        initiator: the node at which the pull was started.
        claim: the claim that stands at the start.
    """

    def __init__(self, pull_id: str, self_id: str, *, initiator: str, claim: Claim) -> None:
        self.pull_id = pull_id
        self.self_id = self_id
        self.initiator = initiator
        self._claim = claim
        self._alive: set[str] = {self_id}

    @property
    def claim(self) -> Claim:
        """The best claim that is known."""
        return self._claim

    @property
    def coordinating(self) -> bool:
        """Whether this node coordinates."""
        return self._claim.node == self.self_id

    @property
    def reachable(self) -> bool:
        """Whether the coordinator is alive, as far as this node knows."""
        return self._claim.node in self._alive

    def heard(self, claim: Claim) -> bool:
        """Another node tells of a claim. Returns whether the claim that stands changed.

        Where the claim is one of this node's own, from before it was restarted, the node claims the pull anew, with
        the next epoch: whoever sees `coordinating` become true begins a lease table and tells all others.
        """
        if not better(claim, self._claim):
            return False
        self._claim = Claim(claim.epoch + 1, self.self_id) if claim.node == self.self_id else claim
        return True

    def node_up(self, node: str) -> None:
        """A link to ``node`` stands, and it takes part in this pull."""
        self._alive.add(node)

    def node_down(self, node: str) -> None:
        """The link to ``node`` is lost."""
        if node != self.self_id:
            self._alive.discard(node)

    def take_over(self) -> Claim | None:
        """When the coordinator is gone and this node is next: claims the pull with the next epoch.

        Returns None when there is nothing to take over or another node is next.
        """
        if self.reachable:
            return None
        if successor(order(self.pull_id, self.initiator, self._alive), self._alive) != self.self_id:
            return None
        self._claim = Claim(self._claim.epoch + 1, self.self_id)
        return self._claim
