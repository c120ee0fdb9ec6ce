"""A client that has no .proto files: all that it knows, it asks the daemon by server reflection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from bench.cluster import Node

_PACKAGE = "exo_dl.rpc.v1"


class ReflectedService:
    """Calls methods of one service with plain dictionaries, with what reflection tells about them."""

    def __init__(self, channel: grpc.Channel, pool: descriptor_pool.DescriptorPool, name: str) -> None:
        self._channel = channel
        self._service = pool.FindServiceByName(f"{_PACKAGE}.{name}")

    def _call(self, method_name: str, request: dict[str, Any], timeout_s: float) -> Any:
        method = self._service.FindMethodByName(method_name)
        make = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        call = make(
            f"/{self._service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        return call(
            json_format.ParseDict(request, message_factory.GetMessageClass(method.input_type)()), timeout=timeout_s
        )

    def call(self, method: str, **request: Any) -> dict[str, Any]:
        return as_dict(self._call(method, request, 30))

    def stream(self, method: str, **request: Any) -> Iterator[dict[str, Any]]:
        answers = self._call(method, request, 90)
        try:
            for answer in answers:
                yield as_dict(answer)
        finally:
            answers.cancel()


def as_dict(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


@pytest.fixture
def channel(trio: list[Node]) -> Iterator[grpc.Channel]:
    with trio[0].channel() as channel:
        yield channel


@pytest.fixture
def database(channel: grpc.Channel) -> ProtoReflectionDescriptorDatabase:
    return ProtoReflectionDescriptorDatabase(channel)


def test_reflection_lists_what_the_daemon_offers(database: ProtoReflectionDescriptorDatabase) -> None:
    assert {
        f"{_PACKAGE}.ClusterService",
        f"{_PACKAGE}.PullService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    } <= set(database.get_services())


def test_a_reflection_client_lists_and_watches_peers_and_a_pull(
    channel: grpc.Channel, database: ProtoReflectionDescriptorDatabase, trio: list[Node], repo: str
) -> None:
    pool = descriptor_pool.DescriptorPool(database)
    cluster = ReflectedService(channel, pool, "ClusterService")
    pulls = ReflectedService(channel, pool, "PullService")

    listed = cluster.call("ListPeers")["peers"]
    assert listed[0]["state"] == "PEER_STATE_SELF"
    assert {peer["name"] for peer in listed} == {node.name for node in trio}
    watched = next(cluster.stream("WatchPeers"))["peers"]
    assert {peer["id"] for peer in watched} == {peer["id"] for peer in listed}

    pull_id = pulls.call("StartPull", repo=repo)["pull"]["pull_id"]
    views = [answer["pull"] for answer in pulls.stream("WatchPull", pull_id=pull_id)]
    assert views[-1]["state"] == "PULL_STATE_DONE"
    assert {node["state"] for node in views[-1]["nodes"]} == {"NODE_PULL_STATE_DONE"}
    assert views[-1]["bytes_done"] == views[-1]["bytes_wanted"]
    done = [int(view["bytes_done"]) for view in views]
    assert done == sorted(done), "progress went back"
    assert pull_id in {pull["pull_id"] for pull in pulls.call("ListPulls")["pulls"]}


def test_an_error_is_a_status_with_a_text_that_helps(
    channel: grpc.Channel, database: ProtoReflectionDescriptorDatabase
) -> None:
    pulls = ReflectedService(channel, descriptor_pool.DescriptorPool(database), "PullService")
    with pytest.raises(grpc.RpcError) as caught:
        pulls.call("StartPull", repo="lab/no-such-model")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert "lab/no-such-model" in (caught.value.details() or "")
