"""One gRPC connection to a daemon: over the Unix socket of this machine, or over mutual TLS to another one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
import grpc.aio

from exo_dl import locations
from exo_dl.errors import AccessError, DaemonUnavailableError, ExoDlError, UsageError, error_for_status

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["DEFAULT_PORT", "Connection", "error_from_rpc"]

DEFAULT_PORT = 52520
"""Of daemons, for other machines."""

_Request = TypeVar("_Request", bound="Message")
_Response = TypeVar("_Response", bound="Message")

_OPTIONS = (
    # A proxy in the environment is for the hub, never for a socket on this machine.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 << 20),
)
# gRPC itself gives UNAVAILABLE (or CANCELLED) when the connection fails or the server stops, in words that begin so.
# A daemon's own messages are sentences about the hub or the pull, and never begin like that.
_LOST_CONNECTION = (
    "failed to connect",
    "socket closed",
    "recvmsg",
    "sendmsg",
    "connection reset",
    "connection refused",
    "broken pipe",
    "goaway",
    "stream removed",
    "transport closed",
    "endpoint closing",
    "rpc cancelled",
    "cancelled",
    "cancelling all calls",
)


def error_from_rpc(error: grpc.aio.AioRpcError, *, where: str, remote: bool = False) -> ExoDlError:
    """The error of `exo_dl.errors` for a failed call. Daemons put what failed in the first line of the details and what
    to do about it in those that follow.
    """
    status = error.code().name
    details = error.details() or ""
    what, _, hint = details.partition("\n")
    if remote and status == "UNAVAILABLE" and "CERTIFICATE_VERIFY_FAILED" in details:
        return AccessError(
            f"The daemon at {where} belongs to another cluster than this secret or ticket.",
            hint="`exo-dl cluster show` prints the secret of a machine's cluster. `cluster rotate` ends all tickets.",
        )
    lost = not details or details.lower().startswith(_LOST_CONNECTION)
    if status in ("UNAVAILABLE", "CANCELLED") and lost:
        hint = "Is it running there, and is the port open to this machine?" if remote else "Start one with: exo-dl up"
        return DaemonUnavailableError(f"No exo-dl daemon answers at {where}.", hint=hint)
    if status == "DEADLINE_EXCEEDED":
        return DaemonUnavailableError(
            f"The exo-dl daemon at {where} did not answer in time.", hint="Look at its log, or start it again."
        )
    if status == "UNIMPLEMENTED":
        return DaemonUnavailableError(
            f"The daemon at {where} does not know this command ({details}).",
            hint="Is it of an older version? Install the same version of exo-dl and start it again.",
        )
    translated = error_for_status(status, what or status)
    translated.hint = hint.strip()
    return translated


class Connection:
    """What all clients share. Use it as an async context manager.

    Args:
        state_dir: the daemon's state directory; None: the one that a daemon started without flags would use.
        target: a gRPC target (``unix:/path``) in place of the state directory's socket.
        connect: "host:port" of a daemon elsewhere; the port may be left out. It is reached with ``ticket`` or, without
            one, with the cluster secret that a daemon on this machine would use.
        secret: the cluster secret, for ``connect``.
        ticket: the text of a read-only ticket, for ``connect``.
        timeout_s: longest wait for an answer; streams may last any time.
        start_timeout_s: longest wait for a pull to start, in which the daemon asks the hub.

    Raises:
        UsageError: an address, secret or ticket that cannot be used.
        AccessError: the ticket has ended.
    """

    def __init__(
        self,
        state_dir: str | os.PathLike[str] | None = None,
        *,
        target: str | None = None,
        connect: str | None = None,
        secret: str | None = None,
        ticket: str | None = None,
        timeout_s: float = 30.0,
        start_timeout_s: float = 300.0,
    ) -> None:
        base = locations.default_state_dir() if state_dir is None else locations.absolute(state_dir)
        self._credentials: grpc.ChannelCredentials | None = None
        self._options: tuple[tuple[str, Any], ...] = _OPTIONS
        if connect is not None:
            self._where = target = _address(connect)
            self._credentials, name = _credentials(base, secret=secret, ticket=ticket)
            self._options = (*_OPTIONS, ("grpc.ssl_target_name_override", name))
        elif target is None:
            path = locations.socket_path(base)
            if not locations.socket_is_trusted(path):
                raise DaemonUnavailableError(
                    f"The folder {path.parent} is open to other users, so its sockets are not used.",
                    hint="Remove it and start the daemon again.",
                )
            self._where, target = str(path), locations.socket_target(path)
        else:
            self._where = target
        self._target = target
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._channel: grpc.aio.Channel | None = None

    @property
    def _remote(self) -> bool:
        return self._credentials is not None

    async def __aenter__(self) -> Self:
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=self._options)
        else:
            self._channel = grpc.aio.secure_channel(self._target, self._credentials, options=self._options)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all calls that are under way."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)

    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise RuntimeError("the client is closed: use it as `async with Client() as client:`")
        return self._channel

    async def _call(
        self, method: str, request: _Request, response: type[_Response], *, timeout_s: float | None = None
    ) -> _Response:
        call: Any = self._open().unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        try:
            answer: _Response = await call(request, timeout=self._timeout_s if timeout_s is None else timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, where=self._where, remote=self._remote) from error
        return answer

    async def _stream(self, method: str, request: _Request, response: type[_Response]) -> AsyncIterator[_Response]:
        open_stream: Any = self._open().unary_stream(
            method, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        stream = open_stream(request)
        try:
            async for answer in stream:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, where=self._where, remote=self._remote) from error
        finally:
            stream.cancel()


def _address(text: str) -> str:
    """``text`` as "host:port"; a host alone gets the default port."""
    from exo_dl.net.addresses import join_host_port, parse_host_port

    bare = text.count(":") > 1 and not text.startswith("[")
    if bare or (":" not in text) or text.endswith("]"):
        text = join_host_port(text.strip("[]"), DEFAULT_PORT)
    host, port = parse_host_port(text)
    return join_host_port(host, port)


def _credentials(state_dir: Any, *, secret: str | None, ticket: str | None) -> tuple[grpc.ChannelCredentials, str]:
    """What opens a daemon elsewhere, and the name that its certificate must have."""
    from exo_dl import secretfile
    from exo_dl.net import readers
    from exo_dl.net.identity import NODE_SAN, Identity, new_node_id

    if ticket is not None:
        reader = readers.read_ticket(ticket)
        found = grpc.ssl_channel_credentials(
            root_certificates=reader.authority, private_key=reader.key, certificate_chain=reader.certificate
        )
        return found, NODE_SAN
    if secret is None and (known := secretfile.find_secret(state_dir)) is not None:
        secret = known.text
    if secret is None:
        raise UsageError(
            "To reach a daemon elsewhere the cluster secret or a ticket is needed, and there is none here.",
            hint=f"Set {secretfile.VARIABLE} or {secretfile.FILE_VARIABLE}, or give --ticket FILE.",
        )
    return Identity(secret, new_node_id()).channel_credentials(), NODE_SAN
