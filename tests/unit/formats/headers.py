"""Headers of files that hold tensors of given names and shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from exo_dl.formats.safetensors import DTYPE_BITS
from exo_dl.formats.tensors import FileStructure, ModelStructure, Tensor

Shapes = dict[str, tuple[int, ...]]

_HEADER_BYTES = 4096


def _file(name: str, shapes: Mapping[str, tuple[int, ...]], names: Iterable[str], dtype: str) -> FileStructure:
    tensors, at = [], _HEADER_BYTES
    for tensor in names:
        kind = _fp8_dtype(tensor) if dtype == "FP8" else dtype
        size = math.prod(shapes[tensor]) * DTYPE_BITS[kind] // 8
        tensors.append(Tensor(tensor, kind, shapes[tensor], name, at, at + size))
        at += size
    return FileStructure(name, _HEADER_BYTES, tuple(tensors))


def structure(shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16") -> ModelStructure:
    """One file with these tensors, in the order of their names, as published files have them."""
    file = _file("model.safetensors", shapes, sorted(shapes), dtype)
    return ModelStructure({file.file: file}, "safetensors")


def _fp8_dtype(name: str) -> str:
    """As DeepSeek's FP8 checkpoints have it: a block of weights has a scale, and what has none is kept in BF16."""
    if name.endswith(("_scale_inv", "e_score_correction_bias")):
        return "F32"
    return "F8_E4M3" if re.search(r"(_proj|_proj_with_mqa)\.weight$", name) and "eh_proj" not in name else "BF16"


def sharded(shapes: Mapping[str, tuple[int, ...]], shards: int, dtype: str = "BF16") -> ModelStructure:
    """Files of about the same size, filled layer by layer; in each the widest types first, then by name."""

    def bits(name: str) -> int:
        return DTYPE_BITS[_fp8_dtype(name) if dtype == "FP8" else dtype]

    def place(name: str) -> tuple[int, str]:
        number = re.search(r"\.(\d+)\.", name)
        return (int(number[1]) if number else (-1 if "embed" in name else 1 << 20)), name

    total = sum(math.prod(shape) * bits(name) for name, shape in shapes.items())
    parts: list[list[str]] = [[] for _ in range(shards)]
    before = 0
    for name in sorted(shapes, key=place):
        parts[before * shards // total].append(name)
        before += math.prod(shapes[name]) * bits(name)
    files = {}
    for number, names in enumerate(parts, 1):
        path = f"model-{number:05d}-of-{shards:06d}.safetensors"
        files[path] = _file(path, shapes, sorted(names, key=lambda name: (-bits(name), name)), dtype)
    return ModelStructure(files, "safetensors")


def pair(name: str, *shape: int) -> Shapes:
    """A weight and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
