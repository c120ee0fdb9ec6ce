"""The models that labs and benches pull, and the checks that a copy is what the hub has."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cluster import Node, hub_cache
from bench.make_model import make_model

__all__ = ["CopyError", "LabModel", "check_copy", "describe_model", "make_lab_model", "open_offline"]

REPO = "lab/model"
SHARDS = 3
_MIB = 1 << 20

# Any program that loads a model does this; it knows nothing of exo-dl.
_OPEN_OFFLINE = """
import json, sys
from pathlib import Path
from huggingface_hub import snapshot_download
from safetensors import safe_open

folder = Path(snapshot_download(sys.argv[1]))
tensors = {}
for path in sorted(folder.rglob("*.safetensors")):
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():
            tensors[name] = file.get_slice(name).get_shape()
print(json.dumps(tensors))
"""


class CopyError(Exception):
    """A node's copy of a model is not what the hub has; the text names the file."""


@dataclass(frozen=True, slots=True)
class LabModel:
    """A model on a hub's disk.

    Attributes:
        root: the folder that a hub serves.
        folder: the model's files.
        size_bytes: bytes of its contents, each content once.
        digests: path -> sha256 in hex.
        etags: path -> the hub's digest in hex (git sha1 for small files).
    """

    root: Path
    repo: str
    commit: str
    folder: Path
    size_bytes: int
    digests: dict[str, str] = field(repr=False)
    etags: dict[str, str] = field(repr=False)

    def check_folder(self, folder: Path) -> None:
        """Compares a folder with the model.

        Raises:
            CopyError: a file is missing, or differs; the text names it.
        """
        for path, digest in self.digests.items():
            copy = folder / path
            _require(copy.is_file(), f"{copy} is missing")
            _require(_sha256(copy) == digest, f"{copy} differs from the hub's")

    @property
    def tensors(self) -> dict[str, list[int]]:
        """Names and shapes of all tensors, read from the files on the hub's disk."""
        found: dict[str, list[int]] = {}
        for path in sorted(self.folder.rglob("*.safetensors")):
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            found |= {name: value["shape"] for name, value in header.items() if name != "__metadata__"}
        return found


def make_lab_model(root: Path, *, size_bytes: int) -> LabModel:
    """Makes a model of about ``size_bytes`` in three shards and small files of all kinds, as REPO on a hub's disk."""
    return describe_model(root, REPO, make_model(root, REPO, total_mib=max(1, size_bytes // _MIB), shards=SHARDS))


def describe_model(root: Path, repo: str, made: dict[str, Any]) -> LabModel:
    """A `LabModel` from what `make_model` says of a folder."""
    folder = Path(str(made["folder"]))
    files: dict[str, dict[str, Any]] = made["files"]
    sizes = {str(item["etag"]): int(item["size"]) for item in files.values()}
    return LabModel(
        root=root,
        repo=repo,
        commit=str(made["commit"]),
        folder=folder,
        size_bytes=sum(sizes.values()),
        digests={str(path): str(item["sha256"]) or _sha256(folder / path) for path, item in files.items()},
        etags={str(path): str(item["etag"]) for path, item in files.items()},
    )


def check_copy(model: LabModel, home: Path) -> None:
    """Reads the copy in the Hugging Face cache of ``HF_HOME`` ``home``, and compares every file with the hub's.

    Raises:
        CopyError: something is missing, differs, or was left behind; the text names it.
    """
    cache = hub_cache(home, model.repo)
    reference = cache / "refs" / "main"
    _require(reference.is_file(), f"{reference} is missing")
    _require(reference.read_bytes() == model.commit.encode(), f"{reference} names another commit")
    tree = cache / "trees" / f"{model.commit}.json"
    _require(tree.is_file(), f"{tree} is missing: the snapshot may be partial")
    snapshot = cache / "snapshots" / model.commit
    model.check_folder(snapshot)
    for path, etag in model.etags.items():
        blob = cache / "blobs" / etag
        _require((snapshot / path).resolve() == blob.resolve(), f"{snapshot / path} is no link to {blob}")
    left = sorted(str(path.relative_to(cache)) for path in cache.rglob("*.exo-dl*"))
    _require(not left, f"left behind in {cache}: {left}")


def open_offline(node: Node, model: LabModel) -> dict[str, list[int]]:
    """Opens the model with huggingface_hub and safetensors on ``node``, offline; names and shapes of the tensors."""
    out = node.run([sys.executable, "-c", _OPEN_OFFLINE, model.repo], env={"HF_HUB_OFFLINE": "1"})
    return {str(name): list(shape) for name, shape in json.loads(out).items()}


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise CopyError(problem)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
