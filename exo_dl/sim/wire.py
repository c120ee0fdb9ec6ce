"""A simulated node's transfers: what its fetch pool, piece server and hub connections would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

from exo_dl.core import swarm as sw
from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import iter_bits
from exo_dl.sim.buffers import Buffers
from exo_dl.sim.clock import Clock
from exo_dl.sim.network import Flow, Network, NodeSpec

__all__ = ["Counters", "Host", "HubState", "Transfer", "Wire", "WireWorld"]

_MAX_UPLOADS, _MAX_UPLOADS_STAYING = 10, 8
_MAX_UPLOADS_PER_PEER = 4
_PEER_TIMEOUT_S = 5.0
_HUB_TIMEOUT_S = 8.0
_CONNECT_FAILS_S = 0.5
_NO_THREAD_S = 1.0


@dataclass(slots=True)
class Transfer:
    """A transfer of a node, from the hub (``peer`` empty, by connection ``slot``) or a peer."""

    fetch_id: int
    peer: str
    first: int
    end: int
    flow: Flow | None = None
    moved_at: float = 0.0
    slot: int = -1
    cancelled: bool = False


@dataclass(slots=True)
class HubState:
    """How the hub treats one node: each is an error that its next transfers end with, for as long as it is set."""

    result: sw.FetchResult | None = None
    retry_after_s: float = 0.0
    silent: bool = False


@dataclass(slots=True)
class Counters:
    """What a node did."""

    hub_bytes: float = 0.0
    hub_requests: int = 0
    messages: int = 0
    announcements: int = 0
    peer_requests: int = 0
    refused: int = 0
    coordinator_cpu_s: float = 0.0
    faults: list[str] = field(default_factory=list)


class Host(Protocol):
    """The node that a wire belongs to."""

    name: str
    spec: NodeSpec
    manifest: Manifest
    alive: bool
    frozen: bool
    clock: Clock
    full: bool
    corrupt: bool
    swarm: sw.Swarm | None
    count: Counters
    wire: Wire

    def dispatch(self, event: object) -> None:
        """Takes an event."""


class WireWorld(Protocol):
    """What a wire needs of the world."""

    now: float
    network: Network

    @property
    def hosts(self) -> Mapping[str, Host]:
        """All nodes by name."""

    def call_in(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        """Calls later."""

    def latency(self, a: str, b: str) -> float:
        """Seconds of a message from one node to another."""

    def hub_rtt(self, name: str) -> float:
        """Seconds from a request to the hub's first byte."""

    def reachable(self, a: str, b: str) -> bool:
        """Whether bytes pass between two nodes."""

    def start_flow(self, node: Any, transfer: Transfer, flow: Flow) -> None:
        """A transfer's bytes set out."""

    def stop_flow(self, transfer: Transfer) -> None:
        """A transfer's bytes stop."""

    def asked(self, node: str, transfer: Transfer) -> None:
        """A node's machine asked for a transfer: for those who look at it."""

    def began(self, node: str) -> None:
        """A transfer of a node holds buffers from now on: for those who look at it."""

    def hub_sent(self, node: str, piece: int, byte_count: float) -> None:
        """The hub sent a piece, or a part of one."""


class Wire:
    """The transfers of one node.

    Args:
        cluster: the world.
        node: whose transfers these are.

    Attributes:
        hub: how the hub treats the node.
        buffers: of its threads.
        limits: connections to the hub and transfers from peers that its machine was told to have at most, if it was.
    """

    def __init__(self, cluster: WireWorld, node: Host) -> None:
        self._cluster = cluster
        self._node = node
        self._manifest = node.manifest
        self.hub = HubState()
        self.limits: tuple[int, int] | None = None
        self.buffers = Buffers()
        self.transfers: dict[int, Transfer] = {}
        self.uploads: dict[Flow, str] = {}

    def _marks(self, pieces: Sequence[int]) -> list[tuple[int, int]]:
        return list(zip(accumulate(self._manifest.piece_bytes(p) for p in pieces), pieces, strict=True))

    def _begin(self, transfer: Transfer, flow: Flow) -> None:
        transfer.flow = flow
        transfer.moved_at = self._cluster.now
        self._cluster.start_flow(self._node, transfer, flow)

    def from_peer(self, action: sw.FetchFromPeer) -> None:
        """A transfer from a peer begins, or waits for a thread."""
        pieces = list(iter_bits(action.pieces))
        transfer = Transfer(action.fetch_id, action.peer, pieces[0], pieces[-1] + 1)
        self.transfers[action.fetch_id] = transfer
        self._cluster.asked(self._node.name, transfer)
        self.buffers.from_peer(action.fetch_id, lambda: self._ask_peer(action, transfer, pieces))

    def _ask_peer(self, action: sw.FetchFromPeer, transfer: Transfer, pieces: list[int]) -> None:
        now = self._cluster.now
        self._cluster.began(self._node.name)
        self._node.count.peer_requests += 1
        peer = self._cluster.hosts.get(action.peer)
        if peer is None or not self._cluster.reachable(self._node.name, action.peer):
            self._cluster.call_in(_PEER_TIMEOUT_S, self.end, transfer, sw.FetchResult.TIMEOUT)
            return
        assert peer.swarm is not None  # noqa: S101 - reachable
        rtt = 2 * self._cluster.latency(self._node.name, action.peer)
        busy = list(peer.wire.uploads.values())
        most = _MAX_UPLOADS_STAYING if action.stays else _MAX_UPLOADS
        result = None
        if action.pieces & ~peer.swarm.have:
            result = sw.FetchResult.MISSING
        elif len(busy) >= most or busy.count(self._node.name) >= _MAX_UPLOADS_PER_PEER:
            result = sw.FetchResult.BUSY
        if result is not None:
            self._node.count.refused += 1
            self._cluster.call_in(rtt, self.end, transfer, result)
            return
        links = (("up", action.peer), ("down", self._node.name))
        flow = Flow(links, self._marks(pieces), float("inf"), now + rtt)
        peer.wire.uploads[flow] = self._node.name
        self._begin(transfer, flow)

    def from_hub(self, action: sw.FetchFromHub) -> None:
        """A transfer from the hub begins."""
        now = self._cluster.now
        transfer = Transfer(action.fetch_id, "", action.first, action.end, slot=action.slot)
        self.transfers[action.fetch_id] = transfer
        self._cluster.asked(self._node.name, transfer)
        if not self.buffers.from_hub(action.fetch_id):
            self._cluster.call_in(0.0, self.end, transfer, sw.FetchResult.HUB_BUSY, _NO_THREAD_S)
            return
        self._cluster.began(self._node.name)
        self._node.count.hub_requests += 1
        rtt = self._cluster.hub_rtt(self._node.name)
        if self.hub.result is not None:
            wait = _CONNECT_FAILS_S if self.hub.result is sw.FetchResult.HUB_UNREACHABLE else rtt
            self._cluster.call_in(wait, self.end, transfer, self.hub.result)
            return
        links = self._cluster.network.hub_links(self._node.name)
        flow = Flow(
            links,
            self._marks(range(action.first, action.end)),
            self._node.spec.hub_connection,
            now + rtt if not self.hub.silent else float("inf"),
        )
        self._begin(transfer, flow)

    def trim(self, fetch_id: int, end: int) -> None:
        """A transfer is to end at piece ``end``."""
        transfer = self.transfers.get(fetch_id)
        if transfer is None or transfer.flow is None or end >= transfer.end:
            return
        keep = max(0, end - transfer.first)
        flow = transfer.flow
        if keep <= flow.next_mark:
            self._cluster.call_in(0.001, self.end, transfer, sw.FetchResult.CANCELLED)
        else:
            del flow.marks[keep:]
            transfer.end = end
            self._count_waste(transfer)

    def _count_waste(self, transfer: Transfer) -> None:
        # What is on its way, or in buffers, when a request is cut short.
        if not transfer.peer and transfer.flow is not None:
            self._cluster.network.look(transfer.flow)
            self._node.count.hub_bytes += 64e3 + transfer.flow.rate * 0.02

    def moved(self, transfer: Transfer, pieces: list[int]) -> None:
        """Pieces of a transfer passed the network."""
        transfer.moved_at = self._cluster.now
        if self._node.frozen or not self._node.alive:
            return
        bits, size = 0, 0
        for piece in pieces:
            bits |= 1 << piece
            size += self._manifest.piece_bytes(piece)
            if not transfer.peer:
                self._cluster.hub_sent(self._node.name, piece, self._manifest.piece_bytes(piece))
        if not transfer.peer:
            self._node.count.hub_bytes += size
        peer = self._cluster.hosts.get(transfer.peer)
        if self._node.full:
            self.end(transfer, sw.FetchResult.NO_ROOM)
        elif peer is not None and peer.corrupt:
            self.end(transfer, sw.FetchResult.CORRUPT)
        else:
            self._node.dispatch(sw.PiecesArrived(transfer.fetch_id, bits, size))
            if transfer.flow is not None and transfer.flow.done:
                self.end(transfer, sw.FetchResult.DONE)

    def end(self, transfer: Transfer, result: sw.FetchResult, retry_after_s: float = 0.0) -> None:
        """A transfer is over, unless it was already. ``retry_after_s``: at least; the hub may say more."""
        if self.transfers.get(transfer.fetch_id) is not transfer:
            return
        if self._node.frozen:
            return
        del self.transfers[transfer.fetch_id]
        if result is sw.FetchResult.CANCELLED:
            self._count_waste(transfer)
        flow = transfer.flow
        if flow is not None and not transfer.peer and not flow.done:
            self._cluster.network.look(flow)
            before = flow.marks[flow.next_mark - 1][0] if flow.next_mark else 0
            part = max(0.0, flow.sent - before)
            self._node.count.hub_bytes += part
            self._cluster.hub_sent(self._node.name, flow.marks[flow.next_mark][1], part)
        self._stop_flow(transfer)
        self.buffers.end(transfer.fetch_id)
        if result is sw.FetchResult.HUB_BUSY:
            retry_after_s = max(retry_after_s, self.hub.retry_after_s)
        self._node.dispatch(sw.FetchEnded(transfer.fetch_id, result, retry_after_s))

    def time_out(self) -> None:
        """Ends transfers that stood still for too long, as the daemon's sockets do."""
        now = self._cluster.now
        for transfer in list(self.transfers.values()):
            limit = self._node.clock.span(_PEER_TIMEOUT_S if transfer.peer else _HUB_TIMEOUT_S)
            flow = transfer.flow
            if flow is None or self._node.frozen:
                continue
            self._cluster.network.look(flow)
            if flow.rate > 0 and flow.starts_at <= now:
                transfer.moved_at = now
            elif now - transfer.moved_at > limit:
                self.end(transfer, sw.FetchResult.TIMEOUT)

    def cancel(self, fetch_id: int) -> None:
        """A transfer is to end now."""
        if (transfer := self.transfers.get(fetch_id)) is not None:
            transfer.cancelled = True
            self._cluster.call_in(0.01, self.end, transfer, sw.FetchResult.CANCELLED)

    def pause(self) -> None:
        """No byte moves any more: the process is stopped."""
        for transfer in self.transfers.values():
            if transfer.flow is not None:
                self._cluster.network.hold(transfer.flow)

    def resume(self) -> None:
        """The process goes on, and finds its connections broken."""
        for transfer in [t for t in self.transfers.values() if self.buffers.holds(t.fetch_id)]:
            self.end(transfer, sw.FetchResult.FAILED)

    def drop(self) -> None:
        """The process is gone."""
        for transfer in list(self.transfers.values()):
            self._stop_flow(transfer)
        self.transfers.clear()
        self.buffers.drop()
        self.uploads.clear()

    def _stop_flow(self, transfer: Transfer) -> None:
        if transfer.flow is not None:
            self._cluster.stop_flow(transfer)
