"""``make loaders``: a small Llama divided over three nodes, and its parts loaded by transformers and MLX."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench.cluster import Node, wait_linked
from bench.hub import LocalHub
from bench.models import describe_model
from bench.parts import check_parts, parts_folder
from bench.repos import DigestCache, load_repo
from exo_dl.net.identity import new_secret

__all__ = ["main"]

REPO = "lab/llama"
MEMORY = {"n1": "8GiB", "n2": "16GiB", "n3": "24GiB"}


def main() -> int:
    """Takes the Python that has torch, transformers and mlx as its one argument."""
    (python,) = sys.argv[1:]
    loading = [python, str(Path(__file__).parent / "loading.py")]
    with tempfile.TemporaryDirectory(prefix="exo-dl-loaders-") as scratch:
        root = Path(scratch) / "hub"
        subprocess.run([*loading, "make", str(root / REPO)], check=True)
        loaded = load_repo(root, "model", REPO, DigestCache(root))
        files = {f.path: {"size": f.size, "etag": f.etag, "sha256": f.sha256} for f in loaded.files.values()}
        model = describe_model(root, REPO, {"commit": loaded.commit, "folder": str(root / REPO), "files": files})
        secret = new_secret()
        with LocalHub(root) as hub:
            nodes = [Node(name, Path(scratch) / name, secret=secret, endpoint=hub.url) for name in MEMORY]
            try:
                for node in nodes:
                    node.start()
                for node in nodes:
                    node.wait_ready()
                wait_linked(nodes)
                memory = [word for name, size in MEMORY.items() for word in ("--memory", f"{name}={size}")]
                nodes[0].json("pull", REPO, "--place", "layers", *memory)
                check_parts(nodes, model)
            finally:
                for node in nodes:
                    node.kill()
        parts = [str(parts_folder(node, model)) for node in nodes]
        return subprocess.run([*loading, "check", str(model.folder), *parts], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
