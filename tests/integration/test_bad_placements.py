"""What cannot be divided, or not as asked: said in words of its own before a byte of weights moves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import save

from bench.cluster import CommandError, Node, hub_cache
from bench.hub import LocalHub
from bench.models import LabModel
from bench.served import read_requests
from exo_dl.net.identity import new_secret
from tests.integration.llama import MEMORY
from tests.unit.formats.headers import entry, file_of

LAYERS = {f"model.layers.{n}.w.weight": np.full(400_000 + n, n, np.uint8) for n in range(3)}
GOOD = save(LAYERS)
FIRST, SECOND = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))


def moved(log: Path, since: int) -> list[str]:
    """The answers of the hub that may have weights in them: all that is longer than the beginning of a file."""
    requests = read_requests(log, offset=since)
    return [r.path for r in requests if r.path.endswith((".safetensors", ".gguf")) and r.sent > 20_000]


@pytest.fixture(scope="module")
def lone(model: LabModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node and a hub, for questions alone."""
    folder = tmp_path_factory.mktemp("lone")
    with LocalHub(model.root, log=folder / "access.log", rate=60e6) as hub:
        node = Node("one", folder / "one", secret=new_secret(), endpoint=hub.url, settings={"EXO_DL_MDNS": "false"})
        node.start()
        node.wait_ready()
        try:
            yield node
        finally:
            node.kill()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--place", "layers", "--memory", "nobody=1GiB"), "nobody"),
        (("--place", "layers", "--memory", "one=1MiB", *MEMORY[2:]), "one"),
        (("--place", "files"), "--want"),
        (("--place", "files", "--want", "one=*.gguf"), "*.gguf"),
        (("--place", "files", "--want", "nobody=*"), "nobody"),
        (("--want", "one=*"), "--want"),
        (("--place", "layers", "--layout", "exo"), "exo"),
        (("--place", "layers", "--fraction", "7"), "7"),
        (("--plan", "/nonexistent"), "/nonexistent"),
    ],
)
def test_what_cannot_be_placed_is_said_before_a_byte_moves(
    lone: Node, llama: LabModel, arguments: tuple[str, ...], words: str
) -> None:
    with pytest.raises(CommandError) as caught:
        lone.json("pull", llama.repo, *arguments)
    assert caught.value.exit_code in (2, 3, 7), caught.value.stderr
    assert words in caught.value.stderr
    assert not list(lone.home.rglob("*.exo-dl*"))


def index(names: Mapping[str, str]) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": names}).encode()


BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "header-of-2-gib": ({"model.safetensors": (2 << 30).to_bytes(8, "little") + GOOD[8:]}, "more than the file"),
    "offsets-outside": ({"model.safetensors": file_of({"h.0.w": entry(0, 9)}, 4)}, "outside of the file"),
    "overlap": ({"model.safetensors": file_of({"h.0.a": entry(0, 4), "h.0.b": entry(2, 4)}, 4)}, "over another tensor"),
    "deep-json": ({"model.safetensors": file_of(b'{"a":' + b"[" * 7000 + b"]" * 7000 + b"}")}, "nested too deep"),
    "unknown-dtype": ({"model.safetensors": file_of({"h.0.w": entry(0, 1, "Q9")}, 1)}, "unknown dtype 'Q9'"),
    "twice": (
        {"model.safetensors": file_of(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}}', 1)},
        "'a' twice",
    ),
    "in-two-files": (
        {
            "model.safetensors.index.json": index({"h.0.w": FIRST, "h.1.w": SECOND}),
            FIRST: file_of({"h.0.w": entry(0, 1)}, 1),
            SECOND: file_of({"h.0.w": entry(0, 2), "h.1.w": entry(2, 3)}, 3),
        },
        "is in",
    ),
    "index-names-a-missing-file": (
        {"model.safetensors.index.json": index({"h.0.w": "gone.safetensors"}), "model.safetensors": GOOD},
        "does not have",
    ),
    "a-part-is-missing": ({"model-00001-of-00002.safetensors": GOOD}, "lacks 'model-00002-of-00002.safetensors'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_model_that_lies_about_itself(lone: Node, model: LabModel, name: str) -> None:
    files, words = BAD[name]
    folder = model.root / "bad" / name
    folder.mkdir(parents=True)
    try:
        for path, data in files.items():
            (folder / path).write_bytes(data)
        log = lone.folder.parent / "access.log"
        mark = log.stat().st_size
        with pytest.raises(CommandError) as caught:
            lone.json("pull", f"bad/{name}", "--place", "layers")
        print(caught.value.stderr)
        assert words in caught.value.stderr
        assert not moved(log, mark)
        assert not list(lone.home.rglob("*.exo-dl*"))
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"nodes": {"nobody": {"layers": "0"}}}, "nobody"),
        ({"nodes": {"one": {"layers": "0-9"}}}, "layer 9 of 6"),
        ({"nodes": {"one": {"layers": "x"}}}, "cannot be read"),
        ({"nodes": {"one": {"tensors": ["nothing.*"]}}}, "nothing.*"),
        ({"nodes": {"one": {"files": ["*.gguf"]}}}, "*.gguf"),
        ({"nodes": {"one": {"layrs": "0"}}}, "layrs"),
        ({"nodes": {"one": {"helper": True, "layers": "0"}}}, "helper"),
        ({"nodes": {}}, "names no nodes"),
        ({"nods": {}}, "names no nodes"),
    ],
)
def test_a_plan_file_that_cannot_be(
    lone: Node, llama: LabModel, tmp_path: Path, plan: dict[str, object], words: str
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    with pytest.raises(CommandError) as caught:
        lone.json("pull", llama.repo, "--plan", str(path))
    assert words in caught.value.stderr
    assert not list(lone.home.rglob("*.exo-dl*"))


def test_what_needs_several_nodes_to_be_wrong(trio: list[Node], llama: LabModel, hub: LocalHub, tmp_path: Path) -> None:
    twice = tmp_path / "plan.json"
    twice.write_text(json.dumps({"nodes": {"one": {"layers": "0-3"}, "two": {"layers": "3-5"}}}))
    folder = hub.root / "bad" / "two-layers"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(save({f"h.{n}.w": np.zeros(9, np.uint8) for n in range(2)}))
    try:
        for arguments, words in (
            ((llama.repo, "--plan", str(twice)), "'one' and to 'two'"),
            (("bad/two-layers", "--place", "layers"), "2 layers and 3 nodes"),
            (("bad/two-layers", "--place", "experts"), "has no experts"),
            ((llama.repo, "--place", "layers", "--memory", "two=1MiB", *MEMORY[:2], *MEMORY[4:]), "two: "),
            ((llama.repo, "--place", "files", "--nodes", "one,two", "--want", "three=*"), "three"),
        ):
            with pytest.raises(CommandError) as caught:
                trio[0].json("pull", *arguments)
            print(caught.value.stderr)
            assert words in caught.value.stderr
        assert not moved(tmp_path / "access.log", 0)
        for node in trio:
            assert not list(node.home.rglob("*.exo-dl*"))
    finally:
        shutil.rmtree(folder)


def test_what_has_no_layers_is_said_plainly_and_goes_whole_to_all(
    trio: list[Node], hub: LocalHub, tmp_path: Path
) -> None:
    root = hub.root / "whole"
    made = {"gguf": gguf_model(tmp_path), "odd": {"model.safetensors": save({"a": np.ones(5000, np.uint8)})}}
    made["torch"] = {"pytorch_model.bin": bytes(range(256)) * 40}
    says = {
        "gguf": "GGUF files are moved whole",
        "odd": "No layers are to be seen",
        "torch": "these files are moved whole",
    }
    try:
        for name, files in made.items():
            (root / name).mkdir(parents=True)
            for path, data in files.items():
                (root / name / path).write_bytes(data)
            planned = trio[1].json("plan", f"whole/{name}", "--place", "layers")[-1]
            assert says[name] in " ".join(planned["notes"]), planned["notes"]
            assert "Every node gets all of it" in " ".join(planned["notes"])
            pulled = trio[1].json("pull", f"whole/{name}", "--place", "layers")[-1]
            assert pulled["state"] == "done"
            for node in trio:
                (snapshot,) = (hub_cache(node.home, f"whole/{name}") / "snapshots").iterdir()
                assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == files
        # Parts of a split model to different nodes: by name, whole files each.
        parts = [name for name in made["gguf"] if "-of-" in name]
        wants = ("--want", f"one={parts[0]}", "--want", f"two={parts[1]}", "--want", "two=config.json")
        planned = trio[0].json("plan", "whole/gguf", "--place", "files", *wants)[-1]
        assert {node["name"]: node["bytes"] for node in planned["nodes"]} == {
            "one": len(made["gguf"][parts[0]]),
            "two": len(made["gguf"][parts[1]]) + 2,
            "three": 0,
        }
    finally:
        shutil.rmtree(root)


def gguf_model(folder: Path) -> dict[str, bytes]:
    """A model in one file and the same in two, as the gguf package writes them."""
    for split in (0, 1):
        writer = gguf.GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=split)
        writer.add_block_count(2)
        for name in ("token_embd.weight", "blk.0.attn_q.weight", "blk.1.attn_q.weight", "output_norm.weight"):
            writer.add_tensor(name, np.ones((32, 64), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return {path.name: path.read_bytes() for path in folder.glob("*.gguf")} | {"config.json": b"{}"}
