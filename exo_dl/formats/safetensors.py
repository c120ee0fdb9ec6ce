"""Headers of safetensors files, and the index of a model that is spread over several.

A file is 8 bytes (the length of the header, little-endian), the header (JSON: name -> dtype, shape and offsets from
the end of the header), then the tensors without a gap. Checked as the format's own reader does: every byte after the
header belongs to one tensor. Source: https://huggingface.co/docs/safetensors (format); the dtypes are those of its 0.8.
"""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exo_dl.core.paths import check_path
from exo_dl.errors import FormatError, UsageError
from exo_dl.formats.tensors import MAX_NAME_BYTES, MAX_TENSORS, FileStructure, Tensor

__all__ = [
    "DTYPE_BITS",
    "LENGTH_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_INDEX_BYTES",
    "IndexFile",
    "build_header",
    "build_index",
    "header_size",
    "parse_header",
    "parse_index",
]

LENGTH_BYTES = 8
# The format allows 100 MB. A tensor takes about 150 bytes, so this is room for MAX_TENSORS of them.
MAX_HEADER_BYTES = 32 << 20
MAX_INDEX_BYTES = 32 << 20
_MAX_RANK = 64
_MAX_COMMAS = 10 * MAX_TENSORS  # an entry has about six

DTYPE_BITS: Mapping[str, int] = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class IndexFile:
    """A ``*.safetensors.index.json``.

    Attributes:
        metadata: as it stands there (``total_size`` in most).
        weight_map: tensor name -> path of its file in the repository (the index itself names it from its own folder).
    """

    metadata: Mapping[str, object]
    weight_map: Mapping[str, str]


def header_size(first8: bytes, file_size: int, *, file: str) -> int:
    """Bytes from the start of the file to its first tensor, of its first eight bytes.

    Raises:
        FormatError: the header would be larger than the file or than `MAX_HEADER_BYTES`.
    """
    if file_size < LENGTH_BYTES + 2 or len(first8) < LENGTH_BYTES:
        raise FormatError(f"{file!r} is no safetensors file: it has {file_size} bytes.")
    length = int.from_bytes(first8[:LENGTH_BYTES], "little")
    if length > file_size - LENGTH_BYTES:
        raise FormatError(f"{file!r} announces a header of {length} bytes, more than the file's {file_size}.")
    if not 2 <= length <= MAX_HEADER_BYTES - LENGTH_BYTES:
        raise FormatError(f"{file!r} announces a header of {length} bytes; between 2 and {MAX_HEADER_BYTES} are read.")
    return LENGTH_BYTES + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names: set[str] = set()
        twice = next(name for name, _ in pairs if name in names or names.add(name))  # type: ignore[func-returns-value]
        raise FormatError(f"it names {twice[:200]!r} twice")
    return found


def _refuse_constant(text: str) -> None:
    raise FormatError(f"it holds {text}")


def _json_object(data: bytes, *, file: str) -> dict[str, Any]:
    """Reads JSON from outside, with bounds on what it may become in memory before anything is made of it."""
    try:
        if data.count(b",") > _MAX_COMMAS or data.count(b"{") > 2 * MAX_TENSORS or data.count(b"[") > 3 * MAX_TENSORS:
            raise FormatError(f"it has more entries than {MAX_TENSORS} tensors need")
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise FormatError(f"{file!r} cannot be read: it is nested too deep.") from None
    except UnicodeDecodeError:
        raise FormatError(f"{file!r} cannot be read: it is not UTF-8.") from None
    except (ValueError, FormatError) as error:
        raise FormatError(f"{file!r} cannot be read: {error}.") from None
    if not isinstance(found, dict):
        raise FormatError(f"{file!r} cannot be read: it holds no JSON object.")
    return found


def _check_name(name: str, *, file: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise FormatError(f"{file!r} names a tensor {name[:200]!r}, which is no valid Unicode.") from None
    if not 0 < size <= MAX_NAME_BYTES:
        raise FormatError(f"{file!r} names a tensor with {size} bytes; 1 to {MAX_NAME_BYTES} are read.")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _tensor(name: str, entry: object, *, file: str, header: int, data_bytes: int) -> Tensor:
    _check_name(name, file=file)
    about = f"The tensor {name!r} in {file!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{about} is not described by dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise FormatError(f"{about} has the unknown dtype {str(dtype)[:40]!r}.")
    if not isinstance(shape, list) or len(shape) > _MAX_RANK or not all(map(_is_count, shape)):
        raise FormatError(f"{about} has no shape of at most {_MAX_RANK} sizes.")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise FormatError(f"{about} has no two offsets.")
    begin, end = offsets
    if not begin <= end <= data_bytes:
        raise FormatError(f"{about} lies at {begin}..{end}, outside of the file's {data_bytes} bytes of tensors.")
    if math.prod(shape) * bits != 8 * (end - begin):
        raise FormatError(f"{about} has {end - begin} bytes, which is not the size of {dtype} {shape}.")
    return Tensor(name, dtype, tuple(shape), file, header + begin, header + end)


def parse_header(data: bytes, file_size: int, *, file: str) -> FileStructure:
    """Reads the header of a file.

    Args:
        data: the file from its first byte on, at least `header_size` of it.
        file_size: bytes of the whole file.
        file: its path in the repository.

    Raises:
        FormatError: with what is wrong: not JSON, unknown dtypes, sizes that contradict each other, tensors outside of
            the file, over each other, or with bytes between them that belong to none.
    """
    header = header_size(data[:LENGTH_BYTES], file_size, file=file)
    if len(data) < header:
        raise FormatError(f"Only {len(data)} bytes of the {header} bytes of the header of {file!r} were read.")
    if data[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        raise FormatError(f"{file!r} is no safetensors file: its header does not begin with '{{'.")
    entries = _json_object(data[LENGTH_BYTES:header], file=file)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"The __metadata__ of {file!r} is not a map of strings.")
    if len(entries) > MAX_TENSORS:
        raise FormatError(f"{file!r} has more than {MAX_TENSORS} tensors.")
    tensors = [
        _tensor(name, entry, file=file, header=header, data_bytes=file_size - header) for name, entry in entries.items()
    ]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end, tensor.name))
    at = header
    for tensor in tensors:
        if tensor.begin != at:
            how = "over another tensor" if tensor.begin < at else "after a hole"
            raise FormatError(f"The tensor {tensor.name!r} in {file!r} lies {how}: at {tensor.begin}, not at {at}.")
        at = tensor.end
    if at != file_size:
        raise FormatError(f"{file!r} has {file_size - at} bytes after its last tensor.")
    return FileStructure(file, header, tuple(tensors), metadata)


def build_header(tensors_in_order: Iterable[Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The start of a file that holds these tensors one after the other, in this order, whatever their present offsets.

    Returns:
        The length and the header, filled up with spaces to a multiple of 8 bytes; the first tensor's bytes follow.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for tensor in tensors_in_order:
        if tensor.name in entries:
            raise FormatError(f"The tensor {tensor.name!r} would be written twice.")
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.size],
        }
        at += tensor.size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def parse_index(data: bytes, *, file: str, files: Collection[str]) -> IndexFile:
    """Reads a ``*.safetensors.index.json``.

    Args:
        data: the whole file.
        file: its path in the repository.
        files: the paths of all files of the repository.

    Raises:
        FormatError: with what is wrong: not JSON, no ``weight_map``, a file that is missing or outside of its folder.
    """
    if len(data) > MAX_INDEX_BYTES:
        raise FormatError(f"{file!r} has {len(data)} bytes; at most {MAX_INDEX_BYTES} are read.")
    found = _json_object(data, file=file)
    names, metadata = found.get("weight_map"), found.get("metadata", {})
    if not isinstance(names, dict) or not names or not isinstance(metadata, dict):
        raise FormatError(f"{file!r} has no weight_map, or a metadata that is no map.")
    folder = posixpath.dirname(file)
    known = set(files)
    paths: dict[object, str] = {}
    for target in {target if isinstance(target, str) else None for target in names.values()}:
        if target is None:
            raise FormatError(f"{file!r} maps a tensor to something that is no file name.")
        try:
            paths[target] = posixpath.join(folder, check_path(target))
        except UsageError as error:
            raise FormatError(f"{file!r} names a file outside of its folder: {error}") from None
        if paths[target] not in known:
            raise FormatError(f"{file!r} names the file {target!r}, which the repository does not have.")
    for name in names:
        _check_name(name, file=file)
    return IndexFile(metadata, {name: paths[target] for name, target in names.items()})


def build_index(weight_map: Mapping[str, str], total_size: int) -> bytes:
    """The bytes of an index.

    Args:
        weight_map: tensor name -> file name as seen from the index's folder.
        total_size: bytes of all tensors.
    """
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"
