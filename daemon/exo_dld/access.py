"""Who calls, and what that caller may do: asked about every call to the daemon's gRPC server.

Whoever can open the Unix socket, and every member of the cluster, may call all methods. A read-only ticket opens those
in `READABLE` and no others. Mutual TLS has let in nobody else; what it cannot know is checked here: that a certificate
is of the cluster's present secret, and a ticket neither revoked nor at its end.
"""

from __future__ import annotations

import enum
import functools
import inspect
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.x509.oid import NameOID
from google.protobuf.message import DecodeError

from exo_dl.net.identity import Identity, certified_node
from exo_dl.net.readers import certified_reader
from exo_dld.doorway import Doorway

__all__ = ["READABLE", "Caller", "CallerKind", "Gate", "caller_of"]

_log = logging.getLogger(__name__)
_CLUSTER = "/exo_dl.rpc.v1.ClusterService/"
_PULL = "/exo_dl.rpc.v1.PullService/"
_MAX_TOLD = 1024

READABLE = frozenset(
    {
        _CLUSTER + "ListPeers",
        _CLUSTER + "WatchPeers",
        _CLUSTER + "GetLimits",
        _CLUSTER + "GetMetrics",
        _PULL + "ListPulls",
        _PULL + "WatchPull",
        _PULL + "ListModels",
    }
)
"""The methods that only look."""


class CallerKind(enum.Enum):
    """Who calls."""

    LOCAL = "local"
    MEMBER = "member"
    READER = "reader"
    STRANGER = "stranger"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a member by its node id, a reader by the id of its ticket. ``ends_at_s`` is a reader's Unix time."""

    kind: CallerKind
    id: str = ""
    ends_at_s: float = 0.0


_UNREADABLE = object()


def _careful(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """What grpc.aio calls to read a request. It logs a traceback for each exception there, whoever sent the bytes."""

    def careful(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            return _UNREADABLE

    return careful


@functools.lru_cache(maxsize=512)
def _read(pem: bytes) -> tuple[tuple[str, ...], str, float]:
    """The names in a certificate, the name of who signed it, and its end."""
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    issuer = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return (
        tuple(names.get_values_for_type(x509.DNSName)),
        str(issuer[0].value) if issuer else "",
        certificate.not_valid_after_utc.timestamp(),
    )


def caller_of(context: Any, *, cluster_id: str) -> Caller:
    """Who makes the call of a servicer's ``context``.

    Args:
        context: of grpc.aio.
        cluster_id: only certificates of this cluster count.
    """
    if context.peer().startswith("unix:"):
        return Caller(CallerKind.LOCAL)
    shown = (context.auth_context() or {}).get("x509_pem_cert", ())
    try:
        names, issuer, ends_at_s = _read(bytes(shown[0]))
    except (IndexError, ValueError, x509.ExtensionNotFound):
        return Caller(CallerKind.STRANGER)
    if issuer == f"exo-dl cluster {cluster_id}":
        if (node := certified_node(names)) is not None:
            return Caller(CallerKind.MEMBER, node, ends_at_s)
        if (ticket := certified_reader(names)) is not None:
            return Caller(CallerKind.READER, ticket, ends_at_s)
    return Caller(CallerKind.STRANGER)


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # is generic for the type checker only
    """Stands before every method of a server.

    Args:
        identity: this node's.
        revoked: whether a ticket was revoked.
        doorway: is told who came through.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        revoked: Callable[[str], bool],
        doorway: Doorway,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._doorway = doorway
        self._revoked = revoked
        self._clock = clock
        self._told: OrderedDict[tuple[CallerKind, str], None] = OrderedDict()
        self.refused = 0
        """Calls so far that were not let in."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Puts the question before the method's own handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if handler.request_deserializer is not None:
            handler = handler._replace(request_deserializer=_careful(handler.request_deserializer))
        method = handler_call_details.method
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                return handler._replace(**{kind: self._guarded(method, behaviour)})
        return handler

    def _guarded(self, method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(behaviour):

            async def answers(request: Any, context: Any) -> Any:
                caller = await self._admit(method, request, context)
                async for answer in behaviour(request, context):
                    await self._check(caller, method, context)
                    yield answer

            return answers

        async def answer(request: Any, context: Any) -> Any:
            await self._admit(method, request, context)
            return await behaviour(request, context)

        return answer

    async def _admit(self, method: str, request: Any, context: Any) -> Caller:
        caller = caller_of(context, cluster_id=self._identity.cluster_id)
        if caller.kind is not CallerKind.LOCAL:
            self._doorway.arrived(context.peer())
        elif self._doorway.foreign_users():
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "Another user had the socket open.\nTry again.")
        await self._check(caller, method, context)
        if request is _UNREADABLE:
            text = "The request cannot be read: it is no message of this method."
            self._tell(caller, method, context, text)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        return caller

    async def _check(self, caller: Caller, method: str, context: Any) -> None:
        if caller.kind in (CallerKind.LOCAL, CallerKind.MEMBER):
            return
        code = grpc.StatusCode.PERMISSION_DENIED
        if caller.kind is CallerKind.STRANGER:
            code, text = grpc.StatusCode.UNAUTHENTICATED, "Only members of this cluster may ask."
        elif self._revoked(caller.id):
            text = f"The ticket {caller.id} was revoked."
        elif self._clock() > caller.ends_at_s:
            text = f"The ticket {caller.id} has ended."
        elif method not in READABLE:
            text = "A read-only ticket is for looking only.\nRun this on a machine of the cluster, or with its secret."
        else:
            return
        self.refused += 1
        self._tell(caller, method, context, text)
        await context.abort(code, text)

    def _tell(self, caller: Caller, method: str, context: Any, text: str) -> None:
        """One line in the log for each caller, however often it tries."""
        key = (caller.kind, caller.id)
        if key not in self._told:
            self._told[key] = None
            while len(self._told) > _MAX_TOLD:
                self._told.popitem(last=False)
            first = text.partition("\n")[0]
            _log.warning("%s was refused to %s (%s): %s", method, caller.kind.value, context.peer(), first)
