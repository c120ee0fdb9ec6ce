"""Ports for daemons of tests: nobody else gets them by chance between the choice and the use."""

from __future__ import annotations

import socket

from bench.ports import free_port


def test_a_free_port_is_none_that_the_system_gives_away() -> None:
    chosen = {free_port() for _ in range(50)}
    assert len(chosen) > 10
    with socket.create_server(("127.0.0.1", 0)) as given:
        assert max(chosen) < given.getsockname()[1]
    with socket.create_server(("127.0.0.1", chosen.pop())) as mine:
        assert mine.fileno() >= 0
