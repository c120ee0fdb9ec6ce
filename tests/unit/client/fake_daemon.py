"""A real gRPC server on a Unix socket that answers with what a test puts into it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from exo_dl import locations
from exo_dl.rpc.v1 import access_pb2, access_pb2_grpc, cluster_pb2, cluster_pb2_grpc, pull_pb2, pull_pb2_grpc

__all__ = ["COMMIT", "PULL_ID", "FakeDaemon", "make_node", "make_pull"]

PULL_ID = "0123456789abcdef0123"
COMMIT = "c0ffee" + "0" * 34
GB = 10**9


def make_node(name: str, state: pull_pb2.NodePullState, **values: Any) -> pull_pb2.NodePull:
    """A node's part, with figures that add up."""
    return pull_pb2.NodePull(
        id=f"id-of-{name}",
        name=name,
        state=state,
        **{
            "bytes_wanted": 2 * GB,
            "bytes_done": 1 * GB,
            "bytes_from_hub": 600_000_000,
            "bytes_from_peers": 400_000_000,
            "hub_bytes_per_s": 20e6,
            "peer_bytes_per_s": 80e6,
            **values,
        },
    )


def make_pull(state: pull_pb2.PullState = pull_pb2.PULL_STATE_RUNNING, **values: Any) -> pull_pb2.Pull:
    """A pull on two nodes."""
    node_state = {
        pull_pb2.PULL_STATE_RUNNING: pull_pb2.NODE_PULL_STATE_PULLING,
        pull_pb2.PULL_STATE_DONE: pull_pb2.NODE_PULL_STATE_DONE,
        pull_pb2.PULL_STATE_FAILED: pull_pb2.NODE_PULL_STATE_FAILED,
        pull_pb2.PULL_STATE_CANCELLED: pull_pb2.NODE_PULL_STATE_CANCELLED,
    }[state]
    done = 2 * GB if state == pull_pb2.PULL_STATE_DONE else GB
    nodes = [make_node(name, node_state, bytes_done=done) for name in ("anna", "bob")]
    merged: dict[str, Any] = {
        "pull_id": PULL_ID,
        "repo": "org/model",
        "revision": "main",
        "commit": COMMIT,
        "state": state,
        "wall_s": 12.5,
        "bound_s": 10.0,
        "remaining_s": 10.0 if state == pull_pb2.PULL_STATE_RUNNING else 0.0,
        "bytes_wanted": 4 * GB,
        "bytes_done": 2 * done,
        "bytes_from_hub": 1_200_000_000,
        "bytes_from_peers": 800_000_000,
        "files": 7,
        "model_bytes": 2 * GB,
        "nodes": nodes,
        "layout": "hf",
        "started_at_s": 1_700_000_000.0,
        "path": "/cache/models--org--model" if state == pull_pb2.PULL_STATE_DONE else "",
    }
    return pull_pb2.Pull(**{**merged, **values})


class FakeDaemon(
    pull_pb2_grpc.PullServiceServicer,
    cluster_pb2_grpc.ClusterServiceServicer,
    access_pb2_grpc.AccessServiceServicer,
):
    """Answers what its attributes say; remembers requests; `failure` makes every call fail."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.requests: list[Any] = []
        self.pulls: list[pull_pb2.Pull] = [make_pull()]
        self.updates: list[pull_pb2.Pull] = [make_pull(), make_pull(pull_pb2.PULL_STATE_DONE)]
        self.peers: list[cluster_pb2.Peer] = []
        self.models: list[pull_pb2.Model] = []
        self.checks: list[pull_pb2.VerifyModelResponse] = []
        self.limits = cluster_pb2.ClusterLimits()
        self.metrics = cluster_pb2.NodeMetrics()
        self.joined = False
        self.failure: tuple[grpc.StatusCode, str] | None = None
        self.hold: asyncio.Event | None = None
        """When set, WatchPull waits for it after the first update."""
        self.watching = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> FakeDaemon:
        path = locations.socket_path(self.state_dir)
        locations.prepare_socket_dir(path)
        self._server = grpc.aio.server()
        pull_pb2_grpc.add_PullServiceServicer_to_server(self, self._server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(self, self._server)
        access_pb2_grpc.add_AccessServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(locations.socket_target(path))
        await self._server.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stops at once, as a daemon that is killed."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def _enter(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        if self.failure is not None:
            await context.abort(*self.failure)

    async def StartPull(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return pull_pb2.StartPullResponse(pull=self.updates[0], joined=self.joined)

    async def WatchPull(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._enter(request, context)
        for index, update in enumerate(self.updates):
            yield pull_pb2.WatchPullResponse(pull=update)
            if index == 0 and self.hold is not None:
                self.watching.set()
                await self.hold.wait()

    async def ListPulls(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return pull_pb2.ListPullsResponse(pulls=self.pulls)

    async def CancelPull(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return pull_pb2.CancelPullResponse(pull=make_pull(pull_pb2.PULL_STATE_CANCELLED))

    async def ListModels(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return pull_pb2.ListModelsResponse(models=self.models)

    async def VerifyModel(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._enter(request, context)
        for check in self.checks:
            yield check

    async def ListPeers(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return cluster_pb2.ListPeersResponse(peers=self.peers)

    async def GetLimits(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return cluster_pb2.GetLimitsResponse(limits=self.limits)

    async def SetLimits(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return cluster_pb2.SetLimitsResponse(limits=self.limits)

    async def GetMetrics(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return cluster_pb2.GetMetricsResponse(metrics=self.metrics)

    async def Leave(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        locations.socket_path(self.state_dir).unlink()  # as the daemon does when it stops
        return cluster_pb2.LeaveResponse(pieces_left=3, seconds=1.5)

    async def JoinCluster(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return access_pb2.JoinClusterResponse(changed=True)

    async def WatchPeers(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._enter(request, context)
        yield cluster_pb2.WatchPeersResponse(peers=self.peers)
        self.watching.set()
        if self.hold is not None:
            await self.hold.wait()
