"""One thread's connections to a hub and to the storage behind it: redirects, tokens, idle connections, errors."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from urllib.parse import quote, urljoin, urlsplit

from exo_dl.errors import HubError, IntegrityError, UsageError
from exo_dl.hubs.answers import error_for_answer, linked_digest, own_digest, shown_url
from exo_dl.hubs.base import Origin, origin_of, same_origin
from exo_dl.hubs.connection import Answer, Connection
from exo_dl.hubs.dialing import Operation, Timeouts

__all__ = ["Exchange", "RedirectCache", "unreachable"]

_MAX_CACHED = 4096
_MAX_HOPS = 5
_MAX_CONNECTIONS = 3
_DRAIN_BYTES = 64 << 10
_REDIRECTS = (301, 302, 303, 307, 308)
_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
_URL_SAFE = "%/:=&?~#+!$,;'@()*[]"


class RedirectCache:
    """Where the hub's URLs redirect to (signed URLs, mostly); shared by the readers of a node. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._targets: OrderedDict[str, str] = OrderedDict()

    def get(self, url: str) -> str | None:
        """Where ``url`` redirected to last time; None when that is not known."""
        with self._lock:
            return self._targets.get(url)

    def put(self, url: str, target: str) -> None:
        """Remembers ``target``; the oldest entry goes when there are too many."""
        with self._lock:
            self._targets[url] = target
            self._targets.move_to_end(url)
            if len(self._targets) > _MAX_CACHED:
                self._targets.popitem(last=False)

    def drop(self, url: str, target: str) -> None:
        """Forgets ``target``, unless another thread has put a newer one in its place."""
        with self._lock:
            if self._targets.get(url) == target:
                del self._targets[url]


class Exchange:
    """Requests and answers of one thread, over connections that are kept.

    Args:
        headers_for: headers for a URL (`Hub.headers_for`), asked for each hop.
        redirects: where URLs redirected to; shared between threads.
        timeouts: of the phases of a request.
        ssl_context: for https; None for `default_ssl_context`.
        receive_buffer_bytes: of each socket; None leaves it to the system.
    """

    def __init__(
        self,
        headers_for: Callable[[str], Mapping[str, str]],
        *,
        redirects: RedirectCache,
        timeouts: Timeouts,
        ssl_context: ssl.SSLContext | None,
        receive_buffer_bytes: int | None,
    ) -> None:
        self._headers_for = headers_for
        self._redirects = redirects
        self._timeouts = timeouts
        self._ssl_context = ssl_context
        self._receive_buffer_bytes = receive_buffer_bytes
        self._connections: OrderedDict[Origin, Connection] = OrderedDict()
        self._current: Origin | None = None

    def connect(self, url: str, operation: Operation) -> None:
        """Opens the connection to the origin of ``url`` if there is none.

        Raises:
            HubError: it cannot be opened.
        """
        try:
            self._connection(origin_of(url), operation)
        except (OSError, http.client.HTTPException) as error:
            operation.check()
            raise unreachable(url, error) from error

    def close(self) -> None:
        """Closes all connections."""
        while self._connections:
            self._connections.popitem()[1].close()

    def drop(self, operation: Operation) -> None:
        """Closes the connection that was used last."""
        operation.detach()
        connection = self._connections.pop(self._current, None) if self._current is not None else None
        if connection is not None:
            connection.close()

    def ask(self, url: str, first: int, end: int, etag: str, operation: Operation) -> Answer:
        """Asks for a range, along redirects, and returns an answer that is 200 or 206.

        Raises:
            ExoDlError: as `exo_dl.hubs.reader.HubReader.open_range` lists them.
        """
        known = self._redirects.get(url)
        target = known or url
        asked_again = False
        hops = 0
        while True:
            answer, with_token = self._get(target, url, first, end, operation)
            self._check_digest(answer, target, url, etag, operation)
            if answer.status in (200, 206):
                if target != url:
                    self._redirects.put(url, target)
                return answer
            if not (answer.drain(_DRAIN_BYTES) and answer.keep):
                self.drop(operation)
            if answer.status in _REDIRECTS:
                hops += 1
                if hops > _MAX_HOPS:
                    raise HubError(f"The hub redirects {shown_url(url)} more than {_MAX_HOPS} times.")
                target = _redirected(target, answer.headers.get("Location"))
                continue
            if target != url and answer.status in (400, 401, 403, 404, 410) and not asked_again:
                # A signed URL has a life of its own: only what the hub says now is an answer.
                self._redirects.drop(url, target)
                target, asked_again, hops = url, True, 0
                continue
            raise error_for_answer(answer.status, answer.headers, _file_named(url), with_token=with_token)

    def _check_digest(self, answer: Answer, target: str, url: str, etag: str, operation: Operation) -> None:
        if answer.status >= 400:
            return
        from_hub = same_origin(target, url)
        said = own_digest(answer.headers) if from_hub and answer.status < 300 else ""
        said = said or (linked_digest(answer.headers) if from_hub else "")
        if said and etag and len(said) == len(etag) and said != etag:
            self.drop(operation)
            raise IntegrityError(
                f"{_file_named(url)} has the digest {said[:12]}... on the hub now and not {etag[:12]}..., as listed.",
                hint="Start the pull again.",
            )

    def _get(self, target: str, url: str, first: int, end: int, operation: Operation) -> tuple[Answer, bool]:
        origin = origin_of(target)
        at_home = same_origin(target, url)
        headers = {
            name: value
            for name, value in self._headers_for(target).items()
            if at_home or name.lower() not in _SECRET_HEADERS
        }
        with_token = any(name.lower() == "authorization" for name in headers)
        headers |= {"Range": f"bytes={first}-{end - 1}", "Accept-Encoding": "identity", "Accept": "*/*"}
        while True:
            reused = False
            try:
                connection = self._connection(origin, operation)
                reused = connection.used
                return connection.ask(target, headers), with_token
            except (OSError, http.client.HTTPException, HubError) as error:
                self.drop(operation)
                operation.check()
                if isinstance(error, HubError):
                    raise
                if not reused or isinstance(error, TimeoutError):
                    raise unreachable(target, error) from error
                # The hub closed an idle connection just as it was used again: that says nothing about the hub.

    def _connection(self, origin: Origin, operation: Operation) -> Connection:
        operation.detach()
        self._current = origin
        connection = self._connections.get(origin)
        if connection is not None:
            self._connections.move_to_end(origin)
            connection.attach(operation)
            return connection
        if len(self._connections) >= _MAX_CONNECTIONS:
            self._connections.popitem(last=False)[1].close()
        connection = Connection(
            origin,
            operation,
            timeouts=self._timeouts,
            ssl_context=self._ssl_context,
            receive_buffer_bytes=self._receive_buffer_bytes,
        )
        self._connections[origin] = connection
        return connection


def _redirected(base: str, location: str | None) -> str:
    if not location:
        raise HubError(f"The hub redirects {shown_url(base)} to nowhere.")
    # http.client gives headers as latin-1; what is not ASCII is quoted byte by byte, as browsers do.
    try:
        target = urljoin(base, quote(location.strip().encode("latin-1", "replace"), safe=_URL_SAFE))
        scheme = origin_of(target)[0]
    except (ValueError, UsageError):
        raise HubError(f"The hub redirects {shown_url(base)} to something that is no http or https URL.") from None
    if scheme == "http" and origin_of(base)[0] == "https":
        raise HubError(f"The hub redirects {shown_url(base)} from https to plain http, which is refused.")
    return target


def _file_named(url: str) -> str:
    return urlsplit(url).path.lstrip("/")[:300]


def unreachable(url: str, error: Exception) -> HubError:
    """What a failed connection to the origin of ``url`` means, for a person."""
    scheme, host, port = origin_of(url)
    at = f"{scheme}://{host}:{port}"
    if isinstance(error, socket.gaierror):
        return HubError(f"The name {host!r} is not known here.", hint="Check the network, DNS and HF_ENDPOINT.")
    if isinstance(error, ssl.SSLCertVerificationError):
        return HubError(
            f"The certificate of {at} is not trusted: {error.verify_message}.",
            hint="If a proxy or an own CA is in between, name its certificates in SSL_CERT_FILE.",
        )
    if isinstance(error, ConnectionRefusedError):
        return HubError(f"Nothing answers at {at}.", hint="Check HF_ENDPOINT, and that the hub is running.")
    if isinstance(error, TimeoutError):
        return HubError(f"{at} did not answer in time.", hint="Check the network and the proxy settings.")
    return HubError(f"The connection to {at} failed: {str(error) or type(error).__name__}.")
