"""Who is in the cluster now: exactly one link to each node that can be reached.

Peers become known by mDNS, by settings (static peers), by what members tell of each other, and by dialling this node.
Everything here runs on one event loop, callbacks too; none of it is thread-safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable, Mapping, Sequence

import grpc.aio

from exo_dl.errors import ProtocolError
from exo_dl.net.addresses import join_host_port, local_hosts
from exo_dl.net.discovery import Discovery, Sighting
from exo_dl.net.identity import Identity, is_node_id
from exo_dl.rpc.v1.swarm_pb2 import Beat, Hello, LinkMessage, PeerAddress, PeerGossip
from exo_dld.dropped import Dropped
from exo_dld.greeting import Greeter
from exo_dld.link import MAX_ADDRESSES, PROTOCOL, Link, Timing
from exo_dld.listeners import Listeners
from exo_dld.peerbook import PeerBook, PeerInfo, PeerRecord
from exo_dld.ranking import rank_hosts
from exo_dld.statics import StaticPeer

__all__ = ["Membership"]

_MAX_GOSSIP = 256
# Gossip about a node that just said goodbye is older than the goodbye.
_GOSSIP_AFTER_LEAVE_S = 10.0
_ADDRESS_CHECK_BEATS = 3
_GOODBYE_S = 1.0


class Membership(Listeners):
    """This node's view of the cluster, and its links.

    Order of use: construct; `add_to` the gRPC server; bind that server with `identity.server_credentials()` (made with
    `link.GRPC_OPTIONS`) and start it; `start`; ...; `stop`; then stop the server.

    Args:
        identity: this node's; carries its id.
        name: what people call this node, 1 to 64 characters.
        version: of exo-dl.
        status: gives the Beat that goes to all peers each second; called on the loop, must be quick.
        static_peers: "host:port" each.
        discovery: mDNS; started and stopped here. None: without.
        listen_hosts: what the daemon listens on; empty: everything. Decides which own addresses peers are told.
        probe_headers: (method, path) -> headers that a peer's piece server wants for a probe. None: the ways to a
            peer with several addresses are compared by the time to connect alone.
        logger: where events go.
        timing: times and limits.

    Others listen by `on_up`, `on_down`, `on_message` and `on_change` (see `Listeners`); silent once `stop` began.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        name: str,
        version: str,
        status: Callable[[], Beat],
        static_peers: Sequence[str] = (),
        discovery: Discovery | None = None,
        listen_hosts: Sequence[str] = (),
        probe_headers: Callable[[str, str], Mapping[str, str]] | None = None,
        logger: logging.Logger | None = None,
        timing: Timing | None = None,
    ) -> None:
        super().__init__(logger or logging.getLogger(__name__))
        self._identity = identity
        self._name = name
        self._version = version
        self._status = status
        self._discovery = discovery
        self._listen_hosts = tuple(listen_hosts)
        self._probe_headers = probe_headers
        self._timing = timing or Timing()
        self._incarnation = secrets.randbits(63) | 1
        self._grpc_port = self._piece_port = 0
        self._own_hosts: tuple[str, ...] = ()
        self._book = PeerBook(identity.node_id)
        self.dropped = Dropped(lambda node: peer.name if (peer := self.peer(node)) is not None else node)
        self._statics = [StaticPeer(text) for text in dict.fromkeys(static_peers)]
        self._links: set[Link] = set()
        self._greeter = Greeter(self, identity=identity, name=name, timing=self._timing)
        self._running = False
        self._idle = asyncio.Event()
        self._idle.set()

    # ---- what others use

    @property
    def node_id(self) -> str:
        """This node's id."""
        return self._identity.node_id

    @property
    def incarnation(self) -> int:
        """Random, new at each start of the daemon."""
        return self._incarnation

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the service that peers dial. Before the server starts."""
        self._greeter.add_to(server)

    async def start(self, *, grpc_port: int, piece_port: int) -> None:
        """Begins to look for peers. The gRPC server listens already, on `grpc_port`."""
        self._grpc_port, self._piece_port = grpc_port, piece_port
        self._own_hosts = local_hosts(self._listen_hosts)
        self._running, self._muted = True, False
        self.spawn(self._tick())
        for static in self._statics:
            tending = static.tend(
                identity=self._identity,
                timing=self._timing,
                need=lambda node_id: self.need(node_id, proven=True),
                changed=self._changed,
            )
            self.spawn(tending)
        if self._discovery is not None:
            await self._discovery.start(
                grpc_port=grpc_port,
                piece_port=piece_port,
                incarnation=self._incarnation,
                on_found=self._found,
                on_gone=self._gone,
            )

    async def stop(self, reason: str = "its daemon was stopped") -> None:
        """Says goodbye to all peers and ends all links; takes at most about two seconds."""
        self._running, self._muted = False, True
        for record in self._book:
            for task in (record.task, record.handshake, record.ranking):
                if task is not None:
                    task.cancel()
        for link in self._links:
            link.say_goodbye(reason)
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._idle.wait()
        except TimeoutError:
            for link in list(self._links):
                link.close("This node stops.")
        if self._discovery is not None:
            await self._discovery.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def peers(self) -> list[PeerInfo]:
        """All other nodes, by name and id; static peers that never answered come without an id."""
        now = self._now()
        found = [record.info(now) for record in self._book if not record.left or record.static]
        found += [info for static in self._statics if (info := static.info()) is not None]
        return sorted(found, key=lambda info: (info.name, info.id))

    def peer(self, node_id: str) -> PeerInfo | None:
        """One other node, or None where it is not known."""
        return None if (record := self._book.get(node_id)) is None else record.info(self._now())

    def piece_address(self, node_id: str) -> tuple[str, int] | None:
        """Where to fetch pieces from: the fastest address known; None while the peer is not linked."""
        record = self._book.get(node_id)
        if record is None or record.link is None:
            return None
        return record.hosts()[0], record.piece_port

    def up(self) -> list[str]:
        """The ids of all linked peers, sorted."""
        return sorted(record.node_id for record in self._book if record.linked)

    def own_addresses(self) -> tuple[str, ...]:
        """This node's "host:port" as peers are told, at most MAX_ADDRESSES."""
        return tuple(join_host_port(host, self._grpc_port) for host in self._own_hosts[:MAX_ADDRESSES])

    def send(self, node_id: str, message: LinkMessage) -> bool:
        """Queues a message for a peer; False where no link stands, or it does not read (the link is then dropped)."""
        return (record := self._book.get(node_id)) is not None and record.link is not None and record.link.send(message)

    def broadcast(self, message: LinkMessage) -> int:
        """Queues a message for all linked peers; returns how many took it."""
        return sum(record.link.send(message) for record in self._book if record.link is not None)

    def drop(self, node_id: str, reason: str) -> None:
        """Ends the link to a peer."""
        if (record := self._book.get(node_id)) is not None and record.link is not None:
            record.link.close(reason)

    def rerank(self, node_id: str) -> None:
        """The peer's `piece_address` failed, or is slow: measures its addresses anew, in the background."""
        record = self._book.get(node_id)
        if record is not None and record.link is not None and (record.ranking is None or record.ranking.done()):
            record.ranking = self.spawn(self._rank(record, record.link))

    # ---- sources of peers

    def _found(self, sighting: Sighting) -> None:
        if (record := self.need(sighting.node_id, proven=False)) is not None:
            record.sighted(sighting)
            self._changed()

    def _gone(self, node_id: str) -> None:
        if (record := self._book.get(node_id)) is None:
            return
        record.sighting = None
        if not record.linked and not record.static:
            self._book.remove(record)
        self._changed()

    def _gossip(self, sender: PeerRecord, gossip: PeerGossip) -> None:
        if len(gossip.peers) > _MAX_GOSSIP:
            raise ProtocolError(f"Gossip may name {_MAX_GOSSIP} peers; this names {len(gossip.peers)}.")
        for entry in gossip.peers:
            if not is_node_id(entry.node_id):
                raise ProtocolError(f"{entry.node_id[:32]!r} is not a node id.")
            if entry.node_id == sender.node_id:
                if sender.moved(entry):
                    self.rerank(sender.node_id)
                continue
            record = self.need(entry.node_id, proven=False)
            if record is None or (record.left and self._now() - record.down_since < _GOSSIP_AFTER_LEAVE_S):
                continue
            if record.gossip(entry):
                record.left = False
        self._changed()

    def need(self, node_id: str, *, proven: bool) -> PeerRecord | None:
        """The record of a peer, tended from now on. None: this node itself, or no room for rumours."""
        record = self._book.need(node_id, now=self._now(), proven=proven)
        if record is not None and record.task is None and self._running:
            record.task = self.spawn(self._tend(record))
        return record

    # ---- links, and what greeting needs (see greeting.Home)

    @property
    def running(self) -> bool:
        """Between `start` and `stop`."""
        return self._running

    def hello(self) -> Hello:
        """What this node says of itself on a new link."""
        return Hello(
            protocol=PROTOCOL,
            node_id=self.node_id,
            name=self._name,
            version=self._version,
            addresses=self.own_addresses(),
            grpc_port=self._grpc_port,
            piece_port=self._piece_port,
            incarnation=self._incarnation,
        )

    def is_own(self, host: str, port: int) -> bool:
        """Whether this node itself listens there."""
        return port == self._grpc_port and host in self._own_hosts

    def trouble(self, record: PeerRecord, problem: str) -> None:
        """A peer could not be linked; told once as long as it stays the same."""
        if record.problem != problem and not record.linked:
            record.problem = problem
            self._tell("cannot reach %s (%s): %s", record.name, record.node_id, problem)
            self._changed()

    def establish(self, record: PeerRecord, link: Link) -> None:
        """A handshake is through: this is the peer's link now, and any other ends."""
        if record.link is not None:
            restarted = record.incarnation != link.hello.incarnation
            self._lost(record, record.link, "Its daemon was restarted." if restarted else "It dialled anew.")
        record.greeted(link)
        self._links.add(link)
        self._idle.clear()
        self._log.info("%s (%s) is up at %s, exo-dl %s", record.name, record.node_id, link.host, record.version)
        link.beat(self._status())
        self._call(self.on_up, record.node_id)
        self._changed()
        others = [each for each in self._book if each.linked and each is not record]
        for start in range(0, len(others), _MAX_GOSSIP):
            entries = [each.gossip_entry() for each in others[start : start + _MAX_GOSSIP]]
            link.send(LinkMessage(peer_gossip=PeerGossip(peers=entries)))
        news = LinkMessage(peer_gossip=PeerGossip(peers=[record.gossip_entry()]))
        for each in others:
            if each.link is not None:
                each.link.send(news)
        self.rerank(record.node_id)

    async def carry(self, record: PeerRecord, link: Link) -> None:
        """Runs a link to its end."""
        reason = "The connection was closed."
        try:
            reason = await link.run(lambda message: self._deliver(record, link, message))
        finally:
            self._lost(record, link, reason)
            self._links.discard(link)
            if not self._links:
                self._idle.set()

    def _lost(self, record: PeerRecord, link: Link, reason: str) -> None:
        link.close(reason)
        if record.link is not link:
            return
        record.lost(link, reason, now=self._now())
        if link.offended:
            record.bar(self._now(), first_s=self._timing.bar_s, most_s=self._timing.bar_max_s)
        if record.ranking is not None:
            record.ranking.cancel()
        if self._running:
            self._log.info("%s (%s) is gone: %s", record.name, record.node_id, reason)
        self._call(self.on_down, record.node_id, reason)
        self._changed()

    def _deliver(self, record: PeerRecord, link: Link, message: LinkMessage) -> None:
        if record.link is not link or not self._running:
            return
        if (kind := message.WhichOneof("body")) == "beat":
            record.beat = message.beat
            self._changed()
        elif kind == "peer_gossip":
            self._gossip(record, message.peer_gossip)
        elif kind == "hello":
            raise ProtocolError("A second Hello came on one link.")
        elif kind is not None:  # None: a message of a later version.
            self._call(self.on_message, record.node_id, message)

    async def _rank(self, record: PeerRecord, link: Link) -> None:
        ranked = await rank_hosts(
            record.hosts(), hello=link.hello, identity=self._identity, probe_headers=self._probe_headers
        )
        if ranked and record.link is link and ranked != record.ranked:
            record.ranked = ranked
            self._log.debug("%s (%s) is reached fastest at %s", record.name, record.node_id, ranked[0])
            self._changed()

    async def _tick(self) -> None:
        beats = 0
        expected = self._now()
        while True:
            late = self._now() - expected
            if late > self._timing.beat_s:
                for link in self._links:
                    link.forgive(late)
            beat = self._status()
            for link in list(self._links):
                link.check(self._now())
                link.beat(beat)
            beats += 1
            if beats % _ADDRESS_CHECK_BEATS == 0:
                self._check_addresses()
            expected = self._now() + self._timing.beat_s
            await asyncio.sleep(self._timing.beat_s)

    def _check_addresses(self) -> None:
        hosts = local_hosts(self._listen_hosts)
        if hosts != self._own_hosts:
            self._own_hosts = hosts
            self._log.info("this machine's addresses are now %s", ", ".join(hosts) or "none")
            own = PeerAddress(
                node_id=self.node_id, name=self._name, addresses=self.own_addresses(), piece_port=self._piece_port
            )
            self.broadcast(LinkMessage(peer_gossip=PeerGossip(peers=[own])))
            for record in self._book:
                record.wake.set()
                self.rerank(record.node_id)

    # ---- small things

    async def _tend(self, record: PeerRecord) -> None:
        """Keeps one peer linked, until it is forgotten."""
        timing = self._timing
        delay = timing.redial_min_s
        while not record.expired(self._now(), forget_s=timing.forget_s):
            record.wake.clear()
            pause = None if record.linked else timing.forget_s
            barred_s = record.barred_until - self._now()
            if barred_s > 0:
                pause = barred_s
            elif not record.linked and not record.left and record.candidates():
                await self._greeter.dial(record)
                if not record.linked:
                    pause = delay * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing
                    delay = min(delay * 2, timing.redial_max_s)
                    # However often something new is heard of it: not more dials than this.
                    await asyncio.sleep(timing.redial_min_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await record.wake.wait()
                    delay = timing.redial_min_s
        self._book.remove(record)
        self._changed()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
