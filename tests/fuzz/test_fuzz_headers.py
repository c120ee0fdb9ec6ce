"""Any bytes for headers of safetensors and GGUF files, and for indexes: read as they are meant, or refused."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exo_dl.errors import FormatError
from exo_dl.formats.safetensors import parse_header, parse_index
from tests.unit.formats.headers import entry, file_of, gguf_header, gguf_info, gguf_text, read_gguf

long = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
pytestmark = pytest.mark.timeout(0)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F32", "F4", "X"]) | VALUES,
        "shape": st.lists(st.integers(-1, 9), max_size=3) | VALUES,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | VALUES,
    }
)


GOOD = [
    file_of({"a": entry(0, 8, "F32", [2]), "b": entry(8, 11), "__metadata__": {"format": "pt"}}, 11),
    file_of({"layers.0.w": entry(0, 0, "F16", [0, 3]), "x": entry(0, 2, "F4", [4])}, 2),
]


@long
@given(
    st.sampled_from(GOOD)
    | st.dictionaries(st.text(max_size=6), ENTRIES | VALUES, max_size=4).map(file_of)
    | st.binary(max_size=64),
    st.data(),
)
def test_nothing_but_its_own_error_leaves_the_parser_of_safetensors(data: bytes, draw: st.DataObject) -> None:
    spoilt = bytearray(data + bytes(draw.draw(st.integers(0, 40))))
    for _ in range(draw.draw(st.integers(0, 3)) if spoilt else 0):
        spoilt[draw.draw(st.integers(0, len(spoilt) - 1))] = draw.draw(st.integers(0, 255))
    try:
        found = parse_header(bytes(spoilt), len(spoilt), file="m")
    except FormatError:
        return
    at = found.header_bytes
    for tensor in found.tensors:
        assert tensor.begin == at
        at = tensor.end
    assert at == len(spoilt)


SEEDS = [
    gguf_header(tensors=2, body=gguf_info("a", [8]) + gguf_info("b", [64], kind=2, offset=32)) + bytes(200),
    gguf_header(
        pairs=2,
        body=gguf_text("k")
        + struct.pack("<IIQ", 9, 8, 1)
        + gguf_text("v")
        + gguf_text("j")
        + struct.pack("<IQ", 10, 7),
    ),
]


@long
@given(
    st.sampled_from(SEEDS) | st.binary(max_size=80).map(lambda body: gguf_header(tensors=1, pairs=1, body=body)),
    st.data(),
)
def test_nothing_but_its_own_error_leaves_the_parser_of_gguf(data: bytes, draw: st.DataObject) -> None:
    spoilt = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 4))):
        spoilt[draw.draw(st.integers(0, len(spoilt) - 1))] = draw.draw(st.integers(0, 255))
    try:
        found, _ = read_gguf(bytes(spoilt))
    except FormatError:
        return
    assert all(found.header_bytes <= t.begin <= t.end <= len(spoilt) for t in found.tensors)


@long
@given(
    st.dictionaries(st.sampled_from(["weight_map", "metadata"]), VALUES | st.dictionaries(st.text(max_size=6), VALUES))
    .map(file_of)
    .map(lambda data: data[8:])
    | st.binary(max_size=64)
)
def test_nothing_but_its_own_error_leaves_the_reader_of_indexes(data: bytes) -> None:
    try:
        found = parse_index(data, file="a/m.safetensors.index.json", files={"a/m", "a/n"})
    except FormatError:
        return
    assert set(found.weight_map.values()) <= {"a/m", "a/n"}
