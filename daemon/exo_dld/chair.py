"""Who coordinates a pull, as one node sees it, and the coordinator itself when it is this node's turn."""

from __future__ import annotations

from collections.abc import Callable, Collection

from exo_dl.core import succession
from exo_dl.core.succession import Claim
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dld.coordinator import Coordinator

__all__ = ["Chair"]

# Before a node claims the chair it waits until the others can have noticed the loss too.
_CLAIM_AFTER_S = 0.3
# Where the next in order does not claim in this time (it was lost too), the one after it does.
_NEXT_AFTER_S = 2.0


class Chair:
    """The coordinator's chair of one pull.

    Args:
        pull_id: the pull.
        me: this node.
        claim: who coordinates at first.
        make: makes a coordinator for an epoch.
        alive: ids of this node and of the linked nodes that take part.
        after: calls a function later, unless the pull was closed by then.
        taken: this node took the chair of a lost one, whose id is given.
    """

    def __init__(
        self,
        *,
        pull_id: str,
        me: str,
        claim: Claim,
        make: Callable[[int], Coordinator],
        alive: Callable[[], Collection[str]],
        after: Callable[[float, Callable[[], None]], None],
        taken: Callable[[str], None],
    ) -> None:
        self._pull_id = pull_id
        self._me = me
        self._make = make
        self._alive = alive
        self._after = after
        self._taken = taken
        self._coordinator: Coordinator | None = None
        self.claim = claim

    @property
    def mine(self) -> bool:
        """Whether this node coordinates."""
        return self.claim.node == self._me

    def sit(self) -> None:
        """Makes the coordinator where the claim is this node's."""
        if self.mine and self._coordinator is None:
            self._coordinator = self._make(self.claim.epoch)

    def leave(self) -> None:
        """Ends this node's coordinator, if there is one."""
        if self._coordinator is not None:
            self._coordinator.close()
            self._coordinator = None

    def consider(self, claim: Claim) -> bool:
        """Another claim was heard of: the better one holds. Returns whether it changed."""
        if not succession.better(claim, self.claim):
            return False
        self.leave()
        self.claim = claim
        self.sit()
        return True

    def node_lost(self, node: str) -> None:
        """The link to a node is gone."""
        if self._coordinator is not None:
            self._coordinator.node_lost(node)
        if node == self.claim.node:
            self._after(_CLAIM_AFTER_S, self._claim_if_next)

    def expel(self, node: str) -> None:
        """What a node says that it holds or reads is worth nothing: it goes to others, where this node coordinates."""
        if self._coordinator is not None:
            self._coordinator.node_lost(node)

    def on_message(self, node: str, message: pb.LinkMessage) -> None:
        """A message for the coordinator of this epoch."""
        if self._coordinator is not None:
            self._coordinator.on_message(node, message)

    def _claim_if_next(self) -> None:
        alive = self._alive()
        lost = self.claim.node
        if lost in alive:
            return
        order = succession.order(self._pull_id, lost, alive)
        if succession.successor(order, alive) == self._me:
            self.claim = Claim(self.claim.epoch + 1, self._me)
            self.sit()
            self._taken(lost)
        else:
            self._after(_NEXT_AFTER_S, self._claim_if_next)
