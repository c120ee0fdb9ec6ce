"""Who gets in: other clusters, tickets, another secret, other users of the machine. Real daemons, real commands."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bench.cluster import CommandError, Node, wait_linked, wait_until
from bench.hub import LocalHub
from bench.models import LabModel, check_copy
from bench.ports import free_port
from exo_dl import secretfile
from exo_dl.locations import socket_path
from exo_dl.net.identity import NODE_SAN, Identity, new_node_id, new_secret
from exo_dl.net.readers import read_ticket
from tests.integration.conftest import MakeNodes, slowly, start_all


def refused(node: Node, *words: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and text of a command that must fail."""
    with pytest.raises(CommandError) as caught:
        node.run(node.command(*words), env=env)
    return caught.value.exit_code, caught.value.stderr


def peers_named(node: Node) -> set[str]:
    return {peer["name"] for peer in node.json("peers")[-1]["peers"]}


def test_two_clusters_on_one_network(make_nodes: MakeNodes, model: LabModel) -> None:
    ours = make_nodes("anna", "bob", mdns=True)
    theirs = make_nodes("carl", "dora", mdns=True, EXO_DL_CLUSTER_SECRET=new_secret())
    for node in (*ours, *theirs):
        node.start()
    for node in (*ours, *theirs):
        node.wait_ready()
    wait_linked(ours)
    wait_linked(theirs)
    pulls = [group[0].launch("pull", model.repo, "--json") for group in (ours, theirs)]
    for pull in pulls:
        assert pull.wait()[-1]["state"] == "done"
    for group, others in ((ours, ("carl", "dora")), (theirs, ("anna", "bob"))):
        for node in group:
            check_copy(model, node.home)
            assert peers_named(node) == {each.name for each in group}
            log = node.log.read_text()
            assert not any(name in log for name in others)


def test_a_node_of_another_cluster_is_told_apart_by_address_too(make_nodes: MakeNodes) -> None:
    [one] = make_nodes("one")
    [stranger] = make_nodes("stranger", EXO_DL_CLUSTER_SECRET=new_secret())
    for node in (one, stranger):
        node.start()
        node.wait_ready()

    def problem() -> str:
        return " ".join(peer["problem"] for peer in stranger.json("peers")[-1]["peers"])

    wait_until(lambda: "another cluster" in problem(), timeout_s=10, what="the stranger is told why")
    assert peers_named(one) == {"one"}


def call_with(node: Node, credentials: grpc.ChannelCredentials) -> grpc.Channel:
    options = [("grpc.ssl_target_name_override", NODE_SAN)]
    return grpc.secure_channel(f"127.0.0.1:{node.port}", credentials, options=options)


def list_services(channel: grpc.Channel) -> list[Any]:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    return list(stub.ServerReflectionInfo(iter([request]), timeout=5))


def test_a_read_only_ticket(make_nodes: MakeNodes, tmp_path: Path, repo: str) -> None:
    nodes = make_nodes("one", "two")
    start_all(nodes)
    one, two = nodes
    assert one.json("pull", repo)[-1]["state"] == "done"
    address = f"127.0.0.1:{one.port}"
    outside = {"EXO_DL_CLUSTER_SECRET": "", "EXO_DL_STATE_DIR": str(tmp_path / "nobody")}
    assert "a ticket is needed" in refused(one, "--connect", address, "peers", env=outside)[1]

    made = two.json("cluster", "ticket", "--read-only", "--days", "30", "--label", "dashboard")[-1]
    (tmp_path / "ticket.pem").write_text(made["pem"])
    with_ticket = ("--connect", address, "--ticket", str(tmp_path / "ticket.pem"))
    assert "two" in one.run(one.command(*with_ticket, "peers"), env=outside)
    assert repo in one.run(one.command(*with_ticket, "ls"), env=outside)
    by_environment = outside | {"EXO_DL_CONNECT": address, "EXO_DL_TICKET": made["pem"]}
    assert repo in one.run(one.command("status"), env=by_environment)
    for words in (
        ("pull", repo),
        ("cancel", repo),
        ("limit", "--hub", "1MB/s"),
        ("verify", repo),
        ("cluster", "ticket", "--list"),
        ("cluster", "ticket", "--read-only"),
    ):
        code, text = refused(one, *with_ticket, *words, env=outside)
        assert (code, "for looking only" in text) == (4, True), text
    assert "exo_dl_calls_refused_total{" in one.run(one.command(*with_ticket, "metrics"), env=outside)
    assert one.json("metrics")[-1]["calls_refused"] == 6

    ticket = read_ticket(made["pem"])
    credentials = grpc.ssl_channel_credentials(ticket.authority, ticket.key, ticket.certificate)
    with call_with(one, credentials) as channel:
        for attempt in (
            lambda: health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5),
            lambda: list_services(channel),
            lambda: channel.unary_unary("/exo_dl.rpc.v1.SwarmService/Identify")(b"", timeout=5),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                attempt()
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED

        assert [each["label"] for each in one.json("cluster", "ticket", "--list")[-1]["tickets"]] == ["dashboard"]
        watch = channel.unary_stream("/exo_dl.rpc.v1.ClusterService/WatchPeers")(b"", timeout=30)
        next(watch)
        one.json("cluster", "ticket", "--revoke", made["id"])
        with pytest.raises(grpc.RpcError, match="was revoked"):
            for _ in watch:
                continue
    code, text = refused(one, *with_ticket, "peers", env=outside)
    assert (code, "was revoked" in text) == (4, True)
    assert two.json("cluster", "ticket", "--list")[-1]["tickets"][0]["revoked"] is True
    one.stop()
    one.start()
    one.wait_ready()
    assert "was revoked" in refused(one, *with_ticket, "peers", env=outside)[1], "forgotten by a restart"
    assert made["pem"].splitlines()[1] not in one.log.read_text() + two.log.read_text()


def test_a_ticket_ends_by_itself(make_nodes: MakeNodes) -> None:
    [one] = make_nodes("one")
    one.start()
    one.wait_ready()
    ticket = read_ticket(one.json("cluster", "ticket", "--read-only", "--days", str(3 / 86_400))[-1]["pem"])
    credentials = grpc.ssl_channel_credentials(ticket.authority, ticket.key, ticket.certificate)
    with call_with(one, credentials) as channel:
        watch = channel.unary_stream("/exo_dl.rpc.v1.ClusterService/WatchPeers")(b"", timeout=30)
        next(watch)
        with pytest.raises(grpc.RpcError, match="has ended"):
            for _ in watch:
                continue
        with pytest.raises(grpc.RpcError, match="has ended"):
            channel.unary_unary("/exo_dl.rpc.v1.ClusterService/ListPeers")(b"", timeout=5)
    with call_with(one, credentials) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/exo_dl.rpc.v1.ClusterService/ListPeers")(b"", timeout=5)
    assert one.json("cluster", "ticket", "--list")[-1]["tickets"] == []


def test_remote_commands_with_the_secret(make_nodes: MakeNodes, tmp_path: Path, model: LabModel) -> None:
    nodes = make_nodes("one", "two")
    start_all(nodes)
    one, address = nodes[0], f"127.0.0.1:{nodes[0].port}"
    elsewhere = {"EXO_DL_STATE_DIR": str(tmp_path / "elsewhere"), "EXO_DL_CONNECT": address}
    assert '"done"' in one.run(one.command("pull", model.repo, "--json"), env=elsewhere)
    for node in nodes:
        check_copy(model, node.home)
    assert model.repo in one.run(one.command("status"), env=elsewhere)
    one.run(one.command("limit", "--hub", "5MB/s"), env=elsewhere)
    code, text = refused(one, "peers", env=elsewhere | {"EXO_DL_CLUSTER_SECRET": new_secret()})
    assert (code, "another cluster" in text) == (4, True), text
    member = Identity(one.env["EXO_DL_CLUSTER_SECRET"], new_node_id())
    with call_with(one, member.channel_credentials()) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert list_services(channel)


@slowly
def test_another_secret_while_a_pull_runs(make_nodes: MakeNodes, model: LabModel, tmp_path: Path) -> None:
    nodes = make_nodes("one", "two", "three", EXO_DL_CLUSTER_SECRET="")
    old = new_secret()
    for node in nodes:
        secretfile.write_secret(node.state_dir, old)
    start_all(nodes)
    one, two, three = nodes
    ticket = one.json("cluster", "ticket", "--read-only")[-1]
    (tmp_path / "ticket.pem").write_text(ticket["pem"])
    pull = one.launch("pull", model.repo, "--nodes", "one,two", "--json")
    pull.wait_for_share(0.1)
    rotated = one.json("cluster", "rotate", "--without", "three")[-1]
    assert rotated["moved"] == ["two"]
    assert rotated["left_behind"] == [{"name": "three", "reason": "it was left out"}]
    new = rotated["secret"]
    assert [secretfile.read_secret(node.state_dir) for node in nodes] == [new, new, old]
    assert pull.wait()[-1]["state"] == "done"
    for node in (one, two):
        check_copy(model, node.home)
        assert "lost" not in node.log.read_text()
    wait_until(lambda: three.up_peers() == [], timeout_s=15, what="three is out")
    address = f"127.0.0.1:{one.port}"
    three_asks = {"EXO_DL_CONNECT": address}
    assert "another cluster" in refused(three, "peers", env=three_asks)[1]
    assert refused(three, "--connect", address, "--ticket", str(tmp_path / "ticket.pem"), "peers")[0] == 4
    assert three.json("cluster", "join", new)[-1]["changed"] is True
    wait_linked(nodes)
    two.stop()
    two.start()
    two.wait_ready()
    wait_linked(nodes)
    for node in nodes:
        assert old not in node.log.read_text()
        assert new not in node.log.read_text()


def test_a_secret_from_a_setting_is_changed_there(make_nodes: MakeNodes) -> None:
    nodes = make_nodes("one", "two")
    secretfile.write_secret(nodes[0].state_dir, nodes[0].env["EXO_DL_CLUSTER_SECRET"])
    nodes[0].env["EXO_DL_CLUSTER_SECRET"] = ""
    start_all(nodes)
    code, text = refused(nodes[1], "cluster", "rotate")
    assert (code, "EXO_DL_CLUSTER_SECRET" in text) == (2, True)
    rotated = nodes[0].json("cluster", "rotate")[-1]
    assert rotated["moved"] == []
    assert "EXO_DL_CLUSTER_SECRET" in rotated["left_behind"][0]["reason"]
    wait_until(lambda: nodes[1].up_peers() == [], timeout_s=15, what="two is out")


@pytest.fixture
def open_place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as text:
        os.chmod(text, 0o755)  # noqa: S103 - others must reach the folders inside
        yield Path(text)


def connects(path: Path, user: Sequence[str]) -> bool:
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    done = subprocess.run(["setpriv", *user, "--", "/usr/bin/env", "python3", "-c", code, str(path)], check=False,
                          capture_output=True, cwd="/")  # fmt: skip
    return done.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users, which only root can")
@pytest.mark.skipif(sys.platform != "linux", reason="setpriv is a Linux program")
@pytest.mark.parametrize("group", ["", "65534"])
def test_the_socket_is_for_its_user_and_a_chosen_group(hub: LocalHub, open_place: Path, group: str) -> None:
    settings = {"EXO_DL_MDNS": "no", "EXO_DL_CLUSTER_SECRET": "", "EXO_DL_SOCKET_GROUP": group}
    node = Node("one", open_place, secret="", endpoint=hub.url, port=free_port(), settings=settings)
    node.start()
    try:
        node.wait_ready()
        path = socket_path(node.state_dir)
        assert stat.S_IMODE(path.stat().st_mode) == (0o660 if group else 0o600)
        assert stat.S_IMODE(path.parent.stat().st_mode) == (0o710 if group else 0o700)
        assert stat.S_IMODE(secretfile.secret_path(node.state_dir).stat().st_mode) == 0o600
        if group:
            readable = [f.name for f in node.state_dir.iterdir() if f.is_file() and f.stat().st_mode & 0o077]
            assert readable == [], "the group could read these"
        nobody = ["--reuid=65533", "--regid=65533", "--clear-groups"]
        member = ["--reuid=65533", "--regid=65534", "--clear-groups"]
        assert not connects(path, nobody)
        assert connects(path, member) == bool(group)
    finally:
        node.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users, which only root can")
@pytest.mark.skipif(sys.platform != "linux", reason="setpriv is a Linux program")
def test_another_user_is_refused_where_the_modes_were_opened_by_mistake(hub: LocalHub, open_place: Path) -> None:
    settings = {"EXO_DL_MDNS": "no", "EXO_DL_CLUSTER_SECRET": "", "EXO_DL_SOCKET_GROUP": "65534"}
    node = Node("one", open_place, secret="", endpoint=hub.url, port=free_port(), settings=settings)
    node.start()
    try:
        node.wait_ready()
        path = socket_path(node.state_dir)
        for each in (node.state_dir, path):
            os.chmod(each, 0o777)  # noqa: S103 - the mistake
        code = (
            "import grpc, sys\n"
            "channel = grpc.insecure_channel(sys.argv[1])\n"
            "method = channel.unary_unary('/exo_dl.rpc.v1.ClusterService/ListPeers')\n"
            "try:\n    method(b'', timeout=10)\n"
            "except grpc.RpcError as error:\n    sys.exit(error.code().name)\n"
        )

        def call(*user: str) -> tuple[int, str]:
            argv = ["setpriv", *user, "--", sys.executable, "-c", code, f"unix:{path}"]
            done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd="/", timeout=30)
            return done.returncode, done.stderr.strip()

        assert call("--reuid=65533", "--regid=65534", "--clear-groups") == (0, "")
        assert call("--reuid=65533", "--regid=65533", "--groups=65534") == (0, "")
        for _ in range(2):
            exit_code, text = call("--reuid=65533", "--regid=65533", "--clear-groups")
            assert exit_code == 1
            assert text in ("PERMISSION_DENIED", "UNAVAILABLE")
        assert node.json("peers")[-1]["peers"]
        told = [line for line in node.log.read_text().splitlines() if "the user 65533 of this machine" in line]
        assert len(told) == 1
    finally:
        node.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="reads what this process listens on from /proc")
def test_only_the_known_ports_listen_and_strangers_are_told_nothing(make_nodes: MakeNodes) -> None:
    """No port but that for pieces speaks in clear, and that one says no more than that it lives."""
    [one] = make_nodes("one", EXO_DL_PIECE_PORT=str(free_port()))
    one.start()
    one.wait_ready()
    pieces = int(one.env["EXO_DL_PIECE_PORT"])
    open_ports = psutil.Process(one.process.pid).net_connections("inet")
    assert {c.laddr.port for c in open_ports if c.status == psutil.CONN_LISTEN} == {one.port, pieces}
    assert not [c for c in open_ports if c.type == socket.SOCK_DGRAM], "mDNS is off"
    for call in (
        lambda channel: health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5),
        list_services,
    ):
        with grpc.insecure_channel(f"127.0.0.1:{one.port}") as plain, pytest.raises(grpc.RpcError):
            call(plain)
        other = Identity(new_secret(), new_node_id())
        with call_with(one, other.channel_credentials()) as channel, pytest.raises(grpc.RpcError):
            call(channel)
    with socket.create_connection(("127.0.0.1", pieces), timeout=5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := sock.recv(4096):
            answer += data
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert one.name.encode() not in answer
