"""How two nodes come to one link: dialling, being dialled, and which of two links stands.

Whoever knows a peer without a link dials it, so two nodes often dial each other at once. The node with the smaller id
then waits for its own dial before it answers the other's, and refuses the other's where its own came through; the other
node accepts and gives its own up. So both sides agree on which link stands before anything is sent on it. A peer that
dials later, although the link that this node dialled seems to stand, has lost it: then its new one counts.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Coroutine
from functools import partial
from typing import Any, Protocol

import grpc
import grpc.aio

from exo_dl.errors import ProtocolError
from exo_dl.net.identity import Identity, certified_node
from exo_dl.rpc.v1.swarm_pb2 import (
    Hello,
    IdentifyRequest,
    IdentifyResponse,
    LinkMessage,
    LinkRequest,
    LinkResponse,
)
from exo_dld.dial import Connected, DialError, connect_any
from exo_dld.dropped import Dropped, Reason
from exo_dld.link import Link, OtherProtocolError, Timing, check_hello
from exo_dld.peerbook import PeerRecord
from exo_dld.streams import ClientStream, ServerStream, Stream, StreamBrokenError

__all__ = ["Greeter", "Home"]

_MAX_INCOMING = 4
_MAX_DIALS = 32


class Home(Protocol):
    """What greeting needs of the membership."""

    dropped: Dropped

    @property
    def running(self) -> bool:
        """Whether links may come to be."""

    def hello(self) -> Hello:
        """What this node says of itself now."""

    def is_own(self, host: str, port: int) -> bool:
        """Whether this node itself listens there."""

    def need(self, node_id: str, *, proven: bool) -> PeerRecord | None:
        """The record of a peer."""

    def trouble(self, record: PeerRecord, problem: str) -> None:
        """A peer could not be linked, and why."""

    def establish(self, record: PeerRecord, link: Link) -> None:
        """The handshake is through: this is the peer's link now."""

    async def carry(self, record: PeerRecord, link: Link) -> None:
        """Runs a link to its end."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs something in the background, as long as the membership runs."""


class _RefusedError(Exception):
    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def _certified_id(context: Any) -> str | None:
    """The node id in the caller's certificate; None where it is no node's."""
    names = (context.auth_context() or {}).get("x509_subject_alternative_name", ())
    return certified_node([bytes(name).decode("ascii", "replace") for name in names])


def _caller_host(context: Any) -> str:
    """The caller's IP address."""
    kind, _, rest = urllib.parse.unquote(context.peer()).partition(":")
    host = rest.rpartition(":")[0]
    return host.strip("[]") if kind == "ipv6" else host


class Greeter:
    """The service that peers dial, and the dialling of peers."""

    def __init__(self, home: Home, *, identity: Identity, name: str, timing: Timing) -> None:
        self._home = home
        self._identity = identity
        self._name = name
        self._timing = timing
        self._dials = asyncio.Semaphore(_MAX_DIALS)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the service to a server that has not started yet."""
        handlers: dict[str, Any] = {
            "Identify": grpc.unary_unary_rpc_method_handler(
                self._identify, IdentifyRequest.FromString, IdentifyResponse.SerializeToString
            ),
            "Link": grpc.stream_stream_rpc_method_handler(
                self._accept, LinkRequest.FromString, LinkResponse.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("exo_dl.rpc.v1.SwarmService", handlers),))

    async def dial(self, record: PeerRecord) -> None:
        """Tries once to link a peer; what goes wrong is told to `Home.trouble`."""
        try:
            async with self._dials:
                connected = await connect_any(
                    [address for address in record.candidates() if not self._home.is_own(*address)],
                    identity=self._identity,
                    expect=record.node_id,
                    timeout_s=self._timing.dial_s,
                )
        except DialError as error:
            self._home.trouble(record, str(error))
            return
        if record.linked or record.left:
            await connected.channel.close(None)
            return
        # Nothing waits between this check and the Hello being on its way: see the rule at the top.
        record.handshake = self._home.spawn(self._greet(record, connected))
        try:
            await asyncio.wait({record.handshake})
        finally:
            record.handshake = None

    async def _greet(self, record: PeerRecord, connected: Connected) -> None:
        stream = ClientStream(connected.channel)
        link = None
        try:
            async with asyncio.timeout(self._timing.handshake_s):
                await stream.write(LinkMessage(hello=self._home.hello()))
                hello = check_hello(await stream.read(), expected_id=record.node_id)
            link = self._link(stream, hello, dialed=True, host=connected.host)
            self._home.establish(record, link)
            self._home.spawn(self._home.carry(record, link))
        except StreamBrokenError as error:
            if error.code is not grpc.StatusCode.ALREADY_EXISTS:  # Else its own dial came first: nothing is wrong.
                self._home.trouble(record, f"It refused the link: {error}.")
        except ProtocolError as error:
            self._no_hello(record, error)
        except TimeoutError:
            self._home.trouble(record, "It does not answer a Hello.")
        finally:
            if link is None:
                await stream.finish()

    async def _identify(self, _request: IdentifyRequest, context: Any) -> IdentifyResponse:
        if _certified_id(context) is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "only nodes of this cluster may ask")
        return IdentifyResponse(node_id=self._identity.node_id, name=self._name)

    async def _accept(self, _requests: Any, context: Any) -> None:
        try:
            record, link = await self._answer(context)
        except _RefusedError as refusal:
            await context.abort(refusal.code, str(refusal))
        else:
            await self._home.carry(record, link)

    async def _answer(self, context: Any) -> tuple[PeerRecord, Link]:
        peer_id = _certified_id(context)
        host = _caller_host(context)
        if peer_id is None:
            raise _RefusedError(grpc.StatusCode.UNAUTHENTICATED, "only nodes of this cluster may link")
        if not self._home.running:
            raise _RefusedError(grpc.StatusCode.UNAVAILABLE, "this daemon starts or stops")
        record = self._home.need(peer_id, proven=True)
        if peer_id == self._identity.node_id:
            text = "this node has the same id; was a state directory copied? Delete the node id in one of them"
            raise _RefusedError(grpc.StatusCode.PERMISSION_DENIED, text)
        if record is not None and asyncio.get_running_loop().time() < record.barred_until:
            raise _RefusedError(grpc.StatusCode.PERMISSION_DENIED, f"it is not linked for a while: {record.problem}")
        if record is None or record.incoming >= _MAX_INCOMING:
            raise _RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many links")
        record.incoming += 1
        try:
            hello = await self._first_message(record, ServerStream(context))
            if not await self._yields(record, hello):
                raise _RefusedError(grpc.StatusCode.ALREADY_EXISTS, "the link that you accepted from me stands")
        finally:
            record.incoming -= 1
        mine = LinkMessage(hello=self._home.hello())
        link = self._link(ServerStream(context), hello, dialed=False, host=host, first=mine)
        self._home.establish(record, link)
        return record, link

    async def _first_message(self, record: PeerRecord, stream: ServerStream) -> Hello:
        try:
            async with asyncio.timeout(self._timing.handshake_s):
                return check_hello(await stream.read(), expected_id=record.node_id)
        except ProtocolError as error:
            self._no_hello(record, error)
            raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None
        except TimeoutError:
            raise _RefusedError(grpc.StatusCode.DEADLINE_EXCEEDED, "no Hello came") from None
        except StreamBrokenError as error:
            raise _RefusedError(grpc.StatusCode.CANCELLED, str(error)) from None

    def _no_hello(self, record: PeerRecord, error: ProtocolError) -> None:
        other = isinstance(error, OtherProtocolError)
        self._home.dropped.add(record.node_id, Reason.OTHER_PROTOCOL if other else Reason.MALFORMED)
        self._home.trouble(record, f"It broke the protocol: {error}")

    def _link(self, stream: Stream, hello: Hello, *, dialed: bool, host: str, first: LinkMessage | None = None) -> Link:
        return Link(
            stream,
            hello=hello,
            dialed=dialed,
            host=host,
            timing=self._timing,
            dropped=partial(self._home.dropped.add, hello.node_id),
            first=first,
        )

    async def _yields(self, record: PeerRecord, hello: Hello) -> bool:
        """Whether the link that the peer dials now becomes the one that stands."""
        mine_first = self._identity.node_id < record.node_id
        if (own := record.handshake) is not None:
            if mine_first:
                await asyncio.wait({own}, timeout=self._timing.handshake_s)
            else:
                own.cancel()
        link = record.link
        if link is None or link.hello.incarnation != hello.incarnation:
            return True
        age_s = asyncio.get_running_loop().time() - link.opened_at
        return not (mine_first and link.dialed and age_s < self._timing.race_s)
