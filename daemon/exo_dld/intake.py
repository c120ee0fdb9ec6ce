"""From a request to a resolved model, its targets and its placement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from exo_dl.errors import AccessError, HubBusyError
from exo_dl.hubs.base import Hub, Resolved
from exo_dl.rpc.v1 import pull_pb2
from exo_dld.planner import Planned, Planner, check_placement
from exo_dld.requests import check_files, check_request

__all__ = ["Intake"]

_log = logging.getLogger(__name__)

# A hub that is busy is asked again while someone waits, but not for long: then its answer is passed on.
_MAX_BUSY_ANSWERS = 4
_LONGEST_WAIT_S = 20.0


class Intake:
    """Reads requests.

    Args:
        hub_for: the hub behind an endpoint; empty: this node's own.
        planner: makes placements.
        targets: node ids for names.
        name: this node's, for errors of its token.
    """

    def __init__(
        self,
        hub_for: Callable[[str], Hub],
        planner: Planner,
        targets: Callable[[Sequence[str]], frozenset[str]],
        *,
        name: str,
    ) -> None:
        self._hub_for = hub_for
        self._targets = targets
        self._name = name
        self.planner = planner

    async def read(self, request: pull_pb2.StartPullRequest) -> tuple[Resolved, frozenset[str], Planned]:
        """What is to be pulled, to whom, and which part to each.

        Raises:
            ExoDlError: bad names, an unknown model, a hub that does not answer, a placement that cannot be.
        """
        repo, revision, layout = check_request(request)
        check_placement(request.placement, layout)
        targets = self._targets(list(request.nodes))
        try:
            resolved = await self._resolve(repo, revision, request)
        except AccessError as error:
            raise AccessError(f"{self._name}: {error.what}", hint=error.hint) from error
        check_files(resolved.manifest, layout)
        planned = await self.planner.plan(request.placement, resolved, targets, layout=layout)
        if planned.wants is not None:
            targets = frozenset(planned.wants.nodes)
        return resolved, targets, planned

    async def _resolve(self, repo: str, revision: str, request: pull_pb2.StartPullRequest) -> Resolved:
        """Asks the hub, again where it asks to wait a little."""
        hub = self._hub_for("")
        repo_type, include, exclude = request.repo_type or "model", list(request.include), list(request.exclude)
        for _ in range(_MAX_BUSY_ANSWERS):
            try:
                return await asyncio.to_thread(hub.resolve, repo, revision, repo_type, include, exclude)
            except HubBusyError as error:
                if error.retry_after_s > _LONGEST_WAIT_S:
                    raise
                _log.warning("the hub asks to wait %.0f s: %s", error.retry_after_s, error)
                await asyncio.sleep(error.retry_after_s)
        return await asyncio.to_thread(hub.resolve, repo, revision, repo_type, include, exclude)
