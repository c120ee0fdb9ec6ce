"""The coordinator's shell: messages in, lease table, messages out. One for each pull that this node coordinates."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from exo_dl.core import leases as core
from exo_dl.core.manifest import Manifest
from exo_dl.errors import ExoDlError, ProtocolError
from exo_dl.net import wire
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dld.driving import Driver

__all__ = ["Coordinator"]

# With pieces left that no node holds and nobody reading them, a pull is given up after this time.
_HOPELESS_AFTER_S = 60.0
_REFUSED_AFTER_S = 3.0
_SAME_MOMENT_S = 1.0
_MAX_SLOTS = 64


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a node cannot read from the hub, and when it said so."""

    result: core.LeaseResult
    detail: str
    at: float


class Coordinator:
    """Leases the shards of one pull.

    Args:
        pull_id: the pull.
        manifest: its files.
        epoch: of this coordinator.
        expected: nodes that are about to join; nothing is leased before they told what they hold, or a second passed.
        want_of: the pieces that a node may want.
        send: puts a message on the way to a node, this one included.
        on_fault: one line for a person about something that went wrong and was dealt with.
        on_hopeless: the pull cannot end, and why: no live node holds what is missing and none can read it,
            or the lease table broke.
    """

    def __init__(
        self,
        *,
        pull_id: str,
        manifest: Manifest,
        epoch: int,
        expected: Collection[str],
        want_of: Callable[[str], int],
        send: Callable[[str, pb.LinkMessage], object],
        on_fault: Callable[[str], None],
        on_hopeless: Callable[[str], None],
    ) -> None:
        self._pull_id = pull_id
        self._manifest = manifest
        self._epoch = epoch
        self._want_of = want_of
        self._send = send
        self._on_fault = on_fault
        self._on_hopeless = on_hopeless
        self._loop = asyncio.get_running_loop()
        rng = random.Random(f"{pull_id}/{epoch}")  # noqa: S311
        self._table = core.LeaseTable(manifest, rng=rng, epoch=epoch, expected=expected)
        self._driver = Driver[core.LeaseEvent, core.LeaseAction](self._table, pull_id=pull_id, broken=self._broken)
        self._timer: asyncio.TimerHandle | None = None
        self._refusals: dict[str, _Refusal] = {}
        self._joined: set[str] = set()
        self._stuck_since: float | None = None
        self._watch = self._loop.call_later(1.0, self._check_hope)
        self._closed = False

    def close(self) -> None:
        """Stops all timers. Nothing is sent afterwards."""
        self._closed = True
        self._watch.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def node_lost(self, node: str) -> None:
        """The link to ``node`` is gone."""
        if node in self._joined:
            self._joined.discard(node)
            self._refusals.pop(node, None)
            self._feed(core.NodeLost(node))

    def on_message(self, node: str, message: pb.LinkMessage) -> None:
        """Takes a PullJoin, LeaseAsk, LeaseProgress or LeaseEnd of this pull and epoch.

        Raises:
            ProtocolError: it names pieces that do not exist.
        """
        kind = message.WhichOneof("body")
        if kind == "pull_join":
            self._on_join(node, message.pull_join)
        elif node not in self._joined:
            return
        elif kind == "lease_ask":
            ask = message.lease_ask
            if ask.slot >= _MAX_SLOTS:
                raise ProtocolError(f"A lease was asked for connection {ask.slot}; {_MAX_SLOTS} is the most.")
            self._feed(core.LeaseAsked(node, ask.slot, max(0.0, ask.bytes_per_s)))
        elif kind == "lease_progress":
            for lease in message.lease_progress.leases:
                rate = max(0.0, lease.bytes_per_s)
                self._feed(core.LeaseProgressed(node, lease.lease_id, lease.position, rate, lease.end))
            self._stuck_since = None
        elif kind == "lease_end":
            self._on_end(node, message.lease_end)

    def _on_join(self, node: str, join: pb.PullJoin) -> None:
        have, checking, want = (
            wire.piece_set_from_pb(bits, self._manifest) for bits in (join.have, join.checking, join.want)
        )
        held = wire.held_leases_from_pb(list(join.leases), self._manifest)
        want &= self._want_of(node)
        if node in self._joined and join.failed:
            self._feed(core.NodeLost(node))  # it failed: what it asked for is void
        self._joined.add(node)
        self._stuck_since = None
        self._feed(core.NodeJoined(node, have, checking, want, held, max(0.0, join.hub_bytes_per_s)))

    def _on_end(self, node: str, end: pb.LeaseEnd) -> None:
        if end.result not in (1, 2, 3, 4, 5, 6):
            raise ProtocolError(f"A lease ended with the unknown result {end.result}.")
        result = core.LeaseResult(int(end.result))
        refusal = self._refusals.get(node)
        if result is core.LeaseResult.DONE:
            # What another connection of the node was just reading says nothing about what it was refused.
            if refusal is not None and self._loop.time() - refusal.at > _SAME_MOMENT_S:
                del self._refusals[node]
        elif result is not core.LeaseResult.RETURNED:
            self._refusals[node] = _Refusal(result, end.detail[:500], self._loop.time())
        self._feed(core.LeaseEnded(node, end.lease_id, end.position, result, min(max(0.0, end.retry_after_s), 3600.0)))

    def _feed(self, event: core.LeaseEvent) -> None:
        if self._closed:
            return
        now = self._loop.time()
        for action in self._driver.handle(event, now):
            self._apply(action)
        if not self._closed:
            self._arm()

    def _broken(self, error: ExoDlError) -> None:
        self.close()
        self._on_hopeless(str(error))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._table.next_deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(max(deadline, self._loop.time() + 0.001), self._feed, core.Tick())

    def _apply(self, action: core.LeaseAction) -> None:
        match action:
            case core.Grant(node, slot, lease_id, first, end):
                grant = pb.LeaseGrant(
                    pull_id=self._pull_id, epoch=self._epoch, lease_id=lease_id, slot=slot, first=first, end=end
                )
                self._send(node, pb.LinkMessage(lease_grant=grant))
            case core.Cut(node, lease_id, end):
                cut = pb.LeaseCut(pull_id=self._pull_id, epoch=self._epoch, lease_id=lease_id, end=end)
                self._send(node, pb.LinkMessage(lease_cut=cut))
            case core.QueryHave(nodes):
                query = pb.LinkMessage(have_query=pb.HaveQuery(pull_id=self._pull_id, epoch=self._epoch))
                for node in nodes:
                    self._send(node, query)
            case core.Fault(text):
                self._on_fault(text)

    def _check_hope(self) -> None:
        """Ends a pull that nobody can finish: pieces that no live node holds, and no node that may read them."""
        self._watch = self._loop.call_later(1.0, self._check_hope)
        now = self._loop.time()
        if not self._joined or self._table.outstanding_bytes == 0 or self._table.leases():
            self._stuck_since = None
            return
        if self._stuck_since is None:
            self._stuck_since = now
            return
        refused = self._refusals.keys() >= self._joined and all(
            refusal.result is core.LeaseResult.HUB_REFUSED for refusal in self._refusals.values()
        )
        if now - self._stuck_since < (_REFUSED_AFTER_S if refused else _HOPELESS_AFTER_S):
            return
        reasons = sorted({refusal.detail for refusal in self._refusals.values() if refusal.detail})
        missing = self._table.outstanding_bytes
        self._on_hopeless(
            f"{missing} bytes are on no live node, and no node can read them from the hub"
            + (": " + "; ".join(reasons[:3]) if reasons else ".")
        )
