"""What the port for other machines bears: handshakes that stop, floods of half-open connections, packed messages."""

from __future__ import annotations

import asyncio
import datetime
import socket
import time
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import psutil
import pytest

from exo_dl.net.identity import Identity, new_node_id
from exo_dl.rpc.v1.swarm_pb2 import Have, HaveRun, LinkMessage, LinkRequest
from exo_dld.access import Gate
from exo_dld.doorway import Doorway
from exo_dld.link import GRPC_OPTIONS
from exo_dld.servers import make_server
from tests.unit.daemon.members import SECRET, Node


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node with the server of a daemon."""
    made = Node()
    made.server = make_server(Gate(made.identity, revoked=lambda _: False, doorway=Doorway(peers=list)))
    made.membership.add_to(made.server)
    await made.start()
    yield made
    await made.stop()


def channel(node: Node, identity: Identity) -> grpc.aio.Channel:
    key, certificate = identity.certificate()
    credentials = grpc.ssl_channel_credentials(node.identity.ca_pem, key, certificate)
    # This client packs, whatever a node's own channels do.
    options = [o for o in GRPC_OPTIONS if "compression" not in o[0]] + [("grpc.ssl_target_name_override", node.id)]
    return grpc.aio.secure_channel(f"ipv4:{node.address}", credentials, options=options)


async def test_a_message_that_unpacks_to_much_is_refused_unread(node: Node) -> None:
    bomb = LinkRequest(messages=[LinkMessage(have=Have(pull_id="p", runs=[HaveRun(first=0, digests=bytes(31 << 20))]))])
    before = psutil.Process().memory_info().rss
    async with channel(node, Identity(SECRET, new_node_id())) as member:
        call = member.stream_stream("/exo_dl.rpc.v1.SwarmService/Link", LinkRequest.SerializeToString)(
            compression=grpc.Compression.Gzip
        )
        with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
            await call.write(bomb)
            await call.read()
        code = await call.code()
    # The refusal itself, or the end of the stream that comes with it, whichever this client sees first.
    assert code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL)
    assert (node.messages, node.events) == ([], [])
    # The client's own copy of it is in this process too.
    assert psutil.Process().memory_info().rss - before < 200 << 20


async def test_bytes_that_are_no_message_are_an_offence_and_no_traceback(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async with channel(node, Identity(SECRET, new_node_id())) as member:
        call = member.stream_stream("/exo_dl.rpc.v1.SwarmService/Link")()
        await call.write(b"\xff" * 40)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await member.unary_unary("/exo_dl.rpc.v1.SwarmService/Identify")(b"\xff" * 40)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_certificate_that_has_ended_opens_nothing(node: Node) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=60)
    async with channel(node, Identity(SECRET, new_node_id(), clock=lambda: past)) as stale:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stale.unary_unary("/exo_dl.rpc.v1.SwarmService/Identify")(b"", timeout=3)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_half_open_connections_end_and_members_are_served_meanwhile(node: Node) -> None:
    """500 that say nothing, half a TLS hello, or plain HTTP: a member links at once, and they are cut after 5 s."""
    host, port = node.address.split(":")
    socks = []
    words = (b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n\r\n")
    begin = time.monotonic()
    try:
        for number in range(500):
            sock = socket.create_connection((host, int(port)), timeout=5)
            socks.append(sock)
            sock.sendall(words[number % 3])
        friend = await Node(peers=[node.address]).start()
        try:
            await friend.sees(node)
        finally:
            await friend.stop()
        loop = asyncio.get_running_loop()
        for sock in socks:
            sock.settimeout(12)

        def ended() -> float:
            for sock in socks:
                try:
                    while sock.recv(4096):
                        pass
                except ConnectionResetError:
                    continue
            return time.monotonic() - begin

        assert await loop.run_in_executor(None, ended) < 11
    finally:
        for sock in socks:
            sock.close()
