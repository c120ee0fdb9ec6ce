"""Two ends of the data plane: see `tests.unit.net.data_plane`."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exo_dl.net.fetch import Timeouts
from tests.unit.net.data_plane import MIXED_SIZES, Content, Node, WildPeer

QUICK = Timeouts(connect_s=0.5, answer_s=0.2, stall_s=0.2)


@pytest.fixture(scope="module")
def made_content(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Content]:
    made = Content(tmp_path_factory.mktemp("content"), MIXED_SIZES)
    yield made
    os.close(made.fd)


@pytest.fixture
def content(made_content: Content) -> Content:
    made_content.missing = set()
    return made_content


@pytest.fixture
def node(content: Content, tmp_path: Path) -> Iterator[Node]:
    made = Node(content, tmp_path)
    yield made
    made.close()


@pytest.fixture
def quick(content: Content, tmp_path: Path) -> Iterator[Node]:
    """A node that does not wait long."""
    made = Node(content, tmp_path, timeouts=QUICK)
    yield made
    made.close()


@pytest.fixture
def wild() -> Iterator[Callable[..., WildPeer]]:
    peers: list[WildPeer] = []

    def make(behave: Callable[[socket.socket, int], None], *, read_request: bool = True) -> WildPeer:
        peers.append(WildPeer(behave, read_request=read_request))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()
