"""A read waits for many bytes only after a wait that has found them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from exo_dl.net import gather as gather_module
from exo_dl.net.gather import Gather


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A reader and a writer, over TCP; a read that hangs ends with an error."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        writer = socket.create_connection(server.getsockname())
        reader, _ = server.accept()
    reader.settimeout(5)
    with reader, writer:
        yield reader, writer


def test_a_read_after_bytes_were_waited_for_gives_them(ends: tuple[socket.socket, socket.socket]) -> None:
    reader, writer = ends
    gather, buffer = Gather(reader), memoryview(bytearray(1 << 16))
    writer.sendall(bytes(40_000))
    assert gather.wait(40_000)
    assert gather.recv_into(buffer) == 40_000


@pytest.mark.parametrize("blocking", [True, False], ids=["the kernel's timer", "a timeout"])
def test_a_read_that_nobody_waited_for_takes_one_byte(
    ends: tuple[socket.socket, socket.socket], blocking: bool
) -> None:
    """As the head of the next answer comes, on a connection whose last body came in large parts."""
    reader, writer = ends
    if blocking:
        reader.settimeout(None)
    gather, buffer = Gather(reader), memoryview(bytearray(1 << 16))
    writer.sendall(bytes(40_000))
    assert gather.wait(40_000)
    assert gather.recv_into(buffer) == 40_000
    watchdog = threading.Timer(10, writer.close)
    watchdog.start()
    writer.sendall(b"x")
    assert gather.recv_into(buffer) == 1
    watchdog.cancel()


def test_what_does_not_come_is_not_waited_for_by_the_read(ends: tuple[socket.socket, socket.socket]) -> None:
    reader, writer = ends
    gather, buffer = Gather(reader), memoryview(bytearray(1 << 16))
    writer.sendall(b"some")
    assert not gather.wait(40_000)
    assert gather.recv_into(buffer) == 4


def test_the_end_is_enough(ends: tuple[socket.socket, socket.socket]) -> None:
    reader, writer = ends
    gather, buffer = Gather(reader), memoryview(bytearray(1 << 16))
    writer.sendall(b"last")
    writer.close()
    assert gather.wait(40_000)
    assert gather.recv_into(buffer) == 4
    assert gather.wait(40_000)
    assert gather.recv_into(buffer) == 0


def test_where_the_window_is_full_before_the_bytes_are_there_they_come_all_the_same() -> None:
    """As it is when a connection is new: poll ends then, and a read that waited would sleep until its time is over."""
    size = 1 << 20
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(20):
            writer = socket.create_connection(server.getsockname())
            reader, _ = server.accept()
            with reader, writer:
                watchdog = threading.Timer(5, reader.shutdown, (socket.SHUT_RDWR,))
                watchdog.start()
                sending = threading.Thread(target=writer.sendall, args=(bytes(size),))
                sending.start()
                gather, buffer, got = Gather(reader), memoryview(bytearray(size)), 0
                while got < size:
                    gather.wait(size - got)
                    count = gather.recv_into(buffer[got:])
                    assert count and watchdog.is_alive(), "it slept until the watchdog came"
                    got += count
                sending.join()
                watchdog.cancel()


class Overtaken(socket.socket):
    """A socket whose reader is hurried just before it sets a mark."""

    hurry = staticmethod(lambda: None)

    def setsockopt(self, *args: Any) -> None:
        if args[1] == socket.SO_RCVLOWAT and args[2] > 1:
            self.hurry()
        super().setsockopt(*args)


def test_a_hurry_that_comes_as_a_mark_is_set_leaves_none_behind(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read would sleep on it until its time is over."""
    reader, writer = ends
    monkeypatch.setattr(gather_module, "LONGEST_S", 0.01)
    with Overtaken(fileno=reader.detach()) as overtaken:
        gather = Gather(overtaken)
        overtaken.hurry = gather.hurry  # type: ignore[method-assign]
        writer.sendall(b"some")
        assert not gather.wait(40_000)
        assert overtaken.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        assert gather.recv_into(memoryview(bytearray(8))) == 4
