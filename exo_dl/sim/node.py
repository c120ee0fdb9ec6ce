"""A simulated daemon: the real core machines, with the simulated network in place of threads and sockets.

What `exo_dld` does with sockets is done here with flows and delayed calls: actions of the two machines become messages
and transfers, and what becomes of these comes back as events.
"""

from __future__ import annotations

import random
import time

from exo_dl.core import leases as lt
from exo_dl.core import swarm as sw
from exo_dl.core.leases import LeaseTable
from exo_dl.core.manifest import Manifest
from exo_dl.core.neighbours import Neighbourhood
from exo_dl.core.succession import Claim, Succession
from exo_dl.core.swarm import Swarm
from exo_dl.sim.alarm import Alarm
from exo_dl.sim.clock import Clock
from exo_dl.sim.network import NodeSpec
from exo_dl.sim.voice import Voice
from exo_dl.sim.wire import Counters, Wire
from exo_dl.sim.world import Message, World

__all__ = ["SimNode"]

_MOST_HUB = 4  # connections to the hub, where memory is not short
_MEET_S = 0.002  # all that come at about the same time are met together


class SimNode:
    """One node.

    Args:
        cluster: the world that it lives in.
        spec: its links.
        manifest: what is pulled.
        want: pieces that it is to end with.
        held: pieces that are on its disk at the start.
        check_s: seconds for which it checks these before it knows that it holds them.
        hub: whether it may read from the hub.
        seed: of its own randomness.

    Attributes:
        clock: what it takes for the time; to be set before it starts.
        latency_s: of its own link, one way, such as a radio's; None: half of what the cluster has.
    """

    def __init__(
        self,
        cluster: World,
        spec: NodeSpec,
        manifest: Manifest,
        *,
        want: int,
        held: int = 0,
        check_s: float = 0.0,
        hub: bool = True,
        seed: int = 0,
    ) -> None:
        self.cluster = cluster
        self.name = spec.name
        self.spec = spec
        self.manifest = manifest
        self.want = want
        self.disk = held
        self.initially = held
        self.check_s = check_s
        self.hub_ok = hub
        self.seed = seed
        self.clock = Clock()
        self.latency_s: float | None = None
        self.alive = False
        self.frozen = False
        self.short: tuple[int, int] | None = None
        self.corrupt = False
        self.full = False
        self.swarm: Swarm | None = None
        self.table: LeaseTable | None = None
        self.succession: Succession | None = None
        self.wire = Wire(cluster, self)
        self.count = Counters()
        self.complete_at: float | None = None
        self.checking = 0
        self.life = 0
        self.voice: Voice | None = None
        self.neighbourhood = Neighbourhood("sim", self.name)
        self._linked: tuple[str, ...] = ()
        self._neighbours: tuple[str, ...] = ()
        self._met: set[str] = set()
        self._meets = False
        self._inbox: list[tuple[object, int]] = []
        self._swarm_alarm = Alarm(self, lambda: self._to_swarm(sw.Tick()))
        self._table_alarm = Alarm(self, lambda: self._to_table(lt.Tick()))

    # ------------------------------------------------------------------ life

    def start(self, claim: Claim) -> None:
        """The daemon starts, with whatever its disk holds."""
        self.alive, self.frozen = True, False
        self.life += 1
        self.complete_at = None
        rng = random.Random(f"{self.seed}/{self.name}/{self.life}")  # noqa: S311 - a simulation
        self.swarm = Swarm(self.manifest, node=self.name, want=self.want, rng=rng, **self.cluster.swarm_options)
        self.succession = Succession("sim", self.name, initiator=self.cluster.initiator, claim=claim)
        self.voice = Voice(self, self.swarm)
        self._met.clear()
        self._swarm_alarm.clear()
        self.table = None
        self.checking = self.disk
        if claim.node == self.name:
            self._coordinate(claim)
        self.cluster.call_in(self.check_s, self._checked, self.life)
        self.feed(sw.HubReady(self.hub_ok))
        self.wire.limits = None
        if self.short is not None:
            self._limit(*self.short)
        self.voice.begin()
        if self.checking:
            self.join_coordinator()

    def _checked(self, life: int) -> None:
        if life == self.life and self.alive:
            self.checking = 0
            if self.disk:
                self.feed(sw.Held(self.disk))
            self.join_coordinator()

    def memory_short(self, limits: tuple[int, int] | None) -> None:
        """At most so many connections to the hub and transfers from peers; None: there is room again."""
        self.short = limits
        self._limit(*(limits or (_MOST_HUB, sw.MAX_PEER_FETCHES)))

    def _limit(self, hub: int, peers: int) -> None:
        self.feed(sw.SlotLimit(hub))
        self.feed(sw.PeerLimit(peers))

    def kill(self) -> None:
        """The process is gone; its disk stays."""
        if self.swarm is not None:
            self.disk = self.swarm.have
        self.alive = False
        self.swarm = None
        self.table = None
        self._inbox.clear()
        self.wire.drop()

    def freeze(self) -> None:
        """SIGSTOP: nothing is handled, sent or received."""
        self.frozen = True
        self.wire.pause()

    def thaw(self) -> None:
        """SIGCONT."""
        self.frozen = False
        self.wire.resume()
        inbox, self._inbox = self._inbox, []
        for event, life in inbox:
            if life == self.life:
                self.dispatch(event)

    # ---------------------------------------------------------------- events

    def feed(self, event: object) -> None:
        """An event of one of the two machines, now or when the node is awake again."""
        if not self.alive:
            return
        if self.frozen:
            self._inbox.append((event, self.life))
        else:
            self.dispatch(event)

    def dispatch(self, event: object) -> None:
        """Hands an event to the machine that it is for, and carries out what comes back."""
        if isinstance(event, sw.SwarmEvent) and not isinstance(event, sw.Tick):
            self._to_swarm(event)
        elif isinstance(event, lt.LeaseEvent) and not isinstance(event, lt.Tick):
            self._to_table(event)
        elif isinstance(event, Message):
            self._received(event)

    def _to_swarm(self, event: sw.SwarmEvent) -> None:
        if self.swarm is None:
            return
        if isinstance(event, sw.SlotLimit):
            self.wire.limits = (event.limit, sw.MAX_PEER_FETCHES)
        elif isinstance(event, sw.PeerLimit) and self.wire.limits is not None:
            self.wire.limits = (self.wire.limits[0], event.limit)
        for action in self.swarm.handle(event, self.clock.read(self.cluster.now)):
            self._do(action)
        if self.swarm is not None:
            self._swarm_alarm.arm(self.swarm.next_deadline())

    def _to_table(self, event: lt.LeaseEvent) -> None:
        if self.table is None or self.succession is None:
            return
        claim = self.succession.claim
        now = self.clock.read(self.cluster.now)
        began = time.process_time() if self.cluster.measures_cpu else 0.0
        actions = self.table.handle(event, now)
        if self.cluster.measures_cpu:
            self.count.coordinator_cpu_s += time.process_time() - began
        for action in actions:
            match action:
                case lt.Grant(node):
                    self.send(node, Message("grant", action, claim))
                case lt.Cut(node):
                    self.send(node, Message("cut", action, claim))
                case lt.QueryHave(nodes):
                    for node in nodes:
                        self.send(node, Message("query", None, claim))
                case lt.Fault(text):
                    self.count.faults.append(f"{self.cluster.now:.2f} {text}")
        self.cluster.leased(self.name, event)
        if self.table is not None:
            self._table_alarm.arm(self.table.next_deadline())

    # -------------------------------------------------------------- messages

    def send(self, node: str, message: Message) -> None:
        """Over the link to ``node``; to itself without delay in order."""
        self.count.messages += 1
        self.cluster.send(self.name, node, message)

    def _received(self, message: Message) -> None:
        assert self.swarm is not None and self.succession is not None  # noqa: S101 - alive
        body = message.body
        if message.kind == "claim":
            assert message.claim is not None  # noqa: S101 - always set
            self.heard(message.claim)
        elif message.kind in ("have", "lacks"):
            self._to_swarm(body)  # type: ignore[arg-type]
        elif message.kind == "ask":
            self.send(str(body), Message("have", sw.PeerHas(self.name, self.swarm.have)))
        elif message.kind in ("grant", "cut", "query"):
            if message.claim != self.succession.claim:
                return
            match body:
                case lt.Grant(_, slot, lease_id, first, end):
                    self._to_swarm(sw.LeaseGranted(lease_id, slot, first, end))
                case lt.Cut(_, lease_id, end):
                    self._to_swarm(sw.LeaseTrimmed(lease_id, end))
                case _:
                    self.join_coordinator()
        elif message.kind == "table" and message.claim == self.succession.claim:
            self._to_table(body)  # type: ignore[arg-type]

    def heard(self, claim: Claim) -> None:
        """Another node's claim to coordinate."""
        assert self.succession is not None  # noqa: S101 - alive
        if self.succession.heard(claim):
            self.table = None
            if self.succession.coordinating:
                self._claim_pull(self.succession.claim)
            else:
                self.join_coordinator()

    def _coordinate(self, claim: Claim) -> None:
        rng = random.Random(f"{self.seed}/{claim.epoch}")  # noqa: S311 - a simulation
        expected = {*self.cluster.linked(self.name), *self.cluster.about_to_start(), self.name}
        self.table = LeaseTable(
            self.manifest,
            rng=rng,
            epoch=claim.epoch,
            expected=expected,
            **self.cluster.table_options,
        )
        self._table_alarm.clear()

    def neighbours(self) -> tuple[str, ...]:
        """The nodes with which this one exchanges have maps."""
        linked = self.cluster.linked(self.name)
        if linked is not self._linked:
            self._linked, self._neighbours = linked, self.neighbourhood.among(linked)
            self.feed(sw.SharesDealt(self.neighbourhood.places))
        return self._neighbours

    def _meet(self) -> None:
        """Tells neighbours that were not met yet what this node holds."""
        self._meets = False
        for peer in self.neighbours() if self.swarm is not None else ():
            if peer not in self._met:
                self._met.add(peer)
                self.feed(sw.PeerJoined(peer))
                if self.swarm is not None and self.swarm.have:
                    self.send(peer, Message("have", sw.PeerHas(self.name, self.swarm.have)))

    def take_over(self) -> None:
        """The coordinator may be gone: claims the pull where this node is next."""
        if not self.alive or self.frozen or self.succession is None:
            return
        claim = self.succession.take_over()
        if claim is not None:
            self._claim_pull(claim)

    def _claim_pull(self, claim: Claim) -> None:
        self._coordinate(claim)
        for peer in self.cluster.linked(self.name):
            self.send(peer, Message("claim", None, claim))
        self.join_coordinator()

    def join_coordinator(self) -> None:
        """Tells the coordinator what this node holds, wants and works on."""
        assert self.swarm is not None and self.succession is not None  # noqa: S101 - alive
        claim = self.succession.claim
        if claim.node != self.name and not self.cluster.is_linked(self.name, claim.node):
            return
        joined = lt.NodeJoined(
            self.name,
            self.swarm.have,
            self.checking,
            self.swarm.want,
            self.swarm.held_leases(),
            self.swarm.hub_bytes_per_s,
        )
        self.send(claim.node, Message("table", joined, claim))
        self._to_swarm(sw.CoordinatorReady())

    def peer_up(self, peer: str) -> None:
        """A link to ``peer`` stands."""
        if self.alive and self.swarm is not None and self.succession is not None:
            self.succession.node_up(peer)
            self._met.discard(peer)
            if not self._meets:
                self._meets = True
                self.cluster.call_in(_MEET_S, self._meet)
            if self.cluster.claim_of(peer) != self.succession.claim:
                self.send(peer, Message("claim", None, self.succession.claim))
            if self.succession.claim.node == peer:
                self.join_coordinator()

    def peer_down(self, peer: str) -> None:
        """The link to ``peer`` is lost."""
        if self.alive and self.succession is not None:
            self.succession.node_down(peer)
            self.feed(sw.PeerLost(peer))
            if self.table is not None:
                self.feed(lt.NodeLost(peer))
            self.take_over()

    # --------------------------------------------------------------- actions

    def _do(self, action: sw.SwarmAction) -> None:
        assert self.succession is not None  # noqa: S101 - alive
        claim = self.succession.claim
        match action:
            case sw.FetchFromPeer():
                self.wire.from_peer(action)
            case sw.FetchFromHub():
                self.wire.from_hub(action)
            case sw.TrimFetch(fetch_id, end):
                self.wire.trim(fetch_id, end)
            case sw.CancelFetch(fetch_id):
                self.wire.cancel(fetch_id)
            case sw.AskLease(slot, rate):
                self.send(claim.node, Message("table", lt.LeaseAsked(self.name, slot, rate), claim))
            case sw.ReportLease(lease_id, position, rate, end):
                event = lt.LeaseProgressed(self.name, lease_id, position, rate, end)
                self.send(claim.node, Message("table", event, claim))
            case sw.EndLease(lease_id, position, result, retry_after_s):
                ended = lt.LeaseEnded(self.name, lease_id, position, result, retry_after_s)
                self.send(claim.node, Message("table", ended, claim))
            case sw.Announce(pieces):
                assert self.voice is not None  # noqa: S101 - alive
                self.voice.gained(pieces)
            case sw.Complete():
                self.complete_at = self.cluster.now
            case sw.Fault(text):
                self.count.faults.append(f"{self.cluster.now:.2f} {text}")
