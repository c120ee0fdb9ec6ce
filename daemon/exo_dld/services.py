"""The services for users' clients: who is in the cluster, and the pulls. Thin: all answers come from elsewhere."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from exo_dl.errors import AccessError, UsageError
from exo_dl.rpc.v1 import cluster_pb2, cluster_pb2_grpc, pull_pb2, pull_pb2_grpc
from exo_dl.rpc.v1.swarm_pb2 import Beat
from exo_dl.store.library import Library, verify_model
from exo_dl.store.selection import PART_SUFFIX
from exo_dld.leaving import Leaving
from exo_dld.limits import Limits
from exo_dld.membership import Membership
from exo_dld.metrics import Metrics
from exo_dld.peerbook import UP, PeerInfo
from exo_dld.pulls import Pulls
from exo_dld.statuses import stream, unary

__all__ = ["ClusterServicer", "PullServicer", "WatchLimit"]

# Streams are told of changes at most this often, and of an end at once.
_PULL_EVERY_S = 0.2
_PEERS_EVERY_S = 0.5
_IDLE_S = 5.0
_MAX_WATCHES = 256


class WatchLimit:
    """How many streams may be open at once, over all services."""

    def __init__(self, most: int = _MAX_WATCHES) -> None:
        self._most = most
        self._open = 0

    def __enter__(self) -> None:
        if self._open >= self._most:
            raise UsageError(f"{self._most} watches are open already.", hint="End some of them.")
        self._open += 1

    def __exit__(self, *_: object) -> None:
        self._open -= 1


def _peer_pb(info: PeerInfo) -> cluster_pb2.Peer:
    beat = info.beat
    return cluster_pb2.Peer(
        id=info.id,
        name=info.name,
        state=cluster_pb2.PEER_STATE_UP if info.state == UP else cluster_pb2.PEER_STATE_UNREACHABLE,
        addresses=info.addresses,
        version=info.version,
        memory_total_bytes=beat.memory_total_bytes,
        memory_available_bytes=beat.memory_available_bytes,
        disk_free_bytes=beat.disk_free_bytes,
        hub_bytes_per_s=beat.hub_bytes_per_s,
        lan_bytes_per_s=beat.lan_bytes_per_s,
        activity=beat.activity if info.state == UP else "",
        last_seen_s=info.last_seen_s,
        problem=info.problem,
        pull_ids=beat.pull_ids if info.state == UP else (),
    )


class ClusterServicer(cluster_pb2_grpc.ClusterServiceServicer):
    """Who belongs to the cluster, seen from this node.

    Args:
        membership: the other nodes.
        name: this node's.
        version: this node's.
        status: what this node says of itself in each beat.
        watches: the limit on streams.
        limits: on bandwidth.
        metrics: what this node counts.
        leaving: the way out.
    """

    def __init__(
        self,
        membership: Membership,
        *,
        name: str,
        version: str,
        status: Callable[[], Beat],
        watches: WatchLimit,
        limits: Limits,
        metrics: Metrics,
        leaving: Leaving,
    ) -> None:
        self._membership = membership
        self._limits = limits
        self._metrics = metrics
        self._leaving = leaving
        self._name = name
        self._version = version
        self._status = status
        self._watches = watches

    def _peers(self) -> list[cluster_pb2.Peer]:
        beat = self._status()
        me = cluster_pb2.Peer(
            id=self._membership.node_id,
            name=self._name,
            state=cluster_pb2.PEER_STATE_SELF,
            addresses=self._membership.own_addresses(),
            version=self._version,
            memory_total_bytes=beat.memory_total_bytes,
            memory_available_bytes=beat.memory_available_bytes,
            disk_free_bytes=beat.disk_free_bytes,
            hub_bytes_per_s=beat.hub_bytes_per_s,
            lan_bytes_per_s=beat.lan_bytes_per_s,
            activity=beat.activity,
            pull_ids=beat.pull_ids,
        )
        return [me, *map(_peer_pb, self._membership.peers())]

    async def ListPeers(self, request: cluster_pb2.ListPeersRequest, context: Any) -> cluster_pb2.ListPeersResponse:
        """All nodes known now, this one first."""
        return cluster_pb2.ListPeersResponse(peers=self._peers())

    @stream
    async def WatchPeers(
        self, request: cluster_pb2.WatchPeersRequest, context: Any
    ) -> AsyncIterator[cluster_pb2.WatchPeersResponse]:
        """The list, again whenever something changed."""
        with self._watches:
            seen = self._membership.revision
            while True:
                yield cluster_pb2.WatchPeersResponse(peers=self._peers())
                await asyncio.sleep(_PEERS_EVERY_S)
                seen = await self._membership.wait_changed(seen, timeout_s=_IDLE_S)

    async def GetLimits(self, request: cluster_pb2.GetLimitsRequest, context: Any) -> cluster_pb2.GetLimitsResponse:
        """The limits on bandwidth."""
        return cluster_pb2.GetLimitsResponse(limits=self._limits.snapshot())

    @unary
    async def SetLimits(self, request: cluster_pb2.SetLimitsRequest, context: Any) -> cluster_pb2.SetLimitsResponse:
        """Changes them."""
        await self._limits.change(request)
        return cluster_pb2.SetLimitsResponse(limits=self._limits.snapshot())

    async def GetMetrics(self, request: cluster_pb2.GetMetricsRequest, context: Any) -> cluster_pb2.GetMetricsResponse:
        """What this node counted and measured."""
        return cluster_pb2.GetMetricsResponse(metrics=self._metrics.to_pb())

    @unary
    async def Leave(self, request: cluster_pb2.LeaveRequest, context: Any) -> cluster_pb2.LeaveResponse:
        """Hands over and stops this daemon."""
        if not context.peer().startswith("unix:"):
            raise AccessError("A daemon is told to leave on its own machine only.", hint="Run there: exo-dl leave")
        return await self._leaving.leave(request.within_s)


class PullServicer(pull_pb2_grpc.PullServiceServicer):
    """The pulls, and what this node holds."""

    def __init__(self, pulls: Pulls, library: Library, watches: WatchLimit) -> None:
        self._pulls = pulls
        self._library = library
        self._watches = watches

    @unary
    async def StartPull(self, request: pull_pb2.StartPullRequest, context: Any) -> pull_pb2.StartPullResponse:
        """Starts a pull or joins it."""
        pull, joined = await self._pulls.start(request)
        return pull_pb2.StartPullResponse(pull=pull, joined=joined)

    @unary
    async def PlanPull(self, request: pull_pb2.PlanPullRequest, context: Any) -> pull_pb2.PlanPullResponse:
        """Says what a pull would give to which node."""
        return await self._pulls.plan(request.pull)

    @stream
    async def WatchPull(
        self, request: pull_pb2.WatchPullRequest, context: Any
    ) -> AsyncIterator[pull_pb2.WatchPullResponse]:
        """A pull as it changes, until it has ended."""
        with self._watches:
            pull_id = self._pulls.get(request.pull_id).pull_id
            while True:
                seen = self._pulls.version
                pull = self._pulls.get(pull_id)
                yield pull_pb2.WatchPullResponse(pull=pull)
                if pull.state != pull_pb2.PULL_STATE_RUNNING:
                    return
                await self._changed(pull_id, seen)

    async def _changed(self, pull_id: str, seen: int) -> None:
        """Returns after a change, but not too soon after the last one unless the pull has ended."""
        soonest = asyncio.get_running_loop().time() + _PULL_EVERY_S
        await self._pulls.wait_changed(seen, timeout_s=1.0)
        while (session := self._pulls.session(pull_id)) is not None and session.running:
            left = soonest - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await self._pulls.wait_changed(self._pulls.version, timeout_s=left)

    async def ListPulls(self, request: pull_pb2.ListPullsRequest, context: Any) -> pull_pb2.ListPullsResponse:
        """All pulls that this node knows of."""
        return pull_pb2.ListPullsResponse(pulls=self._pulls.list())

    @unary
    async def CancelPull(self, request: pull_pb2.CancelPullRequest, context: Any) -> pull_pb2.CancelPullResponse:
        """Ends a pull everywhere."""
        return pull_pb2.CancelPullResponse(pull=self._pulls.cancel(request.pull_id))

    @unary
    async def ListModels(self, request: pull_pb2.ListModelsRequest, context: Any) -> pull_pb2.ListModelsResponse:
        """The models that this node holds."""
        records = await asyncio.to_thread(self._library.models)
        return pull_pb2.ListModelsResponse(
            models=[
                pull_pb2.Model(
                    repo=r.repo,
                    commit=r.commit,
                    revisions=r.revisions,
                    size_bytes=r.size_bytes,
                    files=len(r.files),
                    path=str(r.path),
                    layout=r.layout,
                    complete=not r.layout.endswith(PART_SUFFIX),
                )
                for r in records
            ]
        )

    @stream
    async def VerifyModel(
        self, request: pull_pb2.VerifyModelRequest, context: Any
    ) -> AsyncIterator[pull_pb2.VerifyModelResponse]:
        """Reads every file of a model again."""
        repo, _, revision = request.repo.partition("@")
        records = await asyncio.to_thread(self._library.find_models, repo, request.revision or revision)
        stop = threading.Event()
        with self._watches:
            try:
                for record in records:
                    checks = verify_model(self._library, record, stop)
                    done = 0
                    while (check := await asyncio.to_thread(next, checks, None)) is not None:
                        done += 1
                        yield pull_pb2.VerifyModelResponse(
                            path=check.path,
                            size_bytes=check.size,
                            ok=check.ok,
                            problem=check.problem,
                            files_total=len(record.files),
                            files_done=done,
                        )
            finally:
                stop.set()
