"""Any values in the requests of clients: a real daemon answers each or refuses it with an error of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from hypothesis import given
from hypothesis import strategies as st

from bench.cluster import Node
from exo_dl.net.identity import new_secret
from exo_dl.rpc.v1 import access_pb2, cluster_pb2, pull_pb2
from tests.fuzz.filling import fill, long

pytestmark = pytest.mark.timeout(0)

# `Leave` ends the daemon, whatever its one number is.
METHODS = [
    method
    for file in (access_pb2, cluster_pb2, pull_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name != "Leave"
]
# What a bug looks like from outside: an exception that nobody expected, or an answer that cannot be sent.
NOT_AN_ANSWER = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Its hub is a port where nobody listens."""
    node = Node(
        "one",
        tmp_path_factory.mktemp("daemon"),
        secret=new_secret(),
        endpoint="http://127.0.0.1:9",
        settings={"EXO_DL_MDNS": "false", "EXO_DL_HOST": "127.0.0.1"},
    )
    node.start()
    try:
        node.wait_ready()
        yield node
    finally:
        node.kill()


@pytest.fixture(scope="module")
def channel(daemon: Node) -> Iterator[grpc.Channel]:
    with daemon.channel() as opened:
        yield opened


@st.composite
def calls(draw: st.DrawFn) -> tuple[Any, bytes]:
    method = draw(st.sampled_from(METHODS))
    message = message_factory.GetMessageClass(method.input_type)()
    fill(message, draw)
    return method, message.SerializeToString()


def call(channel: grpc.Channel, method: Any, data: bytes) -> grpc.StatusCode:
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.server_streaming:
            stream = channel.unary_stream(path)(data, timeout=30)
            with contextlib.suppress(StopIteration):
                next(stream)
            stream.cancel()
        else:
            channel.unary_unary(path)(data, timeout=30)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@long
@given(calls())
def test_requests_of_clients(daemon: Node, channel: grpc.Channel, wanted: tuple[Any, bytes]) -> None:
    method, data = wanted
    assert call(channel, method, data) not in NOT_AN_ANSWER, method.name
    assert daemon.running


@long
@given(st.sampled_from(METHODS), st.binary(max_size=200))
def test_bytes_as_requests_of_clients(daemon: Node, channel: grpc.Channel, method: Any, data: bytes) -> None:
    assert call(channel, method, data) not in NOT_AN_ANSWER, method.name
    assert daemon.running


def test_nothing_was_written_elsewhere_and_no_error_was_unexpected(daemon: Node) -> None:
    """After all of it."""
    assert "Traceback" not in daemon.log.read_text(encoding="utf-8")
    left = {path.name for path in Path(daemon.folder).iterdir()}
    assert left <= {"hf", "state", "daemon.log", ".cache", ".config"}
