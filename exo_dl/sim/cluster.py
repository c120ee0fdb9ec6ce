"""N simulated nodes of the real core on a simulated network, deterministic from a seed."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

from exo_dl.core.leases import LeaseEvent
from exo_dl.core.manifest import Manifest
from exo_dl.core.succession import Claim
from exo_dl.core.swarm import FetchResult
from exo_dl.sim.links import Links
from exo_dl.sim.network import Flow, Network
from exo_dl.sim.node import SimNode
from exo_dl.sim.report import Report, report_of
from exo_dl.sim.wire import Transfer
from exo_dl.sim.world import Message

__all__ = ["Cluster"]

_DETECT_S = 5.0
_KILL_DETECT_S = 0.5


class Cluster:
    """The simulated world.

    Args:
        manifest: what is pulled.
        latency_s: one way between two nodes: half of it is each node's, where that has none of its own.
        hub_rtt_s: from a request to the hub's first byte; what a node's own latency is more than half comes on top.
        uplink: a shared link to the hub, bytes/s; None when there is none.
        quantum_s: the network is looked at no more often than this. Transfers begin and end up to that much late:
            it should be small beside the time that a piece takes on a free link.
        swarm_options: passed to every `Swarm`.
        table_options: passed to every `LeaseTable`.

    Attributes:
        measures_cpu: whether to measure what lease tables take of the processor; asking the system for it is slow.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        latency_s: float = 0.0003,
        hub_rtt_s: float = 0.03,
        uplink: float | None = None,
        quantum_s: float = 0.002,
        swarm_options: dict[str, Any] | None = None,
        table_options: dict[str, Any] | None = None,
    ) -> None:
        self.manifest = manifest
        self.latency_s = latency_s
        self.hub_rtt_s = hub_rtt_s
        self.quantum_s = quantum_s
        self.network = Network(uplink=uplink)
        self.nodes: dict[str, SimNode] = {}
        self.swarm_options = swarm_options or {}
        self.table_options = table_options or {}
        self.initiator = ""
        self.measures_cpu = True
        self.now = 0.0
        self._moved_at = 0.0
        self._timers: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = itertools.count()
        self._owners: dict[Flow, tuple[SimNode, Transfer]] = {}
        self._links = Links()
        self._linked: dict[str, tuple[str, ...]] = {}
        self._starts: dict[str, float] = {}

    # ----------------------------------------------------------------- setup

    @property
    def hosts(self) -> dict[str, SimNode]:
        """All nodes by name, dead ones too."""
        return self.nodes

    def add(self, node: SimNode, *, at: float = 0.0) -> None:
        """A node that starts at second ``at``; the first one added starts the pull."""
        self.nodes[node.name] = node
        if at < 0.01:
            self._starts[node.name] = at
        self.network.add_node(node.spec)
        if not self.initiator:
            self.initiator = node.name
        self.call_at(at, self.start_node, node.name)

    def start_node(self, name: str) -> None:
        """A node's daemon starts, for the first time or again."""
        node = self.nodes[name]
        if node.alive:
            return
        claim = Claim(1, self.initiator)
        if name == self.initiator and node.life:
            # A restarted initiator does not know how the pull went on: it takes part as everyone else does.
            claim = Claim(0, name)
        others = [
            n for n in self.nodes.values() if n.alive and n is not node and not self._links.look(name, n.name).cut
        ]
        for other in others:
            if node.life and not self._links.look(name, other.name).lost:
                # Its first words say that it was restarted: what was before is over.
                other.peer_down(name)
        node.alive = True
        for other in others:
            if node.life or self._links.look(name, other.name).lost:
                self._links.renew(name, other.name)
        self._linked.clear()
        node.start(claim)
        for other in others:
            other.peer_up(name)
            node.peer_up(other.name)

    # --------------------------------------------------------------- latency

    def _half(self, name: str) -> float:
        own = self.nodes[name].latency_s
        return self.latency_s / 2 if own is None else own

    def latency(self, a: str, b: str) -> float:
        """Seconds of a message from one node to another."""
        return self._half(a) + self._half(b)

    def hub_rtt(self, name: str) -> float:
        """Seconds from a node's request to the hub's first byte."""
        return self.hub_rtt_s + 2 * max(0.0, self._half(name) - self.latency_s / 2)

    # ---------------------------------------------------------------- timers

    def call_at(self, at: float, call: Callable[..., None], *args: Any) -> None:
        """Calls later, in the order of time and then of request."""
        heapq.heappush(self._timers, (at, next(self._serial), call, args))

    def call_in(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        """Calls ``seconds`` from now."""
        self.call_at(self.now + seconds, call, *args)

    # ----------------------------------------------------------------- links

    def linked(self, name: str) -> tuple[str, ...]:
        """Nodes that ``name`` has a link with, as far as it knows."""
        if name not in self._linked:
            others = (n.name for n in self.nodes.values() if n.name != name and n.alive)
            self._linked[name] = tuple(other for other in others if not self._links.look(name, other).lost)
        return self._linked[name]

    def is_linked(self, a: str, b: str) -> bool:
        """Whether ``a`` has a link with ``b``, as far as it knows."""
        return self.nodes[b].alive and not self._links.look(a, b).lost

    def claim_of(self, name: str) -> Claim | None:
        """The claim to coordinate that a node believes."""
        succession = self.nodes[name].succession
        return succession.claim if succession is not None else None

    def about_to_start(self) -> list[str]:
        """Nodes that are there from the beginning, while it lasts."""
        return [name for name, at in self._starts.items() if at >= self.now]

    def reachable(self, a: str, b: str) -> bool:
        """Whether bytes pass between two nodes now."""
        x, y = self.nodes[a], self.nodes[b]
        return x.alive and y.alive and not x.frozen and not y.frozen and not self._links.look(a, b).cut

    def send(self, source: str, target: str, message: Message) -> None:
        """A message over the link of two nodes; lost with it, delivered late where the link is cut and mended."""
        if source == target:
            self.call_in(0.0, self._deliver, source, target, message, -1)
            return
        link = self._links.look(source, target)
        if link.lost:
            return
        if link.cut:
            link.queue.append((self.now + self.latency(source, target), target, message))
            return
        self.call_in(self.latency(source, target), self._deliver, source, target, message, link.generation)

    def _deliver(self, source: str, target: str, message: Message, generation: int) -> None:
        node = self.nodes[target]
        if source != target:
            link = self._links.look(source, target)
            if link.lost or link.generation != generation:
                return
            if link.cut:
                link.queue.append((self.now, target, message))
                return
        node.feed(message)

    def cut(self, a: str, b: str) -> None:
        """Nothing passes between two nodes any more; both notice after some seconds."""
        link = self._links.of(a, b)
        if not link.cut:
            link.cut = True
            self._stop_between(a, b)
            self.call_in(_DETECT_S, self._notice, a, b, link.generation)

    def mend(self, a: str, b: str) -> None:
        """The link is whole again."""
        link = self._links.of(a, b)
        if not link.cut:
            return
        link.cut = False
        if not link.lost:
            queue, link.queue = sorted(link.queue, key=lambda entry: entry[0]), []
            for _, target, message in queue:
                other = a if target == b else b
                self.call_in(self.latency(a, b), self._deliver, other, target, message, link.generation)
        elif self.nodes[a].alive and self.nodes[b].alive:
            self._reconnect(a, b)

    def _reconnect(self, a: str, b: str) -> None:
        self._links.renew(a, b)
        self._linked.clear()
        self.nodes[a].peer_up(b)
        self.nodes[b].peer_up(a)

    def _notice(self, a: str, b: str, generation: int) -> None:
        link = self._links.of(a, b)
        frozen = self.nodes[a].frozen or self.nodes[b].frozen
        gone = not (self.nodes[a].alive and self.nodes[b].alive)
        if link.lost or link.generation != generation or not (link.cut or frozen or gone):
            return
        link.lost, link.queue = True, []
        self._linked.clear()
        self.nodes[a].peer_down(b)
        self.nodes[b].peer_down(a)

    def _stop_between(self, a: str, b: str) -> None:
        for node, transfer in list(self._owners.values()):
            if {node.name, transfer.peer} == {a, b} and transfer.flow is not None:
                self.network.hold(transfer.flow)

    def kill(self, name: str) -> None:
        """A node's process dies: its connections break at once."""
        node = self.nodes[name]
        if not node.alive:
            return
        node.kill()
        self._linked.clear()
        for owner, transfer in list(self._owners.values()):
            if transfer.peer == name:
                self.call_in(0.01, owner.wire.end, transfer, FetchResult.FAILED)
        for other in self.nodes.values():
            if other is not node and other.alive:
                self.call_in(
                    _KILL_DETECT_S, self._notice, name, other.name, self._links.of(name, other.name).generation
                )

    def freeze(self, name: str) -> None:
        """A node is stopped; the others lose it after some seconds."""
        node = self.nodes[name]
        if node.alive and not node.frozen:
            node.freeze()
            for other in self.nodes.values():
                if other is not node:
                    self._stop_between(name, other.name)
                    self.call_in(_DETECT_S, self._notice, name, other.name, self._links.of(name, other.name).generation)

    def thaw(self, name: str) -> None:
        """A stopped node goes on, and makes the links anew that were lost."""
        node = self.nodes[name]
        if node.alive and node.frozen:
            node.thaw()
            for other in list(self.nodes.values()):
                link = self._links.of(name, other.name)
                if other is not node and other.alive and link.lost and not link.cut:
                    self._reconnect(name, other.name)

    # ----------------------------------------------------------------- flows

    def start_flow(self, node: SimNode, transfer: Transfer, flow: Flow) -> None:
        """A transfer's bytes set out."""
        self._owners[flow] = (node, transfer)
        self.network.start(flow)

    def stop_flow(self, transfer: Transfer) -> None:
        """A transfer's bytes stop."""
        assert transfer.flow is not None  # noqa: S101 - the caller looked
        self.network.stop(transfer.flow)
        self._owners.pop(transfer.flow, None)
        if transfer.peer and transfer.peer in self.nodes:
            self.nodes[transfer.peer].wire.uploads.pop(transfer.flow, None)

    # ----------------------------------------------------------------- watch

    def asked(self, node: str, transfer: Transfer) -> None:
        """A node's machine asked for a transfer: for those who look at it."""

    def began(self, node: str) -> None:
        """A transfer of a node holds buffers from now on: for those who look at it."""

    def hub_sent(self, node: str, piece: int, byte_count: float) -> None:
        """The hub sent a node a piece, or a part of one: for those who count."""

    def leased(self, node: str, event: LeaseEvent) -> None:
        """The lease table of a node took an event: for those who look at it."""

    def look(self) -> None:
        """Twice a second: for those who look at everything."""

    def trouble(self, name: str, why: str) -> None:
        """A fault befalls a node: for those who reckon with it."""

    def recovered(self, name: str, why: str) -> None:
        """That fault is over."""

    def lost(self, pieces: int) -> None:
        """Pieces that a node held are found to be bad."""

    # ------------------------------------------------------------------- run

    @property
    def done(self) -> bool:
        """Every live node holds what it wants."""
        return all(n.swarm is not None and not n.swarm.lacking_bytes for n in self.nodes.values() if n.alive) and any(
            n.alive for n in self.nodes.values()
        )

    def run(self, *, until_s: float, settle_s: float = 0.0, stop: Callable[[], bool] | None = None) -> Report:
        """Runs until all live nodes are complete (and ``settle_s`` is over), or ``until_s``."""
        next_watch = self.now + 0.5
        move_at = self.now
        finished_at: float | None = None
        while self.now < until_s:
            if self.network.changed:
                move_at = min(move_at, max(self.now, self._moved_at + self.quantum_s))
            at = min(move_at, next_watch, self._timers[0][0] if self._timers else next_watch)
            self.now = max(self.now, at)
            if self.now >= move_at:
                self._move()
                move_at = self.now + max(self.quantum_s, self.network.next_mark_in(self.now))
            while self._timers and self._timers[0][0] <= self.now + 1e-12:
                _, _, call, args = heapq.heappop(self._timers)
                call(*args)
            if self.now >= next_watch:
                next_watch = self.now + 0.5
                for node in self.nodes.values():
                    if node.alive:
                        node.wire.time_out()
                        if node.succession is not None and not node.succession.reachable:
                            node.take_over()
                self.look()
            if self.done and self.now >= settle_s:
                finished_at = self.now
                break
            if stop is not None and stop():
                break
        return report_of(
            self.nodes.values(),
            self.manifest,
            uplink=self.network.uplink,
            now=self.now,
            complete=finished_at is not None,
        )

    def _move(self) -> None:
        """Moves bytes since the last time, and tells nodes what arrived."""
        passed = self.network.advance(self._moved_at, self.now - self._moved_at)
        self._moved_at = self.now
        for flow, pieces in passed:
            owner = self._owners.get(flow)
            if owner is not None:
                owner[0].wire.moved(owner[1], pieces)
