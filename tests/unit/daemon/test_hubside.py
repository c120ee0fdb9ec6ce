"""The connection to the hub that is opened before it is needed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from exo_dl.core.lease_types import LeaseResult
from exo_dl.hubs.huggingface import HuggingFaceHub
from exo_dld.hubside import HeadStart, HubSide

_ANSWER = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/4\r\nContent-Length: 4\r\n\r\nbyte"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


def hub_at(listener: socket.socket) -> HuggingFaceHub:
    return HuggingFaceHub(f"http://127.0.0.1:{listener.getsockname()[1]}", "")


async def test_a_pull_goes_on_with_the_connection_that_was_opened_ahead(listener: socket.socket) -> None:
    hub = hub_at(listener)
    head_start = HeadStart(lambda: None)
    assert head_start.begin(hub) is hub
    connection, _ = await asyncio.to_thread(listener.accept)
    ready = asyncio.Event()
    failures: list[str] = []
    hubside = HubSide(
        hub, ready=ready.set, failed=lambda _kind, text: failures.append(text), ahead=head_start.take(hub)
    )
    assert head_start.take(hub) is None
    with connection:
        hubside.probe(at_once=True)
        async with asyncio.timeout(10):
            await ready.wait()
        asked = asyncio.create_task(asyncio.to_thread(hubside.reader(0).open_range, f"{hub.endpoint}/file", 0, 4))
        assert (await asyncio.to_thread(connection.recv, 4096)).startswith(b"GET /file HTTP/1.1\r\n")
        connection.sendall(_ANSWER)
        with await asked as opened:
            assert opened.total_bytes == 4
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        await hubside.close()
    assert not failures
    head_start.close()


async def test_what_no_pull_takes_is_closed(listener: socket.socket) -> None:
    hub = hub_at(listener)
    head_start = HeadStart(lambda: None)
    head_start.begin(hub)
    first, _ = await asyncio.to_thread(listener.accept)
    head_start.begin(hub)
    second, _ = await asyncio.to_thread(listener.accept)
    with first, second:
        first.settimeout(10)
        second.settimeout(10)
        assert await asyncio.to_thread(first.recv, 1) == b""
        head_start.close()
        assert await asyncio.to_thread(second.recv, 1) == b""


async def test_a_hub_that_is_not_there_is_told_by_the_pull(listener: socket.socket) -> None:
    hub = hub_at(listener)
    listener.close()
    head_start = HeadStart(lambda: None)
    head_start.begin(hub)
    failed = asyncio.Event()
    kinds: list[LeaseResult] = []

    def fail(kind: LeaseResult, _text: str) -> None:
        kinds.append(kind)
        failed.set()

    hubside = HubSide(hub, ready=lambda: None, failed=fail, ahead=head_start.take(hub))
    hubside.probe(at_once=True)
    async with asyncio.timeout(10):
        await failed.wait()
    assert kinds == [LeaseResult.HUB_UNREACHABLE]
    await hubside.close()
