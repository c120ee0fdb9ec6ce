"""Gated models: whose token reads them, who gets them, and where the token is never found."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any

import pytest

from bench.cluster import CommandError, Node, hub_cache, wait_until
from bench.hub import LocalHub
from bench.models import LabModel, check_copy
from bench.ports import free_port
from exo_dl.net.identity import Identity, new_node_id
from exo_dl.net.piece_server import piece_path
from exo_dl.net.tickets import TicketKey, TicketSigner
from tests.integration.conftest import MakeNodes, start_all

TOKEN = "hf_" + "Sq7zKw3TnVb9XyRd" * 2
gated = pytest.mark.parametrize("hub", [{"token": TOKEN, "access": "gated"}], indirect=True, ids=["gated"])
private = pytest.mark.parametrize("hub", [{"token": TOKEN, "access": "private"}], indirect=True, ids=["private"])


def make_pair(make_nodes: MakeNodes, **settings: str) -> list[Node]:
    """The first has the token, the second has none."""
    nodes = [*make_nodes("with", HF_TOKEN=TOKEN, **settings), *make_nodes("without", **settings)]
    start_all(nodes)
    return nodes


def by_name(summary: dict[str, Any]) -> dict[str, Any]:
    return {node["name"]: node for node in summary["nodes"]}


def assert_token_is_nowhere(folder: Path, said: str, nodes: list[Node]) -> None:
    assert TOKEN not in said
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert TOKEN.encode() not in path.read_bytes(), path
    for node in nodes:
        assert TOKEN.encode() not in Path(f"/proc/{node.process.pid}/cmdline").read_bytes()
        limits = Path(f"/proc/{node.process.pid}/limits").read_text()
        cores = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert cores.split()[4:6] == ["0", "0"]


@gated
def test_only_nodes_with_a_token_get_a_gated_model(
    make_nodes: MakeNodes, hub: LocalHub, model: LabModel, tmp_path: Path
) -> None:
    nodes = make_pair(make_nodes, EXO_DL_LOG_LEVEL="debug")
    with pytest.raises(CommandError) as caught:
        nodes[1].json("pull", model.repo)
    assert caught.value.exit_code == 4
    assert caught.value.stderr.startswith("exo-dl: without: "), "it is the token of this node"
    with pytest.raises(CommandError) as caught:
        nodes[0].json("pull", model.repo)
    assert caught.value.exit_code == 9
    told = [line for line in caught.value.stderr.splitlines() if line.startswith("  without: ")]
    assert told and "not for everybody" in told[0] and "--share-gated" in told[0], caught.value.stderr
    views = by_name(caught.value.documents[-1])
    assert views["with"]["state"] == "done"
    assert views["without"]["state"] == "failed"
    assert "not for everybody" in views["without"]["error"]
    assert views["without"]["bytes_done"] == 0
    check_copy(model, nodes[0].home)
    assert not hub_cache(nodes[1].home, model.repo).exists()
    asked = [record for record in hub.records if not record["auth"] and record["bytes"] > 100_000]
    assert not asked, "a node without a token read from the hub"
    assert_token_is_nowhere(tmp_path, caught.value.stdout + caught.value.stderr, nodes)


@gated
@pytest.mark.parametrize("by", ["flag", "setting"])
def test_a_gated_model_is_shared_where_the_user_says_so(
    make_nodes: MakeNodes, hub: LocalHub, model: LabModel, tmp_path: Path, by: str
) -> None:
    settings = {"EXO_DL_SHARE_GATED": "yes"} if by == "setting" else {}
    nodes = make_pair(make_nodes, **settings)
    summary = nodes[0].json("pull", model.repo, *(["--share-gated"] if by == "flag" else []))[-1]
    assert summary["state"] == "done"
    for node in nodes:
        check_copy(model, node.home)
    assert by_name(summary)["without"]["bytes_from_hub"] == 0, "it got a lease that it cannot use"
    assert_token_is_nowhere(tmp_path, str(summary), nodes)


@gated
def test_pieces_of_a_gated_model_go_over_tls_alone(make_nodes: MakeNodes, hub: LocalHub, model: LabModel) -> None:
    port = free_port()
    nodes = [*make_nodes("with", HF_TOKEN=TOKEN, EXO_DL_PIECE_PORT=str(port)), *make_nodes("without")]
    start_all(nodes)
    summary = nodes[0].json("pull", model.repo, "--share-gated")[-1]
    assert by_name(summary)["without"]["bytes_from_peers"] == model.size_bytes
    identity = Identity(nodes[0].env["EXO_DL_CLUSTER_SECRET"], new_node_id())
    path = piece_path(summary["pull_id"], 0, 1)
    headers = TicketSigner(TicketKey(identity.ticket_key()), identity.node_id).headers("GET", path)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        assert (answer.status, b"TLS" in answer.read()) == (426, True), "a member's good request in clear"
    finally:
        connection.close()


@private
def test_a_pull_from_a_node_without_a_token_says_what_to_do(make_nodes: MakeNodes, model: LabModel) -> None:
    nodes = make_pair(make_nodes)
    with pytest.raises(CommandError) as caught:
        nodes[1].json("pull", model.repo)
    assert caught.value.exit_code in (3, 4)
    assert "token" in caught.value.stderr


@gated
def test_a_token_that_comes_later_is_used(make_nodes: MakeNodes, hub: LocalHub, model: LabModel) -> None:
    nodes = make_pair(make_nodes)
    with pytest.raises(CommandError):
        nodes[0].json("pull", model.repo)
    (nodes[1].home / "token").write_text(TOKEN + "\n")
    summary = nodes[0].json("pull", model.repo)[-1]
    assert summary["state"] == "done"
    wait_until(lambda: hub_cache(nodes[1].home, model.repo).exists(), timeout_s=5, what="the model is there")
    check_copy(model, nodes[1].home)


def test_a_token_as_a_flag_is_refused_and_not_repeated(make_nodes: MakeNodes, repo: str) -> None:
    [node] = make_nodes("one")
    for argv in (
        node.command("up", "--hf-token", TOKEN),
        node.command("up", f"--token={TOKEN}"),
        node.command("pull", repo, "--token", TOKEN),
    ):
        with pytest.raises(CommandError) as caught:
            node.run(argv)
        assert caught.value.exit_code == 2
        assert TOKEN not in caught.value.stderr + caught.value.stdout
        assert "token" in caught.value.stderr
