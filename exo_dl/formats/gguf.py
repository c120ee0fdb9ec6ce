"""Headers of GGUF files, and models that are split over several.

A file is a head (magic, version, counts), key-value pairs, a description of each tensor, and after filling bytes the
tensors, each aligned. Source: the specification in ggml's docs/gguf.md. The header has no length of its own: it is read
from the start until it ends, and most of it are the words of the tokenizer.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Mapping

from exo_dl.errors import FormatError
from exo_dl.formats.tensors import MAX_NAME_BYTES, MAX_TENSORS, FileStructure, ModelStructure, Tensor

__all__ = ["FIRST_READ_BYTES", "MAX_HEADER_BYTES", "TYPES", "NeedMore", "join_splits", "parse_header", "split_of"]

FIRST_READ_BYTES = 1 << 20
# Vocabularies of 256,000 words with their merges make headers of up to 16 MB: this is four times that.
MAX_HEADER_BYTES = 64 << 20
_MAX_PAIRS = 65_536
_MAX_DEPTH = 4
_KEPT_VALUES = 1000
_MAX_ALIGNMENT = 1 << 20
_MAX_DIMENSIONS = 4
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")

# ggml's types: number -> name, values in a block, bytes of a block.
TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip

# Types of values: all but strings (8) and arrays (9) have a fixed form.
_FIXED = {
    number: struct.Struct(f"<{code}")
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_STRING, _ARRAY = 8, 9
_U32, _U64 = _FIXED[4], _FIXED[10]


class NeedMore(Exception):
    """The header goes on. `bytes` is how much of the start of the file to read next, from its first byte on."""

    def __init__(self, count: int) -> None:
        super().__init__(f"The header goes on to at least byte {count}.")
        self.bytes = count


class _Reader:
    """Reads values one after the other, and never past the limits."""

    def __init__(self, data: bytes, file_size: int, file: str) -> None:
        self.data = data
        self.file_size = file_size
        self.file = file
        self.at = 0

    def refuse(self, what: str) -> FormatError:
        return FormatError(f"{self.file!r} cannot be read as GGUF: {what}.")

    def skip(self, count: int) -> int:
        """Steps over ``count`` bytes and gives back where they begin."""
        begin, end = self.at, self.at + count
        if end > self.file_size:
            raise self.refuse(f"its header goes on to byte {end}, past the file's {self.file_size}")
        if end > MAX_HEADER_BYTES:
            raise self.refuse(f"its header is larger than {MAX_HEADER_BYTES} bytes")
        if end > len(self.data):
            most = min(self.file_size, MAX_HEADER_BYTES)
            raise NeedMore(min(max(end, 2 * len(self.data), FIRST_READ_BYTES), most))
        self.at = end
        return begin

    def fixed(self, form: struct.Struct) -> int:
        found: int = form.unpack_from(self.data, self.skip(form.size))[0]
        return found

    def text(self, limit: int) -> str:
        size = self.fixed(_U64)
        begin = self.skip(size)
        if size > limit:
            raise self.refuse(f"a text of {size} bytes stands where at most {limit} may")
        try:
            return self.data[begin : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise self.refuse("a name or a text is not UTF-8") from None

    def value(self, kind: int) -> object:
        """One value; None for arrays that are too long to keep and for texts that no program compares."""
        if kind in _FIXED:
            return self.fixed(_FIXED[kind])
        if kind == _STRING:
            size = self.fixed(_U64)
            begin = self.skip(size)
            return self.data[begin : self.at].decode("utf-8", "replace") if size <= 1 << 16 else None
        if kind == _ARRAY:
            return self.array(1)
        raise self.refuse(f"it has a value of the unknown type {kind}")

    def array(self, depth: int) -> object:
        kind, count = self.fixed(_U32), self.fixed(_U64)
        if kind in _FIXED:
            form = _FIXED[kind]
            begin = self.skip(form.size * count)
            return [
                form.unpack_from(self.data, begin + n * form.size)[0]
                for n in range(count if count <= _KEPT_VALUES else 0)
            ]
        if kind not in (_STRING, _ARRAY):
            raise self.refuse(f"it has an array of the unknown type {kind}")
        if depth >= _MAX_DEPTH:
            raise self.refuse(f"it has arrays in arrays, {depth} deep")
        if count * _U64.size > min(self.file_size, MAX_HEADER_BYTES) - self.at:
            raise self.refuse(f"it has an array of {count} values, more than there is room for")
        for _ in range(count):
            if kind == _STRING:
                self.skip(self.fixed(_U64))
            else:
                self.array(depth + 1)
        return None


def _head(reader: _Reader) -> tuple[int, int]:
    if reader.file_size < 24 or reader.data[:4] != b"GGUF"[: len(reader.data[:4])]:
        raise reader.refuse("it does not begin with the letters GGUF, or is shorter than a header")
    reader.skip(4)
    version = reader.fixed(_U32)
    if version in (2 << 24, 3 << 24):
        raise reader.refuse("it is big-endian")
    if version not in (2, 3):
        raise reader.refuse(f"it is of version {version}; 2 and 3 are read")
    tensors, pairs = reader.fixed(_U64), reader.fixed(_U64)
    if tensors > MAX_TENSORS or pairs > _MAX_PAIRS:
        raise reader.refuse(
            f"it announces {tensors} tensors and {pairs} values; {MAX_TENSORS} and {_MAX_PAIRS} are read"
        )
    return tensors, pairs


def _info(reader: _Reader) -> tuple[str, str, tuple[int, ...], int, int]:
    """Name, type, shape, bytes, and offset from the first tensor."""
    name = reader.text(MAX_NAME_BYTES)
    count = reader.fixed(_U32)
    if count > _MAX_DIMENSIONS:
        raise reader.refuse(f"the tensor {name!r} has {count} dimensions")
    sizes = tuple(reader.fixed(_U64) for _ in range(count))
    kind, offset = reader.fixed(_U32), reader.fixed(_U64)
    if kind not in TYPES:
        raise reader.refuse(f"the tensor {name!r} is of the unknown type {kind}")
    label, block, size = TYPES[kind]
    row = sizes[0] if sizes else 1
    if row % block:
        raise reader.refuse(f"the tensor {name!r} has rows of {row} values, no multiple of the {block} of {label}")
    return name, label, sizes[::-1], math.prod(sizes) // block * size, offset


def parse_header(data: bytes, file_size: int, *, file: str) -> FileStructure:
    """Reads the header of a file.

    Args:
        data: the start of the file; `FIRST_READ_BYTES` is a good beginning.
        file_size: bytes of the whole file.
        file: its path in the repository.

    Raises:
        NeedMore: the header is longer than ``data``; at most `MAX_HEADER_BYTES` are ever asked for.
        FormatError: with what is wrong.
    """
    reader = _Reader(data[:MAX_HEADER_BYTES], file_size, file)
    count, pairs = _head(reader)
    metadata: dict[str, object] = {}
    for _ in range(pairs):
        key = reader.text(1 << 16)
        if key in metadata:
            raise reader.refuse(f"it has the value {key[:200]!r} twice")
        metadata[key] = reader.value(reader.fixed(_U32))
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= _MAX_ALIGNMENT or alignment % 8:
        raise reader.refuse(f"its alignment is {str(alignment)[:40]}")
    infos = [_info(reader) for _ in range(count)]
    start = -(-reader.at // alignment) * alignment
    tensors: list[Tensor] = []
    names: set[str] = set()
    at = 0
    for name, label, shape, size, offset in infos:
        if not name or name in names:
            raise reader.refuse(f"it names a tensor {name!r} twice or not at all")
        names.add(name)
        if offset != at:
            raise reader.refuse(f"the tensor {name!r} lies at {offset} and not at {at}, over another or after a hole")
        if start + offset + size > file_size:
            raise reader.refuse(
                f"the tensor {name!r} ends at {start + offset + size}, past the file's {file_size} bytes"
            )
        tensors.append(Tensor(name, label, shape, file, start + offset, start + offset + size))
        at = -(-(offset + size) // alignment) * alignment
    kept = {key: value for key, value in metadata.items() if value is not None}
    return FileStructure(file, min(start, file_size), tuple(tensors), kept)


def split_of(path: str) -> tuple[str, int, int] | None:
    """The stem, number and count of ``model-00001-of-00003.gguf`` (numbers from 1); None for other names."""
    found = _SPLIT.fullmatch(path)
    if found is None or not 1 <= int(found["number"]) <= int(found["count"]):
        return None
    return found["stem"], int(found["number"]), int(found["count"])


def join_splits(files: Iterable[FileStructure]) -> ModelStructure:
    """One model of the headers of all its files: a single one, or all parts of a split one.

    Raises:
        FormatError: a part is missing, belongs to another split, or the parts do not hold the tensors they promise.
    """
    parts = {file.file: file for file in files}
    counts = {file.metadata.get("split.count", 1) or 1 for file in parts.values()}
    if counts != {len(parts)}:
        raise FormatError(
            f"A split GGUF model has parts that speak of {sorted(map(str, counts))}; {len(parts)} are there."
        )
    if len(parts) > 1:
        stems = set()
        for path, file in parts.items():
            named, number = split_of(path), file.metadata.get("split.no")
            if named is None or not isinstance(number, int) or named[1:] != (number + 1, len(parts)):
                raise FormatError(f"{path!r} does not hold the part of the split GGUF model that its name says.")
            stems.add(named[0])
        if len(stems) != 1:
            raise FormatError(f"The files {', '.join(sorted(parts))} are parts of different models.")
        total = sum(len(file.tensors) for file in parts.values())
        promised = {file.metadata.get("split.tensors.count", total) for file in parts.values()}
        if promised != {total}:
            raise FormatError(f"A split GGUF model promises {sorted(map(str, promised))} tensors and has {total}.")
    return ModelStructure(parts, "gguf")
