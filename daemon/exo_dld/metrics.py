"""What this node counts and measures of itself: taken together when somebody asks."""

from __future__ import annotations

import itertools
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sized

import psutil

from exo_dl import __version__
from exo_dl.core.swarm import Swarm
from exo_dl.net.fetch import FetchPool
from exo_dl.net.piece_server import PieceServer
from exo_dl.rpc.v1.cluster_pb2 import NodeMetrics
from exo_dld.dropped import Reason
from exo_dld.looplag import LagMeter
from exo_dld.membership import Membership
from exo_dld.nodestate import State
from exo_dld.session import Session
from exo_dld.worker import Worker

__all__ = ["Metrics"]


class Metrics:
    """Measures the event loop from now on, and asks all other parts when it is asked.

    Args:
        name: this node's.
        membership: the other nodes.
        pool: what receives.
        piece_server: what sends.
        running: the pulls that have not ended.
        calls_refused: gRPC calls that were not let in.
        connections_refused: connections to the gRPC port that were not let in.
    """

    def __init__(
        self,
        *,
        name: str,
        membership: Membership,
        pool: FetchPool,
        piece_server: PieceServer,
        running: Callable[[], Sized],
        calls_refused: Callable[[], int],
        connections_refused: Callable[[], int],
    ) -> None:
        self._name = name
        self._membership = membership
        self._pool = pool
        self._piece_server = piece_server
        self._running = running
        self._calls_refused = calls_refused
        self._connections_refused = connections_refused
        self._began_s = time.monotonic()
        self._process = psutil.Process()
        self._numbers = itertools.count()
        self._swarms: dict[int, Swarm] = {}
        self._past_hub = self._past_peers = 0
        self._ended: Counter[State] = Counter()
        self._lag = LagMeter()
        self.close = self._lag.close

    def watch(self, worker: Worker) -> Worker:
        """Counts what this worker takes in, also when it is no more. Returns it."""
        number = next(self._numbers)
        self._swarms[number] = worker.swarm
        weakref.finalize(worker, self._fold, number).atexit = False
        return worker

    def _fold(self, number: int) -> None:
        swarm = self._swarms.pop(number)
        self._past_hub += swarm.bytes_from_hub
        self._past_peers += swarm.bytes_from_peers

    def ended(self, session: Session) -> None:
        """A pull has ended."""
        self._ended[session.view.state] += 1

    def to_pb(self) -> NodeMetrics:
        """All of it, as it is now. Takes less than a millisecond."""
        served = self._piece_server.stats()
        received = self._pool.received()
        swarms = list(self._swarms.values())
        with self._process.oneshot():
            times = self._process.cpu_times()
            return NodeMetrics(
                id=self._membership.node_id,
                name=self._name,
                version=__version__,
                uptime_s=time.monotonic() - self._began_s,
                loop_lag=self._lag.to_pb(),
                bytes_from_hub=self._past_hub + sum(swarm.bytes_from_hub for swarm in swarms),
                bytes_from_peers=self._past_peers + sum(swarm.bytes_from_peers for swarm in swarms),
                received_from_hub_bytes=received.hub_bytes,
                received_from_peers_bytes=received.peer_bytes,
                bytes_served=served.bytes_sent,
                piece_requests=served.requests,
                piece_requests_busy=served.busy,
                piece_requests_refused=served.refused,
                calls_refused=self._calls_refused(),
                connections_refused=self._connections_refused(),
                piece_connections=served.connections,
                uploads=served.uploads,
                peers_up=len(self._membership.up()),
                pulls_running=len(self._running()),
                pulls_done=self._ended[State.DONE],
                pulls_failed=self._ended[State.FAILED],
                pulls_cancelled=self._ended[State.CANCELLED],
                cpu_s=times.user + times.system,
                rss_bytes=self._process.memory_info().rss,
                threads=self._process.num_threads(),
                open_files=self._process.num_fds(),
                **{f"dropped_{reason.value}": self._membership.dropped[reason] for reason in Reason},
            )
