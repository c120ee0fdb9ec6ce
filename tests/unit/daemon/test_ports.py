"""The port for other machines: the usual one, another where it is taken, and none but that which was asked for."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import grpc
import grpc.aio
import pytest

from exo_dl.errors import AlreadyRunningError
from exo_dl.net.identity import Identity, new_node_id, new_secret
from exo_dld.servers import bind_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


async def bind(port: int, *, chosen: bool) -> int:
    identity = Identity(new_secret(), new_node_id())
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    try:
        return bind_port(server, "127.0.0.1", port, chosen=chosen, credentials=identity.server_credentials)
    finally:
        await server.stop(None)


async def test_where_the_usual_port_is_taken_another_one_does(taken: int) -> None:
    port = await bind(taken, chosen=False)
    assert port not in (0, taken)


async def test_a_port_that_was_asked_for_is_that_or_none(taken: int) -> None:
    with pytest.raises(AlreadyRunningError, match=f"Port {taken} on 127.0.0.1 cannot be used"):
        await bind(taken, chosen=True)
