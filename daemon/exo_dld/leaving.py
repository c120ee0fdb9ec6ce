"""Leaving the cluster in good order: leases go back, and what only this node holds is offered until others have it."""

from __future__ import annotations

import asyncio
import logging
import math

from exo_dl.core import swarm as core
from exo_dl.errors import UsageError
from exo_dl.rpc.v1 import cluster_pb2
from exo_dld.membership import Membership
from exo_dld.pulls import Pulls
from exo_dld.session import Session

__all__ = ["Leaving"]

_log = logging.getLogger(__name__)
_LEAVE_S = 10.0
_MAX_LEAVE_S = 3600.0
_TERM_S = 2.0
_LOOK_EVERY_S = 0.1
_ASK_EVERY_S = 0.5


class Leaving:
    """The way out of the daemon, by a signal or by `exo-dl leave`.

    Args:
        membership: the other nodes.
        pulls: what this node has a part in.
    """

    def __init__(self, membership: Membership, pulls: Pulls) -> None:
        self._membership = membership
        self._pulls = pulls
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._done = False
        self.begun = False
        """Handing over has begun."""

    def signalled(self) -> None:
        """SIGTERM or SIGINT; the second one ends the daemon without handing over."""
        if self._asked.is_set():
            self._hurry.set()
        self._asked.set()

    async def wait(self) -> None:
        """Returns when the daemon shall stop, after handing over for at most 2 s where that is still to be done."""
        await self._asked.wait()
        if not self._done:
            await self._hand_over(_TERM_S)

    async def leave(self, within_s: float) -> cluster_pb2.LeaveResponse:
        """Hands over, then has the daemon stop.

        Args:
            within_s: longest time for it, at most an hour; 0: 10 s.

        Raises:
            UsageError: no such time.
        """
        if not (math.isfinite(within_s) and 0 <= within_s <= _MAX_LEAVE_S):
            raise UsageError(f"{within_s} is no time to hand over in.", hint=f"Give 0 to {_MAX_LEAVE_S:g} seconds.")
        started = asyncio.get_running_loop().time()
        try:
            left = await self._hand_over(within_s or _LEAVE_S)
            self._done = True
        finally:
            self._asked.set()
        return cluster_pb2.LeaveResponse(
            pieces_left=left, seconds=max(0.0, asyncio.get_running_loop().time() - started)
        )

    async def _hand_over(self, within_s: float) -> int:
        """Returns how many pieces others still lack that only this node holds."""
        self.begun = True
        told: set[str] = set()
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        ask_at = loop.time()
        while True:
            sessions = self._pulls.running()
            if loop.time() >= ask_at:
                # Nobody announces a piece to a node that is known to hold it: what others have got from here is asked.
                ask_at = loop.time() + _ASK_EVERY_S
                for session in sessions:
                    session.ask_maps()
            for session in sessions:
                if session.spec.pull_id not in told and session.worker is not None:
                    told.add(session.spec.pull_id)
                    # The piece in progress is read to its end, and the rest of each lease goes back as RETURNED.
                    session.worker.feed(core.SlotLimit(0))
            reading = any(s.worker is not None and s.worker.swarm.hub_connections for s in sessions)
            left = sum(self._only_here(session).bit_count() for session in sessions)
            if (not left and not reading) or loop.time() >= until or self._hurry.is_set():
                break
            await self._pulls.wait_changed(self._pulls.version, timeout_s=_LOOK_EVERY_S)
        for session in sessions:
            if session.worker is not None:
                session.worker.give_back()
        if left:
            _log.warning("this node leaves with %d pieces that others lack and nobody else holds", left)
        return left

    def _only_here(self, session: Session) -> int:
        """The pieces that some linked node of a pull still lacks, and that this node alone holds."""
        worker = session.worker
        nodes = [n for n in self._membership.up() if session.spec.wants(n)]
        if worker is None or not any(self._lacks(session, node) for node in nodes):
            return 0
        return worker.swarm.have & ~worker.swarm.held_by_peers

    @staticmethod
    def _lacks(session: Session, node: str) -> bool:
        view = session.view.nodes.get(node)
        return view is None or not view.state.ended
