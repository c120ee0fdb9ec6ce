"""The limits on bandwidth: this node's, what it knows of the others', and the one on the whole cluster.

They change while pulls run, and outlive restarts in the state database. The settings ``hub_limit`` and ``lan_limit``
are start values: what `exo-dl limit` says later holds until the setting itself is changed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from exo_dl.core.units import check_rate
from exo_dl.errors import DaemonUnavailableError, NotFoundError, ProtocolError, UsageError
from exo_dl.net.limits import RateLimit
from exo_dl.rpc.v1 import cluster_pb2
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dl.store.library import Library
from exo_dld.membership import Membership
from exo_dld.session import Session
from exo_dld.sharing import Sharing

__all__ = ["Limits", "NodeLimits"]

_log = logging.getLogger(__name__)
_KEY = "limits"
_ANSWER_S = 3.0
_SLOWED = 0.8
_MAX_VERSION = 1 << 62
_FIELDS = ("hub_bytes_per_s", "lan_up_bytes_per_s", "lan_down_bytes_per_s")


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """The limits of one node in bytes/s; 0: none."""

    hub_bytes_per_s: int = 0
    lan_up_bytes_per_s: int = 0
    lan_down_bytes_per_s: int = 0


@dataclass(frozen=True, slots=True, order=True)
class _Cluster:
    """The limit on all nodes together. Of two the greater one holds."""

    version: int = 0
    set_by: str = ""
    hub_bytes_per_s: int = 0


class Limits:
    """The limits that this node goes by. Made early, because transfers need `hub`, `lan_up` and `lan_down`; at work
    from `join` to `close`. But for those three it lives on the event loop.

    Args:
        library: keeps them.
        hub_limit: the setting, bytes/s; 0: none.
        lan_limit: the same, for each direction.
    """

    def __init__(self, library: Library, *, hub_limit: int, lan_limit: int) -> None:
        self._library = library
        self._settings = {"hub_limit": hub_limit, "lan_limit": lan_limit}
        self._own = NodeLimits(hub_limit, lan_limit, lan_limit)
        self._cluster = _Cluster()
        self._load()
        self.hub = RateLimit(self._own.hub_bytes_per_s)
        self.lan_up = RateLimit(self._own.lan_up_bytes_per_s)
        self.lan_down = RateLimit(self._own.lan_down_bytes_per_s)
        self._others: dict[str, NodeLimits] = {}
        self._versions: dict[str, int] = {}
        self._told = asyncio.Event()
        self._membership: Membership | None = None
        self._sharing: Sharing | None = None
        self._running: Callable[[], Iterable[Session]] = tuple
        self._name = ""
        self._told_rate = self.hub.bytes_per_s

    def join(self, membership: Membership, *, name: str, running: Callable[[], Iterable[Session]]) -> None:
        """Begins to talk with the other nodes.

        Args:
            membership: the other nodes, not started yet.
            name: this node's.
            running: the pulls that have not ended.
        """
        self._membership = membership
        self._name = name
        self._running = running
        self._sharing = Sharing(membership, limiter=self.hub, changed=lambda _: self._apply())
        self._sharing.set_limit(self._cluster.hub_bytes_per_s)
        membership.on_up.append(self._node_up)
        membership.on_down.append(lambda node, _reason: self._forget(node))
        membership.on_message.append(self._on_message)

    def close(self) -> None:
        """Stops all timers."""
        if self._sharing is not None:
            self._sharing.close()

    def mark(self, beat: pb.Beat) -> pb.Beat:
        """Adds to a beat what others need to know of this node's hub traffic."""
        if self._sharing is not None:
            self._sharing.mark(beat)
        return beat

    # -- for the services ---------------------------------------------------------------------------------------------

    def snapshot(self) -> cluster_pb2.ClusterLimits:
        """The limits of this node and of all linked ones."""
        membership, sharing = self._joined()
        mine = cluster_pb2.NodeLimits(
            id=membership.node_id,
            name=self._name,
            hub_share_bytes_per_s=sharing.share,
            hub_used_bytes_per_s=sharing.used,
            **asdict(self._own),
        )
        nodes = [mine]
        for peer in membership.peers():
            if peer.id in self._others:
                other = cluster_pb2.NodeLimits(
                    id=peer.id,
                    name=peer.name,
                    hub_share_bytes_per_s=peer.beat.hub_share_bytes_per_s,
                    hub_used_bytes_per_s=peer.beat.hub_used_bytes_per_s,
                    **asdict(self._others[peer.id]),
                )
                nodes.append(other)
        return cluster_pb2.ClusterLimits(cluster_hub_bytes_per_s=self._cluster.hub_bytes_per_s, nodes=nodes)

    async def change(self, request: cluster_pb2.SetLimitsRequest) -> None:
        """Changes limits on this node, on others, or of the cluster; returns when the nodes have said that they did.

        Raises:
            UsageError: a rate that no limit can have, or nothing to change.
            NotFoundError: a node that is not linked.
            DaemonUnavailableError: a node did not answer in time.
        """
        membership, _ = self._joined()
        change = _given(request, _FIELDS)
        cluster = _given(request, ("cluster_hub_bytes_per_s",))
        for rate in (*change.values(), *cluster.values()):
            check_rate(rate)
        if not change and not cluster:
            raise UsageError("No limit was given.", hint="Give one as in: exo-dl limit --hub 100Mbit")
        nodes = self._resolve(request.nodes) if change else []
        for rate in cluster.values():
            self._take_cluster(_Cluster(self._cluster.version + 1, membership.node_id, rate))
            self._tell(membership.up())
        if membership.node_id in nodes:
            self._change_own(change)
        others = [node for node in nodes if node != membership.node_id]
        for node in others:
            membership.send(node, pb.LinkMessage(limits_asked=pb.LimitsAsked(**change)))
        await self._wait_told(set(others), change, set(membership.up()) if cluster else set())

    # -- inside -------------------------------------------------------------------------------------------------------

    def _joined(self) -> tuple[Membership, Sharing]:
        if self._membership is None or self._sharing is None:
            raise RuntimeError("Limits.join was not called.")
        return self._membership, self._sharing

    def _resolve(self, names: Iterable[str]) -> list[str]:
        """Node ids for what a person called them; none: all linked nodes."""
        membership, _ = self._joined()
        linked = set(membership.up())
        if not (wanted := list(names)):
            return [membership.node_id, *sorted(linked)]
        known = {self._name: membership.node_id, membership.node_id: membership.node_id}
        for peer in membership.peers():
            if peer.id in linked:
                known.setdefault(peer.name, peer.id)
                known[peer.id] = peer.id
        unknown = [name for name in wanted if name not in known]
        if unknown:
            people = ", ".join(sorted(name for name, node in known.items() if name != node))
            raise NotFoundError(f"No node is called {', '.join(map(repr, unknown))}.", hint=f"There are: {people}.")
        return list(dict.fromkeys(known[name] for name in wanted))

    async def _wait_told(self, changed: set[str], change: Mapping[str, int], informed: set[str]) -> None:
        """Until the nodes ``changed`` said that they have ``change``, and ``informed`` that they know the cluster's."""
        membership, _ = self._joined()
        version = self._cluster.version

        def missing() -> set[str]:
            has = {node for node, own in self._others.items() if change.items() <= asdict(own).items()}
            knows = {node for node, known in self._versions.items() if known >= version}
            return (changed - has | informed - knows) & set(membership.up())

        try:
            async with asyncio.timeout(_ANSWER_S):
                while missing():
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            peers = [membership.peer(node) for node in missing()]
            names = ", ".join(sorted(peer.name for peer in peers if peer is not None))
            raise DaemonUnavailableError(
                f"No word within {_ANSWER_S:g} s from {names}: its limits may be as they were.",
                hint="See: exo-dl peers. Its exo-dl may be older than this one.",
            ) from None

    def _change_own(self, change: Mapping[str, int]) -> None:
        self._own = replace(self._own, **change)
        self._save()
        self._apply()
        self._tell(self._joined()[0].up())
        _log.info("limits are now %s (bytes/s; 0: none)", asdict(self._own))

    def _take_cluster(self, cluster: _Cluster) -> None:
        self._cluster = cluster
        self._save()
        self._joined()[1].set_limit(cluster.hub_bytes_per_s)
        _log.info("the limit on all hub traffic of the cluster is now %d bytes/s (0: none)", cluster.hub_bytes_per_s)

    def _apply(self) -> None:
        """The limiters go by what holds now."""
        _, sharing = self._joined()
        rates = [rate for rate in (float(self._own.hub_bytes_per_s), sharing.share) if rate]
        new = min(rates, default=0.0)
        self.hub.set_rate(new)
        self.lan_up.set_rate(self._own.lan_up_bytes_per_s)
        self.lan_down.set_rate(self._own.lan_down_bytes_per_s)
        if sharing.waiting:
            return  # who is told of a rate that holds for a moment takes away leases that are read in time
        old, self._told_rate = self._told_rate, new
        if new and (not old or new < _SLOWED * old):
            workers = [s.worker for s in self._running() if s.worker is not None]
            for worker in workers:
                worker.slowed(new / len(workers))

    def _tell(self, nodes: Iterable[str]) -> None:
        cluster = pb.ClusterLimit(**asdict(self._cluster))
        message = pb.LinkMessage(limits_told=pb.LimitsTold(own=pb.Limits(**asdict(self._own)), cluster=cluster))
        for node in nodes:
            self._joined()[0].send(node, message)

    def _node_up(self, node: str) -> None:
        self._tell([node])

    def _forget(self, node: str) -> None:
        self._others.pop(node, None)
        self._versions.pop(node, None)
        self._told.set()

    def _on_message(self, node: str, message: pb.LinkMessage) -> None:
        match message.WhichOneof("body"):
            case "limits_told":
                self._on_told(node, message.limits_told)
            case "limits_asked":
                change = _given(message.limits_asked, _FIELDS)
                _check(change.values())
                self._change_own(change)
            case "hub_share":
                self._joined()[1].on_share(node, message.hub_share)

    def _on_told(self, node: str, told: pb.LimitsTold) -> None:
        own = NodeLimits(*(getattr(told.own, key) for key in _FIELDS))
        cluster = _Cluster(told.cluster.version, told.cluster.set_by, told.cluster.hub_bytes_per_s)
        _check((*asdict(own).values(), cluster.hub_bytes_per_s))
        if cluster.version > _MAX_VERSION or len(cluster.set_by) > 64:
            raise ProtocolError("The limit of the cluster has no sensible version.")
        self._others[node] = own
        self._versions[node] = cluster.version
        self._told.set()
        if cluster > self._cluster:
            self._take_cluster(cluster)
            self._tell([node])

    def _save(self) -> None:
        kept = {"own": asdict(self._own), "settings": self._settings, "cluster": asdict(self._cluster)}
        self._library.put(_KEY, json.dumps(kept))

    def _load(self) -> None:
        """What was kept, but for a setting that was changed since."""
        text = self._library.get(_KEY)
        if not text:
            return
        try:
            kept = json.loads(text)
            own, cluster = NodeLimits(**kept["own"]), _Cluster(**kept["cluster"])
            for rate in (*asdict(own).values(), cluster.hub_bytes_per_s):
                check_rate(int(rate))
            old = dict(kept["settings"])
        except (ValueError, TypeError, KeyError, UsageError):
            _log.warning("the limits in the state database cannot be read: those of the settings hold")
            return
        if old.get("hub_limit") != self._settings["hub_limit"]:
            own = replace(own, hub_bytes_per_s=self._own.hub_bytes_per_s)
        if old.get("lan_limit") != self._settings["lan_limit"]:
            lan = self._settings["lan_limit"]
            own = replace(own, lan_up_bytes_per_s=lan, lan_down_bytes_per_s=lan)
        self._own, self._cluster = own, cluster


def _given(message: Any, fields: Iterable[str]) -> dict[str, int]:
    """The optional fields that are set."""
    return {name: int(getattr(message, name)) for name in fields if message.HasField(name)}


def _check(rates: Iterable[int]) -> None:
    """Rates from another node.

    Raises:
        ProtocolError: one that no limit can have.
    """
    try:
        for rate in rates:
            check_rate(rate)
    except UsageError as error:
        raise ProtocolError(error.what) from error
