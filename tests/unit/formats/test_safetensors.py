from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load, save

from exo_dl.errors import FormatError
from exo_dl.formats.safetensors import (
    MAX_HEADER_BYTES,
    build_header,
    build_index,
    header_size,
    parse_header,
    parse_index,
)
from tests.unit.formats.headers import entry, file_of


def test_what_the_library_writes_is_read_and_what_is_built_is_read_by_the_library() -> None:
    arrays = {
        "b": np.arange(12, dtype=np.float32).reshape(3, 4),
        "a": np.arange(5, dtype=np.int8),
        "none": np.zeros((0, 7), np.float16),
        "one": np.array(3.5),
    }
    data = save(arrays, metadata={"format": "pt"})
    found = parse_header(data, len(data), file="m.safetensors")
    assert found.metadata == {"format": "pt"}
    assert found.header_bytes == header_size(data[:8], len(data), file="m.safetensors")
    for tensor in found.tensors:
        assert data[tensor.begin : tensor.end] == arrays[tensor.name].tobytes()
        assert tensor.shape == arrays[tensor.name].shape
    kept = [tensor for tensor in reversed(found.tensors) if tensor.name != "b"]
    header = build_header(kept, {"format": "pt"})
    assert len(header) % 8 == 0
    again = load(header + b"".join(data[tensor.begin : tensor.end] for tensor in kept))
    assert again.keys() == {"a", "none", "one"}
    assert all(np.array_equal(again[name], arrays[name]) for name in again)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 bytes"),
        (bytes(20), "header of 0 bytes"),
        ((2 << 30).to_bytes(8, "little") + bytes(100), "more than the file"),
        (file_of(b'{"a":1'), "cannot be read"),
        (file_of(b"[1,2]"), "does not begin"),
        (file_of(b'{"a":"\xff"}'), "not UTF-8"),
        (file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "nested too deep"),
        (file_of(b'{"a":' + b"[" * 700_000 + b"]" * 700_000 + b"}"), "more entries"),
        (file_of(b'{"a":NaN}'), "NaN"),
        (file_of(b'{"a":' + b"9" * 5000 + b"}"), "cannot be read"),
        (file_of(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":1}', 1), "'a' twice"),
        (file_of(b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1), "'dtype' twice"),
        (file_of(b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1), "no valid Unicode"),
        (file_of({"a" * 600: entry(0, 1)}, 1), "600 bytes"),
        (file_of({"a": entry(0, 1, "Q9")}, 1), "unknown dtype 'Q9'"),
        (file_of({"a": entry(0, 1) | {"more": 1}}, 1), "not described by"),
        (file_of({"a": entry(0, 4, "F32", [2])}, 4), "not the size of F32"),
        (file_of({"a": entry(0, 4, "F32", [True])}, 4), "no shape"),
        (file_of({"a": entry(0, 4, "F32", [-1])}, 4), "no shape"),
        (file_of({"a": entry(0, 0, "U8", [1 << 62] * 60)}, 0), "not the size"),
        (file_of({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1.0]}}, 1), "no two offsets"),
        (file_of({"a": entry(0, 9)}, 4), "outside of the file"),
        (file_of({"a": entry(0, 4), "b": entry(2, 4)}, 4), "over another tensor"),
        (file_of({"a": entry(0, 2), "b": entry(3, 4)}, 4), "after a hole"),
        (file_of({"a": entry(0, 2)}, 4), "2 bytes after"),
        (file_of({"__metadata__": {"a": 1}}), "not a map of strings"),
    ],
)
def test_a_header_that_lies_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        parse_header(data, len(data), file="m.safetensors")


def test_a_header_above_the_limit_is_refused_by_its_first_eight_bytes() -> None:
    with pytest.raises(FormatError, match="announces"):
        header_size((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), 1 << 40, file="m")
    with pytest.raises(FormatError, match="Only 20 bytes"):
        parse_header((100).to_bytes(8, "little") + bytes(12), 1000, file="m")


def test_an_index_is_read_and_its_files_are_paths_in_the_repository() -> None:
    data = build_index({"b": "x-00002-of-00002.safetensors", "a": "x-00001-of-00002.safetensors"}, 12)
    files = {f"unet/x-0000{n}-of-00002.safetensors" for n in (1, 2)}
    found = parse_index(data, file="unet/x.safetensors.index.json", files=files)
    assert found.metadata == {"total_size": 12}
    assert found.weight_map == {"a": min(files), "b": max(files)}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{}", "no weight_map"),
        (b"[]", "no JSON object"),
        (b'{"weight_map": {"a": 3}}', "no file name"),
        (b'{"weight_map": {"a": "gone.safetensors"}}', "does not have"),
        (b'{"weight_map": {"a": "../m.safetensors"}}', "outside of its folder"),
        (b'{"weight_map": {"a": "/etc/passwd"}}', "outside of its folder"),
        (b'{"weight_map": {"a": "m", "a": "m"}}', "'a' twice"),
    ],
)
def test_a_bad_index_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        parse_index(data, file="m.safetensors.index.json", files={"m", "m.safetensors"})
