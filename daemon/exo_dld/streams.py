"""What a link travels on: a bidirectional gRPC stream, seen from either end, as a stream of messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio

from exo_dl.errors import ProtocolError
from exo_dl.rpc.v1.swarm_pb2 import LinkMessage, LinkRequest, LinkResponse

__all__ = ["MOST_TOGETHER", "ClientStream", "ServerStream", "Stream", "StreamBrokenError"]

MOST_TOGETHER = 1024
"""Messages that may be written at once."""


class StreamBrokenError(Exception):
    """The stream ended with an error. `code` is gRPC's, where it gave one."""

    def __init__(self, text: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(text)
        self.code = code


class Stream(Protocol):
    """What a link needs of its transport."""

    async def read(self) -> LinkMessage | None:
        """The next message; None after the last one. Raises StreamBrokenError, ProtocolError."""

    async def write(self, *messages: LinkMessage) -> None:
        """Returns when the transport has taken the messages. Raises StreamBrokenError."""

    async def finish(self) -> None:
        """Ends the stream and frees what belongs to it."""


@contextlib.asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise StreamBrokenError(error.details() or error.code().name, error.code()) from None
    except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError) as error:
        raise StreamBrokenError(str(error) or "the connection is closed") from None


def _first(messages: Sequence[LinkMessage], rest: deque[LinkMessage]) -> LinkMessage:
    """The first of what came together, for the others are put into ``rest``. Nothing counts as a message too."""
    if len(messages) > MOST_TOGETHER:
        raise ProtocolError(f"It sent {len(messages)} messages at once; {MOST_TOGETHER} is the most.")
    rest.extend(messages[1:])
    return messages[0] if messages else LinkMessage()


class ClientStream:
    """The dialling side. Owns the channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        method: Any = channel.stream_stream(
            "/exo_dl.rpc.v1.SwarmService/Link",
            request_serializer=LinkRequest.SerializeToString,
            response_deserializer=LinkResponse.FromString,
        )
        self._call: Any = method()
        self._received: deque[LinkMessage] = deque()

    async def read(self) -> LinkMessage | None:
        """See `Stream`."""
        if self._received:
            return self._received.popleft()
        async with _translated():
            answer = await self._call.read()  # grpc.aio.EOF after the last one
            if isinstance(answer, LinkResponse):
                return _first(answer.messages, self._received)
            code = await self._call.code()
            if code is not grpc.StatusCode.OK:
                raise StreamBrokenError(await self._call.details() or code.name, code)
            return None

    async def write(self, *messages: LinkMessage) -> None:
        """See `Stream`."""
        async with _translated():
            await self._call.write(LinkRequest(messages=messages))

    async def finish(self) -> None:
        """See `Stream`."""
        self._call.cancel()
        await self._channel.close(None)


class ServerStream:
    """The dialled side. The stream ends when the handler that owns the context returns."""

    def __init__(self, context: grpc.aio.ServicerContext[LinkRequest, LinkResponse]) -> None:
        self._context = context
        self._received: deque[LinkMessage] = deque()

    async def read(self) -> LinkMessage | None:
        """See `Stream`."""
        if self._received:
            return self._received.popleft()
        async with _translated():
            request: Any = await self._context.read()  # grpc.aio.EOF after the last one
        if request is not grpc.aio.EOF and not isinstance(request, LinkRequest):  # type: ignore[attr-defined]
            raise ProtocolError("It sent bytes that are no message.")
        return _first(request.messages, self._received) if isinstance(request, LinkRequest) else None

    async def write(self, *messages: LinkMessage) -> None:
        """See `Stream`."""
        async with _translated():
            await self._context.write(LinkResponse(messages=messages))

    async def finish(self) -> None:
        """See `Stream`."""
