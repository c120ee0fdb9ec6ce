"""Headers of files that hold tensors of given names and shapes."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping

from exo_dl.formats.gguf import NeedMore, parse_header
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


def file_of(header: object, data: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def entry(begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def gguf_header(*, tensors: int = 0, pairs: int = 0, version: int = 3, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + body


def gguf_text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def gguf_info(name: str | bytes, sizes: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return gguf_text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def read_gguf(data: bytes, *, first: int = 24, file: str = "m.gguf") -> tuple[FileStructure, int]:
    """The header, read as a program does that has the file at a hub; and how often it had to ask."""
    size = first
    for asked in range(40):
        try:
            return parse_header(data[:size], len(data), file=file), asked
        except NeedMore as more:
            assert size < more.bytes <= len(data)
            size = more.bytes
    raise AssertionError("it never has enough")
