"""Answers of a hub that are small on the wire and large in memory, or that never end."""

from __future__ import annotations

import functools
import gzip
import json
import socket
import threading
import zlib
from collections.abc import Iterator

import psutil
import pytest

from exo_dl.errors import HubError
from exo_dl.hubs import session
from exo_dl.hubs.huggingface import HuggingFaceHub
from tests.unit.hubs.rawserver import RawServer, Script

COMMIT = "a" * 40
INFO = {
    "id": "org/model",
    "sha": COMMIT,
    "private": False,
    "siblings": [{"rfilename": "config.json", "size": 3, "blobId": "b" * 40}],
}


def answer(body: bytes, *, coding: str = "", status: str = "200 OK") -> bytes:
    coded = f"Content-Encoding: {coding}\r\n" if coding else ""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{coded}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@functools.cache
def packed_spaces(mib: int) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return b"".join(packer.compress(b" " * (1 << 20)) for _ in range(mib)) + packer.flush()


def resolve(*scripts: Script) -> object:
    with RawServer(*scripts) as server:
        return HuggingFaceHub(f"http://127.0.0.1:{server.port}", "").resolve("org/model")


@pytest.mark.parametrize("coding", ["", "gzip", "deflate"])
def test_a_packed_list_of_files_is_read(coding: str) -> None:
    data = json.dumps(INFO).encode()
    packed = {"": data, "gzip": gzip.compress(data), "deflate": zlib.compress(data)}[coding]
    assert resolve(answer(packed, coding=coding)).manifest.commit == COMMIT  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_an_answer_that_unpacks_to_much_is_given_up(status: str) -> None:
    bomb = packed_spaces(512)
    assert len(bomb) < 4 << 20
    before, peak, stop = psutil.Process().memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], psutil.Process().memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(HubError, match="longer than any list of files"):
            resolve(answer(bomb, coding="gzip", status=status))
    finally:
        stop.set()
        watcher.join()
    assert peak[0] - before < 200 << 20


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "snake-oil"])
def test_what_nobody_asked_for_is_not_unpacked(coding: str) -> None:
    with pytest.raises(HubError, match="nobody asked for"):
        resolve(answer(gzip.compress(b"{}"), coding=coding))


def test_damage_is_told() -> None:
    with pytest.raises(HubError, match="damaged"):
        resolve(answer(b"this is no gzip", coding="gzip"))


@pytest.mark.parametrize("body", [b"[" + b"[]," * 4_000_000 + b"[]]", b"[" + b"1," * 4_000_000 + b"1]"])
def test_many_small_values_are_given_up(body: bytes) -> None:
    with pytest.raises(HubError, match="longer than any list of files"):
        resolve(answer(gzip.compress(body, 1), coding="gzip"))


def test_an_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_WHOLE_S", 0.3)
    ended = threading.Event()

    def drip(sock: socket.socket, _head: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
        while not ended.wait(0.02):
            sock.sendall(b" ")

    with pytest.raises(HubError, match=r"did not end within 0\.3 s"):
        try:
            resolve(drip)
        finally:
            ended.set()


def test_a_page_of_the_tree_has_the_same_bounds() -> None:
    without_sizes = {**INFO, "siblings": [{"rfilename": "config.json"}]}
    with pytest.raises(HubError, match="longer than any list of files"):
        resolve(answer(json.dumps(without_sizes).encode()), answer(packed_spaces(100), coding="gzip"))


@pytest.fixture(autouse=True)
def _own_session() -> Iterator[None]:
    """No connection of one test's server is left for another's."""
    from huggingface_hub.utils._http import close_session

    yield
    close_session()
