"""Strangers at the gRPC port are refused, counted, named once, and leave room for members."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import re
import socket
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from exo_dl.net.identity import Identity, new_node_id, new_secret
from exo_dl.net.opensockets import users_at
from exo_dld.access import Gate
from exo_dld.doorway import MAX_WAITING, MAX_WAITING_PER_HOST, Doorway
from exo_dld.peerbook import UP
from exo_dld.servers import make_server
from tests.unit.daemon.members import SECRET, Node

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs more than one loopback address")

STRANGER, ANOTHER = "127.0.0.2", "127.0.0.3"


class Guarded:
    """A node with the server of a daemon, its port watched."""

    def __init__(self) -> None:
        self.node = Node()
        self.linked: list[SimpleNamespace] = []
        self.door = Doorway(peers=lambda: self.linked, judge_after_s=0.2)  # type: ignore[arg-type]
        self.node.server = make_server(Gate(self.node.identity, revoked=lambda _: False, doorway=self.door))
        self.node.membership.add_to(self.node.server)

    async def start(self) -> Guarded:
        credentials = self.node.identity.server_credentials(knocked=self.door.knocked)
        self.node.port = self.node.server.add_secure_port("127.0.0.1:0", credentials)
        self.door.watch(port=self.node.port, path=Path("/nowhere"))
        await self.node.server.start()
        await self.node.start()
        return self

    async def until(self, condition: Callable[[], bool]) -> None:
        def looked() -> bool:
            self.door.look()
            return condition()

        await self.node.until(looked, seconds=15)

    def visit(self, host: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.node.port), timeout=8, source_address=(host, 0))


@pytest.fixture
async def guarded() -> AsyncIterator[Guarded]:
    made = await Guarded().start()
    yield made
    await made.node.stop()


def with_certificate(identity: Identity | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if identity is not None:
        key, certificate = identity.certificate()
        with tempfile.NamedTemporaryFile() as file:
            file.write(key + certificate)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def shake_hands(context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    def act(raw: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError, ConnectionError), context.wrap_socket(raw) as sock:
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            while sock.recv(4096):
                pass

    return act


def plaintext(raw: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        while raw.recv(4096):
            pass


def two_months_ago() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=60)


STRANGERS: dict[str, Callable[[], Callable[[socket.socket], None]]] = {
    "no certificate": lambda: shake_hands(with_certificate(None)),
    "another cluster's": lambda: shake_hands(with_certificate(Identity(new_secret(), new_node_id()))),
    "one that has ended": lambda: shake_hands(with_certificate(Identity(SECRET, new_node_id(), clock=two_months_ago))),
    "no TLS at all": lambda: plaintext,
    "nothing said": lambda: lambda raw: None,
}


@pytest.mark.parametrize("kind", STRANGERS)
async def test_each_stranger_is_counted_and_named_once(
    guarded: Guarded, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    act = STRANGERS[kind]()
    times = 1 if kind == "no TLS at all" else 4  # gRPC leaves those in clear waiting for some seconds
    with caplog.at_level(logging.WARNING, "exo_dld.doorway"):
        for host in [STRANGER] * times + [ANOTHER]:
            with guarded.visit(host) as raw:
                await asyncio.to_thread(act, raw)
        await guarded.until(lambda: guarded.door.refused == times + 1)
    named = [re.sub(r" is refused.*", "", record.getMessage()) for record in caplog.records]
    assert sorted(named) == [STRANGER, ANOTHER]
    assert (guarded.node.messages, guarded.node.events) == ([], [])


async def test_members_are_not_counted(guarded: Guarded) -> None:
    friend = await Node(peers=[guarded.node.address]).start()
    try:
        await friend.sees(guarded.node)
        with guarded.visit(STRANGER):
            pass
        await guarded.until(lambda: guarded.door.refused == 1)
        friend.membership.drop(guarded.node.id, "to see another handshake")
        await friend.until(lambda: friend.events.count(("up", guarded.node.id)) == 2)
        with guarded.visit(STRANGER):
            pass
        await guarded.until(lambda: guarded.door.refused == 2)
    finally:
        await friend.stop()


async def test_a_members_attempts_that_it_gave_up_are_forgiven_within_a_bound(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    """Its address is not a way to go uncounted: what is more than dialling does is refused like all else."""
    guarded.linked = [SimpleNamespace(state=UP, addresses=(f"{STRANGER}:{guarded.node.port}",))]
    for _ in range(5):
        guarded.visit(STRANGER).close()
    guarded.visit(ANOTHER).close()
    await guarded.until(lambda: guarded.door.refused >= 1)
    assert guarded.door.refused == 1
    for _ in range(60):
        with guarded.visit(STRANGER):
            guarded.door.look()
    await guarded.until(lambda: guarded.door.refused >= 2)
    assert f"{STRANGER} is refused" in caplog.text


@pytest.mark.parametrize(("addresses", "each", "left"), [(1, 300, MAX_WAITING_PER_HOST), (20, 40, MAX_WAITING)])
async def test_those_who_wait_have_a_bounded_number_of_places(
    guarded: Guarded, addresses: int, each: int, left: int
) -> None:
    """The oldest are ended, and a member links."""
    waiting = [guarded.visit(f"127.0.1.{1 + number}") for _ in range(each) for number in range(addresses)]
    try:

        def still_open() -> int:
            count = 0
            for sock in waiting:
                sock.setblocking(False)
                try:
                    count += bool(sock.recv(1))
                except BlockingIOError:
                    count += 1
                except ConnectionResetError:
                    continue
            return count

        await guarded.until(lambda: still_open() <= left)
        friend = await Node(peers=[guarded.node.address]).start()
        try:
            await friend.sees(guarded.node)
        finally:
            await friend.stop()
    finally:
        for sock in waiting:
            sock.close()
    await guarded.until(lambda: guarded.door.refused == addresses * each)


def test_the_kernel_knows_who_uses_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        assert users_at(path) == {}
        client.connect(path)
        accepted, _ = listener.accept()
        with accepted:
            [user] = users_at(path).values()
            assert user is not None
            assert (user.uid, os.getegid() in user.groups) == (os.geteuid(), True)
