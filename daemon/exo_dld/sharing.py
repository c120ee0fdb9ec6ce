"""This node's share of the cluster's limit on hub traffic, and the division where it is this node's turn.

The node with the smallest id among the linked ones divides. It counts for each node what that node may still be using
(its own word in its beats, or what it was last granted), so that the shares of linked nodes never add up to more than
the limit, whatever the order in which they hear of a change. What a lost node used stays reserved for a while: it may
only be out of sight. Each part of a split network then has the limit for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from exo_dl.core.shares import ShareUse, next_shares
from exo_dl.errors import ProtocolError
from exo_dl.net.limits import RateLimit
from exo_dl.rpc.v1.swarm_pb2 import Beat, HubShare, LinkMessage
from exo_dld.membership import Membership

__all__ = ["Sharing"]

EVERY_S = 1.0
_RESERVE_S = 5.0
# A node that was told no share yet waits so long, and then takes an equal one.
_UNTOLD_S = 3.0
_TRICKLE_BYTES_PER_S = 1.0
_HELD_BACK_PART = 0.3


class Sharing:
    """The share of one node.

    Args:
        membership: the other nodes.
        limiter: this node's hub limit; only its counters are read.
        changed: called with each new share, bytes/s; 0: there is no limit.
    """

    def __init__(self, membership: Membership, *, limiter: RateLimit, changed: Callable[[float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._membership = membership
        self._me = membership.node_id
        self._limiter = limiter
        self._changed = changed
        self._limit = 0.0
        self._share = 0.0
        self._told = 0.0
        self._told_at = float("-inf")
        self._untold_since = self._loop.time()
        self._granted: dict[str, float] = {}
        self._last_shares: dict[str, float] = {}
        self._reserved: dict[str, tuple[float, float]] = {}
        self._divider = self._me
        self._last_use = limiter.use()
        self._measured_at = self._loop.time()
        self._used = 0.0
        self._held_back = False
        self._timer = self._loop.call_later(EVERY_S, self._tick)
        membership.on_up.append(self._node_up)
        membership.on_down.append(self._node_down)

    def close(self) -> None:
        """Stops dividing."""
        self._timer.cancel()

    @property
    def share(self) -> float:
        """Bytes/s that this node may read from hubs; 0: the cluster has no limit."""
        return self._share

    @property
    def waiting(self) -> bool:
        """Whether the share is next to nothing for a moment, until the node that divides has said what it is."""
        return 0 < self._share <= _TRICKLE_BYTES_PER_S

    @property
    def used(self) -> float:
        """Bytes/s that it read in the last second."""
        return self._used

    def set_limit(self, bytes_per_s: float) -> None:
        """The limit of all nodes together changed; 0: none."""
        old, self._limit = self._limit, bytes_per_s
        if not bytes_per_s:
            self._granted.clear()
            self._reserved.clear()
            self._set(0.0)
        elif not old:
            self._wait()
        elif bytes_per_s < old:
            # Every node does the same, so that the sum follows at once.
            self._set(self._share * bytes_per_s / old)
            self._granted = {node: share * bytes_per_s / old for node, share in self._granted.items()}
        self._divide()

    def mark(self, beat: Beat) -> None:
        """Puts into a beat what the node that divides needs to know."""
        beat.hub_used_bytes_per_s = self._used
        beat.hub_held_back = self._held_back
        beat.hub_share_bytes_per_s = self._share

    def on_share(self, node: str, share: HubShare) -> None:
        """The node that divides says what is this node's.

        Raises:
            ProtocolError: it is no rate.
        """
        if not 0 <= share.bytes_per_s < float("inf"):
            raise ProtocolError("A share of the hub limit must be a rate.")
        if node == self._divider:
            self._told, self._told_at = share.bytes_per_s, self._loop.time()
            if self._limit:
                self._set(min(self._limit, share.bytes_per_s))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = self._loop.call_later(EVERY_S, self._tick)
        self._measure()
        self._divide()
        untold_s = self._loop.time() - max(self._untold_since, self._told_at)
        if self._limit and self._share <= _TRICKLE_BYTES_PER_S and untold_s > _UNTOLD_S:
            self._set(self._limit / (1 + len(self._membership.up())))

    def _measure(self) -> None:
        now, use = self._loop.time(), self._limiter.use()
        seconds = max(now - self._measured_at, 0.001)
        self._used = (use.byte_count - self._last_use.byte_count) / seconds
        # Where the node's own limit is the lower one, more of the cluster's would be of no use to it.
        by_share = self._limiter.bytes_per_s >= self._share > 0
        self._held_back = by_share and (use.held_back_s - self._last_use.held_back_s) / seconds >= _HELD_BACK_PART
        self._measured_at, self._last_use = now, use

    def _divide(self) -> None:
        self._divider = min([self._me, *self._membership.up()])
        now = self._loop.time()
        uses = {self._me: ShareUse(self._used, self._held_back, self._share)}
        for node in self._membership.up():
            peer = self._membership.peer(node)
            beat = Beat() if peer is None else peer.beat
            self._last_shares[node] = max(0.0, beat.hub_share_bytes_per_s)
            share = max(self._last_shares[node], self._granted.get(node, 0.0))
            uses[node] = ShareUse(max(0.0, beat.hub_used_bytes_per_s), beat.hub_held_back, share)
        if self._divider != self._me or not self._limit:
            self._granted.clear()
            return
        self._reserved = {n: (s, until) for n, (s, until) in self._reserved.items() if until > now and n not in uses}
        shares = next_shares(self._limit, uses, reserved=sum(share for share, _ in self._reserved.values()))
        self._set(shares.pop(self._me))
        self._granted = shares
        for node, share in shares.items():
            self._membership.send(node, LinkMessage(hub_share=HubShare(bytes_per_s=share)))

    def _node_up(self, node: str) -> None:
        # It may have had the whole limit for itself, or may have it from now on.
        before, after = self._divider, min([self._me, *self._membership.up()])
        if self._limit and after != before:
            self._divider = after
            self._wait()
        self._divide()

    def _node_down(self, node: str, _reason: str) -> None:
        share = max(self._last_shares.pop(node, 0.0), self._granted.pop(node, 0.0))
        peer = self._membership.peer(node)
        if share and (peer is None or not peer.left):
            self._reserved[node] = (share, self._loop.time() + _RESERVE_S)
        self._divide()

    def _wait(self) -> None:
        """Until the node that divides says more, next to nothing; where that is this node, it says so in a moment."""
        now = self._loop.time()
        self._untold_since = now
        fresh = self._divider != self._me and now - self._told_at < _UNTOLD_S
        self._set(min(self._limit, self._told) if fresh else _TRICKLE_BYTES_PER_S)

    def _set(self, share: float) -> None:
        share = max(share, _TRICKLE_BYTES_PER_S) if self._limit else 0.0
        if share != self._share:
            self._share = share
            self._changed(share)
