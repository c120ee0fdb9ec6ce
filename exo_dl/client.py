"""The async client of the daemon on this machine. The command line uses this and nothing else.

Example::

    async with exo_dl.Client() as client:
        started = await client.start_pull("org/name")
        async for pull in client.watch_pull(started.pull.pull_id):
            print(pull.state, pull.bytes_done, pull.bytes_wanted)

Only grpc.aio is used: importing grpc brings asyncio and grpc.aio along anyway, and a first call takes the same 3-6 ms
with either of its two interfaces.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING

from exo_dl.connection import Connection, error_from_rpc
from exo_dl.core.paths import check_repo
from exo_dl.core.units import check_rate
from exo_dl.errors import DaemonUnavailableError, UsageError
from exo_dl.rpc.v1 import cluster_pb2, pull_pb2

if TYPE_CHECKING:  # 10 ms, of which a pull's start need not wait for one: imported where an answer is read
    from exo_dl.types import (
        ClusterLimits,
        Departure,
        FileCheck,
        Model,
        NodeMetrics,
        Peer,
        Placement,
        Pull,
        PullPlan,
        StartedPull,
    )

__all__ = ["Client", "error_from_rpc", "split_revision"]

_CLUSTER = "/exo_dl.rpc.v1.ClusterService/"
_PULL = "/exo_dl.rpc.v1.PullService/"
_MAX_REVISION_LENGTH = 255


def split_revision(model: str) -> tuple[str, str]:
    """``org/name`` or ``org/name@revision`` as (repo, revision); the revision is empty when none is named.

    Raises:
        UsageError: no repository id, or a revision that no hub can have.
    """
    repo, at, revision = model.partition("@")
    check_repo(repo)
    if at:
        _check_revision(revision)
    return repo, revision


class Client(Connection):
    """Talks to one daemon. Use it as an async context manager; one client may be used by many tasks at once.

    Every method raises `DaemonUnavailableError` when no daemon answers, and otherwise the class of `exo_dl.errors` that
    says what is wrong. See `Connection` for the arguments.
    """

    async def list_peers(self) -> tuple[Peer, ...]:
        """All nodes known now, the answering one first."""
        answer = await self._call(_CLUSTER + "ListPeers", cluster_pb2.ListPeersRequest(), cluster_pb2.ListPeersResponse)
        from exo_dl.types import Peer, from_message

        return tuple(from_message(Peer, peer) for peer in answer.peers)

    async def watch_peers(self) -> AsyncIterator[tuple[Peer, ...]]:
        """The whole list at once, then again when something changed, without end."""
        request = cluster_pb2.WatchPeersRequest()
        from exo_dl.types import Peer, from_message

        async for answer in self._stream(_CLUSTER + "WatchPeers", request, cluster_pb2.WatchPeersResponse):
            yield tuple(from_message(Peer, peer) for peer in answer.peers)

    async def get_limits(self) -> ClusterLimits:
        """The limits on bandwidth of all linked nodes."""
        answer = await self._call(_CLUSTER + "GetLimits", cluster_pb2.GetLimitsRequest(), cluster_pb2.GetLimitsResponse)
        from exo_dl.types import ClusterLimits, from_message

        return from_message(ClusterLimits, answer.limits)

    async def set_limits(
        self,
        *,
        nodes: Sequence[str] = (),
        hub_bytes_per_s: int | None = None,
        lan_up_bytes_per_s: int | None = None,
        lan_down_bytes_per_s: int | None = None,
        cluster_hub_bytes_per_s: int | None = None,
    ) -> ClusterLimits:
        """Changes limits at once, also for pulls that run, and gives all limits after that.

        Args:
            nodes: names or ids; none: all linked nodes.
            hub_bytes_per_s: the most that each of these nodes reads from hubs; 0: no limit, None: as it is. So too:
            lan_up_bytes_per_s: pieces to other nodes.
            lan_down_bytes_per_s: pieces from other nodes.
            cluster_hub_bytes_per_s: the most that all nodes of the cluster together read from hubs.

        Raises:
            UsageError: a rate other than 0 and 50 kB/s to 1 TB/s, or nothing to change.
            NotFoundError: a node that is not linked.
            DaemonUnavailableError: one of the nodes did not answer.
        """
        rates = {
            "hub_bytes_per_s": hub_bytes_per_s,
            "lan_up_bytes_per_s": lan_up_bytes_per_s,
            "lan_down_bytes_per_s": lan_down_bytes_per_s,
            "cluster_hub_bytes_per_s": cluster_hub_bytes_per_s,
        }
        given = {name: check_rate(rate) for name, rate in rates.items() if rate is not None}
        request = cluster_pb2.SetLimitsRequest(nodes=_texts(nodes, "nodes"), **given)
        answer = await self._call(_CLUSTER + "SetLimits", request, cluster_pb2.SetLimitsResponse)
        from exo_dl.types import ClusterLimits, from_message

        return from_message(ClusterLimits, answer.limits)

    async def get_metrics(self) -> NodeMetrics:
        """What the daemon counted and measured since its start."""
        request = cluster_pb2.GetMetricsRequest()
        answer = await self._call(_CLUSTER + "GetMetrics", request, cluster_pb2.GetMetricsResponse)
        from exo_dl.types import NodeMetrics, from_message

        return from_message(NodeMetrics, answer.metrics)

    async def leave(self, *, within_s: float = 10.0) -> Departure:
        """Has the daemon hand over what only it holds, for ``within_s`` at most, and then stop."""
        request = cluster_pb2.LeaveRequest(within_s=within_s)
        timeout_s = within_s + self._timeout_s
        answer = await self._call(_CLUSTER + "Leave", request, cluster_pb2.LeaveResponse, timeout_s=timeout_s)
        from exo_dl.types import Departure, from_message

        return from_message(Departure, answer)

    async def start_pull(
        self,
        repo: str,
        *,
        revision: str = "",
        repo_type: str = "model",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        nodes: Sequence[str] = (),
        layout: str = "hf",
        share_gated: bool = False,
        placement: Placement | None = None,
    ) -> StartedPull:
        """Has the daemon resolve a model at the hub and start its pull on the target nodes, or join it where it runs.

        Args:
            repo: ``org/name``, or ``org/name@revision``.
            revision: branch, tag or commit; empty: ``main``.
            repo_type: "model", "dataset" or "space".
            include: globs of files to take; none: all.
            exclude: globs of files to leave out.
            nodes: names or ids of the target nodes; none: every node, also those that join later.
            layout: "hf" (the Hugging Face cache), "dir:" and an absolute path, "exo" (its models directory), "exo:" and
                an absolute path, or "sparse" ("hf", with parts of files in files with holes).
            placement: which node gets what; None: all target nodes everything.
            share_gated: nodes get a gated or private model too that may not read it by their own token.

        Raises:
            UsageError, NotFoundError, AccessError, HubError, StorageError: as the daemon found it.
        """
        request = _pull_request(repo, revision, repo_type, include, exclude, nodes, layout, placement)
        request.share_gated = share_gated
        answer = await self._call(
            _PULL + "StartPull", request, pull_pb2.StartPullResponse, timeout_s=self._start_timeout_s
        )
        from exo_dl.types import Pull, StartedPull, from_message

        return StartedPull(pull=from_message(Pull, answer.pull), joined=answer.joined)

    async def plan_pull(
        self,
        repo: str,
        *,
        revision: str = "",
        repo_type: str = "model",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        nodes: Sequence[str] = (),
        placement: Placement | None = None,
    ) -> PullPlan:
        """What `start_pull` would give to which node, with the same arguments and errors; nothing is moved."""
        pull = _pull_request(repo, revision, repo_type, include, exclude, nodes, "", placement)
        request = pull_pb2.PlanPullRequest(pull=pull)
        answer = await self._call(
            _PULL + "PlanPull", request, pull_pb2.PlanPullResponse, timeout_s=self._start_timeout_s
        )
        from exo_dl.types import PullPlan, from_message

        return from_message(PullPlan, answer)

    async def watch_pull(self, pull_id: str) -> AsyncIterator[Pull]:
        """The pull now, then again as it changes; the last one has ended (`PullState.ended`).

        Raises:
            NotFoundError: the daemon knows no such pull.
            DaemonUnavailableError: the daemon stopped before the pull ended.
        """
        ended = False
        request = pull_pb2.WatchPullRequest(pull_id=pull_id)
        from exo_dl.types import Pull, from_message

        async for answer in self._stream(_PULL + "WatchPull", request, pull_pb2.WatchPullResponse):
            pull = from_message(Pull, answer.pull)
            ended = pull.state.ended
            yield pull
        if not ended:
            raise DaemonUnavailableError(
                f"The exo-dl daemon at {self._where} stopped before the pull {pull_id} ended.",
                hint="Start it again with: exo-dl up",
            )

    async def list_pulls(self) -> tuple[Pull, ...]:
        """Pulls that run, or that ended while the daemon was up, newest first."""
        answer = await self._call(_PULL + "ListPulls", pull_pb2.ListPullsRequest(), pull_pb2.ListPullsResponse)
        from exo_dl.types import Pull, from_message

        return tuple(from_message(Pull, pull) for pull in answer.pulls)

    async def cancel_pull(self, pull_id: str) -> Pull:
        """Ends a pull on every node, and gives its state after that.

        Raises:
            NotFoundError: the daemon knows no such pull.
        """
        request = pull_pb2.CancelPullRequest(pull_id=pull_id)
        answer = await self._call(_PULL + "CancelPull", request, pull_pb2.CancelPullResponse)
        from exo_dl.types import Pull, from_message

        return from_message(Pull, answer.pull)

    async def list_models(self) -> tuple[Model, ...]:
        """Models that this node holds."""
        answer = await self._call(_PULL + "ListModels", pull_pb2.ListModelsRequest(), pull_pb2.ListModelsResponse)
        from exo_dl.types import Model, from_message

        return tuple(from_message(Model, model) for model in answer.models)

    async def verify_model(self, repo: str, *, revision: str = "") -> AsyncIterator[FileCheck]:
        """Has this node read every file of a model again, and tells how each compares with the hub's digest.

        Raises:
            NotFoundError: this node does not hold the model.
        """
        repo, in_repo = split_revision(repo)
        request = pull_pb2.VerifyModelRequest(repo=repo, revision=revision or in_repo)
        from exo_dl.types import FileCheck, from_message

        async for answer in self._stream(_PULL + "VerifyModel", request, pull_pb2.VerifyModelResponse):
            yield from_message(FileCheck, answer)


def _pull_request(
    repo: str,
    revision: str,
    repo_type: str,
    include: Sequence[str],
    exclude: Sequence[str],
    nodes: Sequence[str],
    layout: str,
    placement: Placement | None,
) -> pull_pb2.StartPullRequest:
    repo, in_repo = split_revision(repo)
    if revision and in_repo and revision != in_repo:
        raise UsageError(f"Two revisions are named for {repo}: {in_repo!r} and {revision!r}.")
    if revision:
        _check_revision(revision)
    request = pull_pb2.StartPullRequest(
        repo=repo,
        revision=revision or in_repo,
        repo_type=repo_type,
        include=_texts(include, "include"),
        exclude=_texts(exclude, "exclude"),
        nodes=_texts(nodes, "nodes"),
        layout=layout,
    )
    if placement is not None:
        request.placement.CopyFrom(placement.message())
    return request


def _check_revision(revision: str) -> None:
    if not revision or len(revision) > _MAX_REVISION_LENGTH or not revision.isprintable() or ".." in revision:
        raise UsageError(f"{revision[:200]!r} is no revision.", hint="Give a branch, a tag or a commit.")


def _texts(values: Iterable[str], what: str) -> list[str]:
    if isinstance(values, str):
        raise UsageError(f"{what} must be a list of texts, not the text {values!r}.")
    texts = list(values)
    for text in texts:
        if not text or not text.isprintable():
            raise UsageError(f"{text!r} in {what} cannot be used.")
    return texts
