"""What this node knows of each other node: from mDNS, settings, other peers and the node itself."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from exo_dl.net.addresses import join_host_port, sort_hosts, split_host_port
from exo_dl.net.discovery import Sighting
from exo_dl.rpc.v1.swarm_pb2 import Beat, PeerAddress
from exo_dld.link import MAX_ADDRESSES, Link

__all__ = ["MAX_PEERS", "UNREACHABLE", "UP", "PeerBook", "PeerInfo", "PeerRecord"]

UP = "up"
UNREACHABLE = "unreachable"
MAX_PEERS = 1024


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """One other node, as this node sees it now.

    `id` is empty for a static peer that has not answered yet; `name` is then what was configured ("host:port").
    `state` is `UP` or `UNREACHABLE`. `addresses` are "host:port" of its gRPC port, the one in use first.
    `piece_address` is where to fetch pieces from (the fastest address known), None while not linked.
    `last_seen_s` are seconds since anything was heard of it; infinite when nothing ever was.
    `problem` says why it is unreachable, for a person. `incarnation` changes when its daemon restarts. `left`: it said
    goodbye. `barred`: it broke the protocol and is not linked for a while.
    """

    id: str
    name: str
    state: str
    addresses: tuple[str, ...]
    version: str
    beat: Beat
    last_seen_s: float
    problem: str
    piece_address: tuple[str, int] | None
    incarnation: int
    left: bool = False
    barred: bool = False


def _readable(texts: Iterable[str]) -> tuple[tuple[str, int], ...]:
    found = []
    for text in texts:
        try:
            found.append(split_host_port(text))
        except ValueError:
            continue  # One bad address of several: the others may lead there.
        if len(found) == MAX_ADDRESSES:
            break
    return tuple(found)


class PeerRecord:
    """All about one peer. Changed by the membership only, on its loop."""

    def __init__(self, node_id: str, *, now: float) -> None:
        self.node_id = node_id
        self.name = node_id
        self.version = ""
        self.incarnation = 0
        self.piece_port = 0
        self.link: Link | None = None
        self.beat = Beat()
        self.last_heard: float | None = None
        self.down_since = now
        self.problem = ""
        # It said goodbye: not dialled and not shown until something new is heard of it.
        self.left = False
        self.sighting: Sighting | None = None
        self.static: dict[str, tuple[str, int]] = {}
        self.told: tuple[tuple[str, int], ...] = ()
        self.gossiped: tuple[tuple[str, int], ...] = ()
        self.last_used: tuple[str, int] | None = None
        # Hosts by measured speed, the fastest first. Empty: not measured.
        self.ranked: tuple[str, ...] = ()
        self.wake = asyncio.Event()
        self.up = asyncio.Event()
        self.down = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.handshake: asyncio.Task[None] | None = None
        self.ranking: asyncio.Task[None] | None = None
        self.incoming = 0
        self.offences = 0
        self.barred_until = 0.0

    @property
    def linked(self) -> bool:
        """Whether a link stands."""
        return self.link is not None

    def sighted(self, sighting: Sighting) -> None:
        """MDNS said something new of it."""
        if self.sighting is not None and self.sighting.incarnation != sighting.incarnation:
            self.gossiped = ()
        self.sighting = sighting
        if self.link is None:
            self.name = sighting.name or self.name
            self.version = sighting.version or self.version
            self.piece_port = sighting.piece_port
        self.left = False
        self.wake.set()

    def gossip(self, entry: PeerAddress) -> bool:
        """A member said where it is. Returns whether that is news."""
        addresses = _readable(entry.addresses)
        if not addresses or addresses == self.gossiped:
            return False
        self.gossiped = addresses
        if self.link is None:
            self.name = entry.name[:64] if entry.name.isprintable() and entry.name else self.name
        self.wake.set()
        return True

    def moved(self, entry: PeerAddress) -> bool:
        """It said itself, on its link, where it is now. Returns whether that is news."""
        addresses = _readable(entry.addresses)
        news = bool(addresses) and addresses != self.told
        if news:
            self.told = addresses
        return news

    def greeted(self, link: Link) -> None:
        """A link stands: its own word replaces what others said."""
        hello = link.hello
        self.link = link
        self.name = hello.name
        self.version = hello.version
        self.incarnation = hello.incarnation
        self.piece_port = hello.piece_port
        self.told = _readable(hello.addresses)
        self.gossiped = ()
        self.last_used = (link.host, hello.grpc_port)
        self.ranked = ()
        self.left = False
        self.problem = ""
        self.up.set()
        self.down.clear()
        self.wake.set()

    def gossip_entry(self) -> PeerAddress:
        """What other members are told of it, while it is linked: where it was reached, then its own word."""
        known = [*([self.last_used] if self.last_used else []), *self.told]
        # An address with a scope means something on this machine only.
        texts = [join_host_port(*address) for address in dict.fromkeys(known) if "%" not in address[0]]
        return PeerAddress(
            node_id=self.node_id, name=self.name, addresses=texts[:MAX_ADDRESSES], piece_port=self.piece_port
        )

    def candidates(self) -> list[tuple[str, int]]:
        """Addresses of its gRPC port to try, the most promising first; at most MAX_ADDRESSES."""
        found: list[tuple[str, int]] = [self.last_used] if self.last_used else []
        if self.sighting is not None:
            fresh = [(host, self.sighting.grpc_port) for host in sort_hosts(self.sighting.addresses)]
            # A new port in mDNS means a restart: what worked before is then the less likely one.
            found = fresh + found if found and found[0] not in fresh else found + fresh
        found += [*self.static.values(), *self.told, *self.gossiped]
        return list(dict.fromkeys(found))[:MAX_ADDRESSES]

    def hosts(self) -> tuple[str, ...]:
        """Its addresses without ports, the fastest known one first."""
        first = self.ranked or ((self.link.host,) if self.link is not None else ())
        return tuple(dict.fromkeys((*first, *(host for host, _ in self.candidates()))))[:MAX_ADDRESSES]

    def lost(self, link: Link, reason: str, *, now: float) -> None:
        """Its link ended."""
        self.link = None
        self.problem = reason
        self.down_since = now
        self.last_heard = link.last_heard
        self.left = link.left
        self.beat = Beat()
        self.up.clear()
        self.down.set()
        self.wake.set()

    def bar(self, now: float, *, first_s: float, most_s: float) -> float:
        """It broke the protocol. Returns for how many seconds it is not linked."""
        bar_s = min(most_s, first_s * 4.0**self.offences)
        self.offences = min(self.offences + 1, 16)
        self.barred_until = now + bar_s
        return bar_s

    def expired(self, now: float, *, forget_s: float) -> bool:
        """Whether it is to be forgotten: not linked for long, and no setting names it."""
        return self.link is None and not self.static and now - self.down_since > forget_s

    def info(self, now: float) -> PeerInfo:
        """What others may see of it."""
        heard = self.link.last_heard if self.link is not None else self.last_heard
        host = self.hosts()[0] if self.link is not None else ""
        addresses = self.candidates()
        addresses.sort(key=lambda address: address[0] != host)
        return PeerInfo(
            id=self.node_id,
            name=self.name,
            state=UP if self.link is not None else UNREACHABLE,
            addresses=tuple(join_host_port(*address) for address in addresses),
            version=self.version,
            beat=self.beat,
            last_seen_s=math.inf if heard is None else max(0.0, now - heard),
            problem="" if self.link is not None else self.problem or "Not reached yet.",
            piece_address=(host, self.piece_port) if host else None,
            incarnation=self.incarnation,
            left=self.left,
            barred=now < self.barred_until,
        )


class PeerBook:
    """The records by node id, at most MAX_PEERS. Full, it gives up the record that was out of reach longest."""

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        self._records: dict[str, PeerRecord] = {}

    def __iter__(self) -> Iterator[PeerRecord]:
        return iter(list(self._records.values()))

    def __len__(self) -> int:
        return len(self._records)

    def get(self, node_id: str) -> PeerRecord | None:
        """The record of a node, or None."""
        return self._records.get(node_id)

    def need(self, node_id: str, *, now: float, proven: bool) -> PeerRecord | None:
        """The record of a node, made where there is none. None: this node itself, or no room.

        Args:
            node_id: whose.
            now: the loop's time.
            proven: it showed a certificate, so it may take the place of one that is only rumoured.
        """
        record = self._records.get(node_id)
        if record is not None or node_id == self._own_id:
            return record
        if len(self._records) >= MAX_PEERS:
            # A rumour takes the place of one that was tried and led nowhere; who shows a certificate, that of any.
            idle = [
                each
                for each in self._records.values()
                if not each.linked and not each.static and (proven or each.problem)
            ]
            if not idle:
                return None
            self.remove(min(idle, key=lambda each: each.down_since))
        record = self._records[node_id] = PeerRecord(node_id, now=now)
        return record

    def remove(self, record: PeerRecord) -> None:
        """Forgets a peer and stops what tends it."""
        self._records.pop(record.node_id, None)
        for task in (record.task, record.handshake, record.ranking):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
