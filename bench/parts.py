"""What the nodes' folders of a divided model hold, and that together they are the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from bench.cluster import Node
from bench.models import CopyError, LabModel

__all__ = ["check_parts", "parts_folder", "raw_tensors"]


def parts_folder(node: Node, model: LabModel) -> Path:
    """The folder of a node's part of a model, in its Hugging Face cache."""
    base = node.home / "hub" / "exo-dl" / f"models--{model.repo.replace('/', '--')}" / model.commit
    (folder,) = base.iterdir()
    return folder


def raw_tensors(folder: Path) -> dict[str, str]:
    """Digest of the type, shape and bytes of each tensor: read as the format says, for numpy has no BF16."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as opened:
            names = set(opened.keys())
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8:start])
        header.pop("__metadata__", None)
        if set(header) != names or names & set(found):
            raise CopyError(f"{path} has other tensors than its header says, or those of another file")
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            digest = hashlib.sha256(f"{entry['dtype']} {entry['shape']} ".encode())
            digest.update(memoryview(data)[start + begin : start + end])
            found[name] = digest.hexdigest()
    return found


def check_parts(nodes: Iterable[Node], model: LabModel, *, twice: Iterable[str] = ()) -> Mapping[str, int]:
    """Each node has a valid folder; together they are the model, and no tensor but ``twice`` is in two of them.

    Returns:
        The number of tensors that each node has, by its name.

    Raises:
        CopyError: with what is not so.
    """
    together: dict[str, str] = {}
    counts = {}
    for node in nodes:
        folder = parts_folder(node, model)
        held = raw_tensors(folder)
        index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        if set(index) != set(held):
            raise CopyError(f"the index in {folder} names other tensors than there are")
        if both := set(held) & set(together) - set(twice):
            raise CopyError(f"{node.name} has {min(both)} as well as another node")
        together |= held
        counts[node.name] = len(held)
    if together != raw_tensors(model.folder):
        raise CopyError("the nodes' tensors put together are not the model's")
    return counts
