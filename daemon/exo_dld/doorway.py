"""Who comes to the gRPC port and is not let in: counted, named once, and never many at a time; and who may use the
socket of this machine's user.

gRPC does the handshakes in native code and says nothing of those that fail. What it does is ask for a certificate at
the beginning of each connection. So the connections that begin are counted there; those that come through their
handshake are known by their first call; the rest was refused. By whom they were made is read from the sockets that this
process has open, while there is a connection that has not made a call. Messages of members pass nothing of all this.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from exo_dl.net.addresses import split_host_port
from exo_dl.net.opensockets import Endpoint, PeerUser, connections_at, end_connection, end_user, plain_host, users_at
from exo_dld.peerbook import UP, PeerInfo

__all__ = ["MAX_WAITING", "MAX_WAITING_PER_HOST", "Doorway"]

_log = logging.getLogger(__name__)

MAX_WAITING_PER_HOST = 64
"""Connections from one address that have not made a call; of more, the oldest are ended."""

MAX_WAITING = 512
"""From all addresses together: gRPC holds some 50 kB for each."""

_LOOK_S = 0.5
# A look costs 10 to 40 microseconds a descriptor. All looks together may take a tenth of the time, and a burst:
_SHARE = 1 / 10
_BURST_S = 0.1
# Members give attempts up too: dialling tries several addresses, and takes the first. They are known by their link
# soon, and such an address has so many attempts a minute that are no refusals.
_JUDGE_AFTER_S = 5.0
_FORGIVEN_PER_MINUTE = 32
_MAX_TOLD = 1024
_MAX_SEEN = 8192
_TALLY_S = 3600.0


class Doorway:
    """Lives on one event loop, but for `knocked`, which is called in threads of gRPC.

    Args:
        peers: the other nodes that are known.
        group: those who may use the Unix socket beside this user and root.
        judge_after_s: how long a connection that ended may still turn out to be a member's; only tests give another.
    """

    def __init__(
        self,
        *,
        peers: Callable[[], Iterable[PeerInfo]],
        group: int | None = None,
        judge_after_s: float = _JUDGE_AFTER_S,
    ) -> None:
        self._peers = peers
        self._group = group
        self._judge_after_s = judge_after_s
        self._port = 0
        self._path = ""
        self._lock = threading.Lock()
        self._begun = self._begun_at_look = 0
        self._seen: dict[Endpoint, None] = {}
        self._gone: dict[Endpoint, float] = {}
        self._inside: set[Endpoint] = set()
        self._accounted = 0
        self._refused = 0
        self._looked_s = 0.0
        self._looked_at = 0.0
        self._forgiven: Counter[str] = Counter()
        self._forgiven_since = 0.0
        self._told: set[str] = set()

    @property
    def refused(self) -> int:
        """Connections that ended, or had to be ended, without a call, since the start."""
        return self._refused

    def watch(self, *, port: int, path: Path) -> None:
        """From now on these are the port of members and the socket of this machine's user."""
        with self._lock:
            self._port, self._path = port, os.fspath(path)
            self._begun = 0  # gRPC has asked for a certificate once already, for nobody

    def knocked(self) -> None:
        """A connection begins its handshake."""
        with self._lock:
            self._begun += 1
            if self._port:
                self._look()

    def arrived(self, peer: str) -> None:
        """A call came over a connection (``peer``: as gRPC writes it): its handshake is through."""
        far = _endpoint(peer)
        if far is None or far in self._inside:
            return
        with self._lock:
            self._seen.pop(far, None)
            self._gone.pop(far, None)
            self._inside.add(far)
            self._accounted += 1

    def foreign_users(self) -> bool:
        """Whether somebody has the Unix socket open who may not. Such connections are ended.

        gRPC does not tell which of them a call came over, so the call that asked is not answered either.
        """
        foreign = {fd: user for fd, user in users_at(self._path).items() if user is not None and not self._may(user)}
        for descriptor, user in foreign.items():
            end_user(descriptor, self._path)
            self._tell(str(user.uid), f"the user {user.uid} of this machine is refused at {self._path}")
        return bool(foreign)

    def _may(self, user: PeerUser) -> bool:
        return user.uid in (0, os.geteuid()) or (self._group is not None and self._group in user.groups)

    async def run(self, *, pieces: Callable[[], int]) -> None:
        """Looks and judges, until it is cancelled. Tells each hour, and at the end, how many were refused.

        Args:
            pieces: how many requests the piece port refused since the start.
        """
        told, next_tally = 0, time.monotonic() + _TALLY_S
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                self.look()
                if time.monotonic() >= next_tally:
                    told, next_tally = self._tally(pieces(), told), next_tally + _TALLY_S
        finally:
            self._tally(pieces(), told)

    def _tally(self, pieces: int, told: int) -> int:
        if self._refused + pieces > told:
            _log.info("refused since the start: %d connections at the gRPC port, %d requests at the piece port",
                      self._refused, pieces)  # fmt: skip
        return self._refused + pieces

    def look(self) -> None:
        """Looks who waits, where there may be somebody, and counts who is gone."""
        with self._lock:
            if self._begun == self._begun_at_look and not self._seen and not self._gone:
                return
            self._look()
            self._judge()

    def _look(self) -> None:
        begin = time.monotonic()
        self._looked_s = max(0.0, self._looked_s - (begin - self._looked_at) * _SHARE)
        self._looked_at = begin
        if self._looked_s > _BURST_S:
            return
        try:
            there = connections_at(self._port)
        except OSError:  # no descriptor is left to read the list with
            return
        self._begun_at_look = self._begun
        self._inside.intersection_update(there)
        for far in self._seen.keys() - there.keys():
            del self._seen[far]
            self._gone[far] = begin
        for far in there.keys() - self._inside - self._seen.keys():
            if len(self._seen) + len(self._gone) < _MAX_SEEN:
                self._seen[far] = None
        self._thin_out(there)
        self._looked_s += time.monotonic() - begin

    def _thin_out(self, there: dict[Endpoint, int]) -> None:
        """No address has more than a few that wait, nor all together more than many: the other places are members'."""
        waiting, most = Counter(host for host, _ in self._seen), len(self._seen)
        for far in list(self._seen):  # the oldest first
            if waiting[far[0]] > MAX_WAITING_PER_HOST or most > MAX_WAITING:
                waiting[far[0]] -= 1
                most -= 1
                end_connection(there[far], far, self._port)

    def _judge(self) -> None:
        now = time.monotonic()
        if now - self._forgiven_since > 60:
            self._forgiven_since = now
            self._forgiven.clear()
        due = [far for far, since in self._gone.items() if now - since >= self._judge_after_s]
        members = self._members() if due else set()
        for far in due:
            del self._gone[far]
            host = far[0]
            if host in members and self._forgiven[host] < _FORGIVEN_PER_MINUTE:
                self._forgiven[host] += 1
                self._accounted += 1
            else:
                self._tell(host, f"{host} is refused at the gRPC port: it shows no certificate of this cluster")
        waiting = len(self._seen) + len(self._gone)
        self._refused = max(self._refused, self._begun_at_look - self._accounted - waiting)

    def _members(self) -> set[str]:
        """The addresses of those that are linked."""
        linked = (peer for peer in self._peers() if peer.state == UP)
        return {plain_host(split_host_port(address)[0]) for peer in linked for address in peer.addresses}

    def _tell(self, source: str, what: str) -> None:
        """Each source is named once."""
        if source not in self._told:
            if len(self._told) >= _MAX_TOLD:
                self._told.clear()
            self._told.add(source)
            _log.warning("%s (more from there is only counted)", what)


def _endpoint(peer: str) -> Endpoint | None:
    """What gRPC calls the other side, "ipv4:10.0.0.1:5000" or "ipv6:%5Bfe80::1%25eth0%5D:5000"."""
    kind, _, rest = urllib.parse.unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    try:
        host, port = split_host_port(rest)
    except ValueError:
        return None
    return plain_host(host), port
