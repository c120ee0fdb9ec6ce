"""Tickets: the MAC that allows one request for pieces.

Pieces travel over plain HTTP on the LAN. A request carries ``Authorization: exo-dl <ticket>``; the ticket names the
node that asks, is bound to method, path and serving node, expires, and is good once. The key is derived from the
cluster secret, so only members can make one. Integrity of the bytes does not rest on it: piece digests are for that.

Clocks of home machines differ. A server answers a ticket outside of its time with its own time, and `TicketSigner`
corrects for that: what is gained by a lie there is a ticket that works at another time, for bytes that the liar saw.
"""

from __future__ import annotations

import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from exo_dl.errors import AccessError

__all__ = ["SCHEME", "TIME_HEADER", "TicketKey", "TicketSigner", "authorizer"]

SCHEME = "exo-dl"
TIME_HEADER = "exo-dl-time"
_FORM = re.compile(r"1\.([0-9A-Za-z_-]{1,64})\.([0-9]{1,12})\.([0-9a-f]{24})\.([0-9a-f]{64})")
_MAX_TTL_S = 300.0
_MAX_REMEMBERED = 65_536


class TicketKey:
    """Signs and checks tickets. Safe to use from several threads.

    Args:
        secret_key: 32 bytes that all nodes of the cluster share.
        max_remembered: how many tickets are remembered against replay. When more are alive at once the oldest are
            forgotten, which allows a replay of those for the rest of their time rather than refusing members.
    """

    def __init__(self, secret_key: bytes, *, max_remembered: int = _MAX_REMEMBERED) -> None:
        if len(secret_key) < 16:
            raise ValueError(f"A ticket key of {len(secret_key)} bytes is too short.")
        self._key = secret_key
        self._former: tuple[bytes, float] | None = None
        self._max_remembered = max_remembered
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def adopt(self, secret_key: bytes, *, now: float, grace_s: float = 30.0) -> None:
        """Signs with another key from now on; what the former one signed is accepted for ``grace_s`` more."""
        with self._lock:
            if secret_key != self._key:
                self._former, self._key = (self._key, now + grace_s), secret_key

    def sign(self, method: str, path: str, node_id: str, *, now: float, ttl_s: float = 60.0, audience: str = "") -> str:
        """The value of an ``Authorization`` header for one request.

        Args:
            method: "GET".
            path: the request target, byte for byte.
            node_id: the node that asks; letters, digits, "-" and "_", at most 64.
            now: Unix time in seconds, by the server's clock as well as it is known.
            ttl_s: how long it is good, at most 300.
            audience: the node that shall serve it; empty: any.
        """
        until = int(now + min(ttl_s, _MAX_TTL_S))
        nonce = secrets.token_hex(12)
        mac = self._mac(self._key, method, path, node_id, until, nonce, audience)
        return f"{SCHEME} 1.{node_id}.{until}.{nonce}.{mac}"

    def verify(self, header: str, method: str, path: str, *, now: float, audience: str = "") -> str:
        """The node that made the ticket.

        Raises:
            AccessError: not a ticket, not ours, for another request, outside of its time, or used before.
        """
        scheme, _, value = header.strip().partition(" ")
        form = _FORM.fullmatch(value) if scheme == SCHEME else None
        if form is None:
            raise AccessError("The request has no ticket of this cluster.")
        node_id, until, nonce, mac = form[1], int(form[2]), form[3], form[4]
        request = (method, path, node_id, until, nonce, audience)
        if not any(hmac.compare_digest(mac, self._mac(key, *request)) for key in self._good_keys(now)):
            raise AccessError("The ticket was made with another cluster secret or for another request.")
        if not now <= until <= now + _MAX_TTL_S:
            raise AccessError("The ticket is outside of its time.", hint="Do the clocks of both machines agree?")
        self._use_once(nonce, until, now)
        return node_id

    def _use_once(self, nonce: str, until: float, now: float) -> None:
        with self._lock:
            if nonce in self._seen:
                raise AccessError("The ticket was used before.")
            self._seen[nonce] = until
            # Oldest first: expiries are nearly in order, so that a look at the front is enough.
            while self._seen and (len(self._seen) > self._max_remembered or next(iter(self._seen.values())) < now):
                self._seen.popitem(last=False)

    def _good_keys(self, now: float) -> list[bytes]:
        with self._lock:
            former = self._former
            return [self._key, former[0]] if former is not None and now < former[1] else [self._key]

    @staticmethod
    def _mac(key: bytes, method: str, path: str, node_id: str, until: int, nonce: str, audience: str) -> str:
        text = "\n".join(("exo-dl ticket 1", method, path, node_id, str(until), nonce, audience))
        return hmac.digest(key, text.encode(), "sha256").hex()


class TicketSigner:
    """Makes the headers of this node's requests to one peer, and keeps the difference of their clocks.

    Args:
        key: the cluster's ticket key.
        node_id: this node.
        audience: the peer that serves; empty where its id is not known.
        clock: Unix time in seconds.
    """

    def __init__(
        self, key: TicketKey, node_id: str, *, audience: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._key = key
        self._node_id = node_id
        self._audience = audience
        self._clock = clock
        self._offset_s = 0.0

    def headers(self, method: str, path: str) -> dict[str, str]:
        """Headers with a fresh ticket; each call is good for one request."""
        now = self._clock() + self._offset_s
        return {"Authorization": self._key.sign(method, path, self._node_id, now=now, audience=self._audience)}

    def adjust(self, server_time_s: float) -> None:
        """Takes the peer's clock for the tickets to come: Unix time from its 401 answer."""
        self._offset_s = server_time_s - self._clock()


def authorizer(
    key: TicketKey, *, audience: str = "", clock: Callable[[], float] = time.time
) -> Callable[[str, str, Mapping[str, str]], str | None]:
    """What `PieceServer` asks about each request: the node id, or None when its ticket is not good.

    Args:
        key: the cluster's ticket key.
        audience: this node. Tickets that name no audience are accepted too, for peers that do not know our id yet.
        clock: Unix time in seconds.
    """

    def authorize(method: str, path: str, headers: Mapping[str, str]) -> str | None:
        value = headers.get("authorization", "")
        for name in dict.fromkeys((audience, "")):
            try:
                return key.verify(value, method, path, now=clock(), audience=name)
            except AccessError:
                continue
        return None

    return authorize
