"""Reaching another node: resolving names, trying addresses side by side, checking who answers, measuring the way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from exo_dl.net.addresses import grpc_target, join_host_port, sort_hosts
from exo_dl.net.identity import NODE_SAN, Identity, is_node_id
from exo_dl.rpc.v1.swarm_pb2 import IdentifyRequest, IdentifyResponse
from exo_dld.link import GRPC_OPTIONS

__all__ = ["Connected", "DialError", "ProbeBusyError", "connect_any", "measure", "resolve"]

# The next address is tried when the one before did not answer within this time (RFC 8305, section 5).
_STAGGER_S = 0.25
_MAX_RESPONSE_HEAD_BYTES = 8192
_MAX_HOSTS_PER_NAME = 8


class DialError(Exception):
    """No address of a peer leads to it. The text is for a person."""


class ProbeBusyError(Exception):
    """The peer serves others right now; it can be measured later."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection whose other end proved which node it is. The owner closes `channel`."""

    channel: grpc.aio.Channel
    node_id: str
    host: str
    port: int


async def resolve(host: str, port: int, *, timeout_s: float) -> list[tuple[str, int]]:
    """The IP addresses of a host name (or of an address, itself).

    Raises:
        DialError: the name is unknown.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no answer"
        raise DialError(f"The name {host} cannot be resolved ({reason}).") from None
    hosts = sort_hosts(str(entry[4][0]) for entry in found)
    return [(each, port) for each in hosts[:_MAX_HOSTS_PER_NAME]]


async def connect_any(
    addresses: Sequence[tuple[str, int]], *, identity: Identity, expect: str | None, timeout_s: float
) -> Connected:
    """Connects to the first of some addresses that answers as the right node; others are closed again.

    Args:
        addresses: IP addresses and ports, the most promising first.
        identity: this node's.
        expect: the node id that must answer; None: any member.
        timeout_s: limit for each address.

    Raises:
        DialError: none of them does; the text is about the first address.
    """
    waiting: dict[asyncio.Task[Connected], int] = {}
    errors: dict[int, str] = {}
    started = 0
    try:
        while started < len(addresses) or waiting:
            if started < len(addresses):
                host, port = addresses[started]
                attempt = _connect(host, port, identity=identity, expect=expect, timeout_s=timeout_s)
                waiting[asyncio.create_task(attempt)] = started
                started += 1
            stagger = _STAGGER_S if started < len(addresses) else None
            done, _ = await asyncio.wait(waiting, timeout=stagger, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                error = task.exception()
                if error is None:
                    del waiting[task]
                    return task.result()
                if not isinstance(error, DialError):
                    raise error
                errors[waiting.pop(task)] = str(error)
    finally:
        await _drop(waiting)
    raise DialError(errors[min(errors)] if errors else "No address of it is known.")


async def _drop(tasks: Mapping[asyncio.Task[Connected], int]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Connected):
            await outcome.channel.close(None)


async def _connect(host: str, port: int, *, identity: Identity, expect: str | None, timeout_s: float) -> Connected:
    options = [*GRPC_OPTIONS, ("grpc.ssl_target_name_override", expect or NODE_SAN)]
    channel = grpc.aio.secure_channel(grpc_target(host, port), identity.channel_credentials(), options=options)
    method = channel.unary_unary(
        "/exo_dl.rpc.v1.SwarmService/Identify",
        request_serializer=IdentifyRequest.SerializeToString,
        response_deserializer=IdentifyResponse.FromString,
    )
    connected = None
    try:
        call: Any = method(IdentifyRequest(), timeout=timeout_s)
        answer: IdentifyResponse = await call
        if not is_node_id(answer.node_id) or (expect is not None and answer.node_id != expect):
            raise DialError(f"Another node answers at {join_host_port(host, port)}.")
        connected = Connected(channel, answer.node_id, host, port)
        return connected
    except grpc.aio.AioRpcError as error:
        raise DialError(_explain(error, join_host_port(host, port))) from None
    finally:
        if connected is None:
            await channel.close(None)


def _explain(error: grpc.aio.AioRpcError, address: str) -> str:
    details = error.details() or ""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return f"What answers at {address} belongs to another cluster (its secret is another one)."
    if "Hostname Verification" in details or "Peer name" in details:
        return f"Another node answers at {address}."
    if "Connection refused" in details:
        return f"Nothing listens at {address}."
    if "unreachable" in details or "No route" in details:
        return f"There is no way to {address} in the network."
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED or "timed out" in details.lower() or "Timeout" in details:
        return f"{address} does not answer."
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return f"{address} closes the connection: is it an exo-dl daemon of this cluster?"
    return f"{address} answers with an error: {details[:200] or error.code().name}."


async def measure(host: str, port: int, *, path: str, headers: Mapping[str, str] | None, timeout_s: float) -> float:
    """Seconds from opening a connection to a peer's piece port to the last byte of a probe.

    Args:
        host: an IP address.
        port: the piece port.
        path: what to GET.
        headers: of the request; None: only the time to connect is taken. So it is where they are refused (401), as by
            a peer whose clock is far from ours.
        timeout_s: limit for all of it.

    Raises:
        ProbeBusyError: the peer answered that it is busy.
        OSError: it cannot be reached there, or not in time, or did not give the probe.
    """
    begin = time.perf_counter()
    connected = begin
    writer = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
            connected = time.perf_counter()
            if headers is not None:
                lines = [f"GET {path} HTTP/1.1", f"Host: {join_host_port(host, port)}", "Connection: close"]
                lines += [f"{name}: {value}" for name, value in headers.items()]
                writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
                if not await _read_probe(reader):
                    return connected - begin
            return time.perf_counter() - begin
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _read_probe(reader: asyncio.StreamReader) -> bool:
    """Reads an answer to its end; False where our ticket was refused."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise ConnectionError("the answer to a probe is not HTTP") from None
    if len(head) > _MAX_RESPONSE_HEAD_BYTES:
        raise ConnectionError("the answer to a probe has too long a head")
    status = head.split(b"\r\n", 1)[0].split(b" ")
    if status[1:2] in ([b"429"], [b"503"]):
        raise ProbeBusyError
    if status[1:2] == [b"401"]:
        return False
    if status[1:2] != [b"200"]:
        raise ConnectionError("the probe was refused")
    # The peer closes after the body, as it was asked to; the time limit holds for all of it.
    while await reader.read(1 << 18):
        pass
    return True
