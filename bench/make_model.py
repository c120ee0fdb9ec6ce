"""Makes a synthetic model: shards of safetensors with valid headers and random bytes, and small files of all kinds.

python bench/make_model.py --root DIR --repo demo/tiny --total-mib 256 --shards 4
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.repos import DigestCache, load_repo, repo_folder

__all__ = ["make_model"]

_BLOCK_BYTES = 1 << 20
_BYTES_PER_ELEMENT = 2
_MADE_BY = "made by bench/make_model.py"
_Tensor = tuple[str, list[int]]


def make_model(
    root: Path, repo: str, *, total_mib: int, shards: int = 4, small_files: int = 16, seed: int = 1
) -> dict[str, Any]:
    """Writes ``<root>/<repo>/``; the same arguments give the same bytes and so the same commit.

    Args:
        root: folder that a hub serves (`bench.hub`).
        repo: "org/name".
        total_mib: MiB of weights, all shards together (within 1 %, rather below); >= 1.
        shards: number of safetensors files; with 1 there is no index.
        small_files: number of files of up to 64 KiB in the folder ``extra``.
        seed: of the random bytes.

    Returns:
        ``commit``, ``folder``, ``total_bytes`` and ``files``: path -> ``size``, ``etag``, ``sha256`` ("" where the file
        is no LFS file).

    Raises:
        FileExistsError: the folder is there and was not made by this function. One that was is made anew.
    """
    if total_mib < 1 or not 1 <= shards <= 999 or small_files < 0:
        raise ValueError("total_mib and shards are at least 1, small_files at least 0")
    folder = repo_folder(root, "model", repo)
    readme = folder / "README.md"
    if readme.is_file() and _MADE_BY in readme.read_text():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    cache = DigestCache(root)
    noise = random.Random(seed)
    tensors, config = _tensors(total_mib << 20, shards)
    parts = _split(tensors, shards)
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors"
        _write_shard(folder / name, part, noise, cache)
        weight_map |= {tensor: name for tensor, _ in part}
    texts: dict[str, object] = _texts(repo, config)
    if shards > 1:
        total = sum(_bytes_of(shape) for _, shape in tensors)
        texts["model.safetensors.index.json"] = {"metadata": {"total_size": total}, "weight_map": weight_map}
    for name, content in texts.items():
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        _write(folder / name, text.encode())
    _write(folder / "one byte.bin", noise.randbytes(1))
    for number in range(small_files):
        _write(folder / "extra" / f"part-{number:04}.dat", noise.randbytes(noise.randint(1, 65536)))
    loaded = load_repo(root, "model", repo, cache)
    cache.save()
    files = {file.path: {"size": file.size, "etag": file.etag, "sha256": file.sha256} for file in loaded.files.values()}
    total_bytes = sum(file.size for file in loaded.files.values())
    return {"commit": loaded.commit, "folder": str(folder), "total_bytes": total_bytes, "files": files}


def _bytes_of(shape: list[int]) -> int:
    count = _BYTES_PER_ELEMENT
    for size in shape:
        count *= size
    return count


def _tensors(budget_bytes: int, shards: int) -> tuple[list[_Tensor], dict[str, int]]:
    """Names and shapes of a small Llama that fills the budget."""
    layers = max(4, 2 * shards)
    elements = budget_bytes // _BYTES_PER_ELEMENT
    hidden = max(8, int((elements * 0.9 / layers / 13) ** 0.5) // 8 * 8)
    wide = 3 * hidden
    block: list[_Tensor] = [
        ("input_layernorm.weight", [hidden]),
        ("self_attn.q_proj.weight", [hidden, hidden]),
        ("self_attn.k_proj.weight", [hidden, hidden]),
        ("self_attn.v_proj.weight", [hidden, hidden]),
        ("self_attn.o_proj.weight", [hidden, hidden]),
        ("post_attention_layernorm.weight", [hidden]),
        ("mlp.gate_proj.weight", [wide, hidden]),
        ("mlp.up_proj.weight", [wide, hidden]),
        ("mlp.down_proj.weight", [hidden, wide]),
    ]
    blocks = [(f"model.layers.{n}.{name}", shape) for n in range(layers) for name, shape in block]
    used = sum(_bytes_of(shape) for _, shape in blocks) // _BYTES_PER_ELEMENT + hidden
    vocabulary = max(8, (elements - used) // (2 * hidden))
    tensors = [
        ("model.embed_tokens.weight", [vocabulary, hidden]),
        *blocks,
        ("model.norm.weight", [hidden]),
        ("lm_head.weight", [vocabulary, hidden]),
    ]
    config = {
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "vocab_size": vocabulary,
    }
    return tensors, config


def _split(tensors: list[_Tensor], shards: int) -> list[list[_Tensor]]:
    """Neighbouring tensors in ``shards`` parts of about the same size, none of them empty."""
    total = sum(_bytes_of(shape) for _, shape in tensors)
    parts: list[list[_Tensor]] = [[] for _ in range(shards)]
    before = 0
    for index, (name, shape) in enumerate(tensors):
        part = min(shards - 1, before * shards // total, index)
        part = max(part, shards - (len(tensors) - index))
        parts[part].append((name, shape))
        before += _bytes_of(shape)
    return [part for part in parts if part]


def _write_shard(path: Path, tensors: list[_Tensor], noise: random.Random, cache: DigestCache) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in tensors:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + _bytes_of(shape)]}
        at += _bytes_of(shape)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = struct.pack("<Q", len(text)) + text
    sha1 = hashlib.sha1(b"blob %d\0" % (len(head) + at), usedforsecurity=False)
    sha256 = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for block in (head, *_noise(noise, at)):
            view = memoryview(block)
            while view:
                view = view[file.write(view) :]
            sha1.update(block)
            sha256.update(block)
    cache.put(path, sha1.hexdigest(), sha256.hexdigest())


def _noise(noise: random.Random, size: int) -> Iterator[bytes]:
    while size:
        block = noise.randbytes(min(size, _BLOCK_BYTES))
        size -= len(block)
        yield block


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _texts(repo: str, config: dict[str, int]) -> dict[str, object]:
    words = {f"word{number}": number for number in range(min(2000, config["vocab_size"]))}
    return {
        ".gitattributes": "".join(f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in ("safetensors", "bin")),
        "README.md": f"# {repo}\n\nRandom bytes in the form of a model, {_MADE_BY}.\n",
        "config.json": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"}
        | config,
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2},
        "tokenizer.json": {"version": "1.0", "model": {"type": "WordLevel", "vocab": words, "unk_token": "word0"}},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
        "special_tokens_map.json": {"unk_token": "word0"},
        "assets/notes on Größe und Maß, 重み.txt": "A name with spaces and letters beyond ASCII.\n",
        "assets/empty.txt": "",
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Makes a synthetic model folder for a local hub.")
    parser.add_argument("--root", type=Path, required=True, help="folder that the hub serves")
    parser.add_argument("--repo", default="demo/tiny-llama", help="org/name (default: %(default)s)")
    parser.add_argument("--total-mib", type=int, default=256, help="MiB of weights (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=4, help="safetensors files (default: %(default)s)")
    parser.add_argument("--small-files", type=int, default=16, help="small files beside them (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the random bytes (default: %(default)s)")
    given = vars(parser.parse_args())
    made = make_model(given.pop("root"), given.pop("repo"), **given)
    print(json.dumps({key: value for key, value in made.items() if key != "files"} | {"files": len(made["files"])}))


if __name__ == "__main__":
    main()
