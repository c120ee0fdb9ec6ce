"""A small model in the form of a Llama, for tests that divide it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from bench.models import LabModel, describe_model
from bench.repos import DigestCache, load_repo

LAYERS = 6
MEMORY = ("--memory", "one=1GiB", "--memory", "two=2GiB", "--memory", "three=3GiB")


def make_llama(root: Path, name: str = "llama", *, shards: int = 2) -> LabModel:
    """A model of six layers in one shard or two, with names and an order as Llama checkpoints have them."""
    folder = root / "lab" / name
    folder.mkdir()
    noise = np.random.default_rng(7)

    def weights(*shape: int) -> Any:
        return noise.integers(0, 1 << 16, shape, dtype=np.uint16).view(np.float16)

    tensors = {"model.embed_tokens.weight": weights(1024, 512), "lm_head.weight": weights(1024, 512)}
    for layer in range(LAYERS):
        tensors[f"model.layers.{layer}.self_attn.q_proj.weight"] = weights(1024, 512)
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = weights(1024, 1024)
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = weights(512)
    tensors["model.norm.weight"] = weights(512)
    names = sorted(tensors)
    weight_map = {}
    half = len(names) // 2
    for number, part in enumerate((names[:half], names[half:]) if shards == 2 else (names,), 1):
        file = f"model-0000{number}-of-00002.safetensors" if shards == 2 else "model.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    if shards == 2:
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": LAYERS}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    return described(root, f"lab/{name}")


def described(root: Path, repo: str) -> LabModel:
    loaded = load_repo(root, "model", repo, DigestCache(root))
    files = {f.path: {"size": f.size, "etag": f.etag, "sha256": f.sha256} for f in loaded.files.values()}
    return describe_model(root, repo, {"commit": loaded.commit, "folder": str(root / repo), "files": files})


def state_dict(folder: Path) -> dict[str, bytes]:
    """Names and bytes of all tensors of a folder, as the safetensors package reads them."""
    return {name: tensor.tobytes() for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
