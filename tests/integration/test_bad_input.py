"""What a person may get wrong: each has its own clear error and exit code, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cluster import CommandError, Node
from bench.hub import LocalHub
from bench.models import LabModel
from tests.integration.conftest import MakeNodes, start_all


def failure(node: Node, *args: str) -> CommandError:
    with pytest.raises(CommandError) as caught:
        node.json(*args, timeout_s=60)
    return caught.value


def left_behind(node: Node) -> list[Path]:
    return [path for path in (node.home / "hub").rglob("*") if path.is_file() and ".locks" not in path.parts]


@pytest.fixture
def node(make_nodes: MakeNodes) -> Node:
    nodes = make_nodes("one")
    start_all(nodes)
    return nodes[0]


@pytest.mark.parametrize(
    ("args", "exit_code", "word"),
    [
        (["lab/no-such-model"], 3, "lab/no-such-model"),
        (["lab/model@no-such-revision"], 3, "no-such-revision"),
        (["lab/../model"], 2, "lab/../model"),
        (["lab/model/more/parts"], 2, "lab/model/more/parts"),
        (["lab/model", "--include", "*.nothing"], 2, "*.nothing"),
        (["lab/model", "--nodes", "nobody"], 3, "nobody"),
        (["lab/model", "--layout", "zip:/tmp/x"], 2, "zip:/tmp/x"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_pull_that_cannot_be(node: Node, args: list[str], exit_code: int, word: str) -> None:
    error = failure(node, "pull", *args)
    assert (error.exit_code, word in error.stderr) == (exit_code, True), error
    assert "Traceback" not in error.stderr
    assert left_behind(node) == []


@pytest.mark.parametrize(
    "hub", [{"token": "hf_right", "access": access} for access in ("gated", "private")], indirect=True
)
def test_a_model_that_needs_a_token(node: Node, hub: LocalHub, model: LabModel) -> None:
    error = failure(node, "pull", model.repo)
    # A private repository looks like none to a stranger.
    assert error.exit_code in ((4,) if hub.access == "gated" else (3, 4)), error
    assert "token" in error.stderr.lower()
    assert left_behind(node) == []


def test_a_hub_that_is_down(node: Node, hub: LocalHub, model: LabModel) -> None:
    hub.close()
    error = failure(node, "pull", model.repo)
    assert error.exit_code == 5
    assert hub.url in error.stderr


def test_a_second_daemon_on_one_state_directory(make_nodes: MakeNodes, node: Node) -> None:
    node_again = make_nodes("again", EXO_DL_STATE_DIR=str(node.state_dir))[0]
    node_again.state_dir = node.state_dir
    node_again.start()
    assert node_again.process.wait(20) == 11
    assert str(node.state_dir) in node_again.log_tail()
    assert node.up_peers() == []
    assert node.running


def test_a_port_in_use(make_nodes: MakeNodes, node: Node) -> None:
    other = make_nodes("other")[0]
    other.port = node.port
    other.start()
    assert other.process.wait(20) == 11
    assert str(node.port) in other.log_tail()


def test_a_corrupt_state_database(make_nodes: MakeNodes) -> None:
    broken = make_nodes("broken")[0]
    start_all([broken])
    broken.stop()
    databases = [path for path in broken.state_dir.rglob("*") if path.suffix in (".db", ".sqlite", ".sqlite3")]
    assert databases
    for path in databases:
        path.write_bytes(b"this is no database" * 1000)
    broken.start()
    assert broken.process.wait(20) == 7
    assert databases[0].name in broken.log_tail()


def test_no_daemon(make_nodes: MakeNodes, model: LabModel) -> None:
    absent = make_nodes("absent")[0]
    error = failure(absent, "pull", model.repo)
    assert error.exit_code == 6
    assert "exo-dl up" in error.stderr


def test_a_read_only_folder(make_nodes: MakeNodes, model: LabModel, tmp_path: Path) -> None:
    """A file where a folder has to be: root can write into folders that are read-only."""
    nodes = make_nodes("one")
    start_all(nodes)
    blocked = tmp_path / "blocked"
    blocked.write_text("no folder")
    error = failure(nodes[0], "pull", model.repo, "--layout", f"dir:{blocked}/model")
    assert error.exit_code in (7, 9)
    assert str(blocked) in error.stderr


@pytest.mark.parametrize("sig", ["terminate", "interrupt"])
def test_a_daemon_stops_cleanly_on_signals(node: Node, sig: str) -> None:
    import signal

    node.process.send_signal(signal.SIGTERM if sig == "terminate" else signal.SIGINT)
    assert node.process.wait(10) == 0
