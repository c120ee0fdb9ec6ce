"""Any bytes where files are read that others wrote: headers of weights, indexes, plan files, manifests."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_dl.core.planfile import chosen, parse_plan
from exo_dl.errors import FormatError, PlacementError, ProtocolError, UsageError
from exo_dl.formats import gguf, safetensors
from exo_dl.formats.tensors import FileStructure
from exo_dl.net import wire
from exo_dl.rpc.v1 import swarm_pb2 as pb
from tests.fuzz.filling import fill, long, numbers, words

pytestmark = pytest.mark.timeout(0)

counts = st.integers(0, 64) | numbers | st.floats() | st.none() | st.booleans()
tensors = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*safetensors.DTYPE_BITS, "U7", 3]),
        "shape": st.lists(counts, max_size=4) | words,
        "data_offsets": st.lists(counts, max_size=3),
        "more": st.none(),
    },
)
headers = st.dictionaries(words | st.sampled_from(["a", "b", "model.layers.0.x"]), tensors, max_size=4).flatmap(
    lambda found: st.sampled_from([found, found | {"__metadata__": {"format": "pt"}}])
)


@long
@given(headers | st.recursive(counts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner)),
       st.binary(max_size=12), st.integers(-8, 8), st.integers(0, 300))  # fmt: skip
def test_headers_of_safetensors(header: object, spoil: bytes, shift: int, data: int) -> None:
    text = json.dumps(header).encode("utf-8", "replace")
    whole = struct.pack("<Q", max(0, len(text) + shift)) + text + spoil + bytes(data)
    try:
        size = safetensors.header_size(whole[:8], len(whole), file="f.safetensors")
        found = safetensors.parse_header(whole[:size], len(whole), file="f.safetensors")
    except FormatError:
        return
    assert all(found.header_bytes <= each.begin <= each.end <= len(whole) for each in found.tensors)


@long
@given(st.dictionaries(words, words | counts | st.dictionaries(words | st.just("a"), words | st.just("f"), max_size=4),
                       max_size=3), st.booleans())  # fmt: skip
def test_indexes_of_safetensors(index: dict[str, object], named: bool) -> None:
    if named:
        index["weight_map"] = {key: value for key, value in index.items() if isinstance(value, str)}
    data = json.dumps(index).encode("utf-8", "replace")
    try:
        found = safetensors.parse_index(data, file="m.safetensors.index.json", files=["f", "g"])
    except FormatError:
        return
    assert set(found.weight_map.values()) <= {"f", "g"}


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _gguf(pairs: list[tuple[bytes, int, bytes]], infos: list[tuple[bytes, list[int], int, int]]) -> bytes:
    out = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs))
    for key, kind, value in pairs:
        out += _text(key) + struct.pack("<I", kind) + value
    for name, shape, kind, offset in infos:
        out += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return out


sizes = st.integers(0, 600) | st.sampled_from([0, 1, 32, 256, 1 << 31, 1 << 40, (1 << 64) - 1])
pairs_of = st.lists(
    st.tuples(
        st.sampled_from([b"general.alignment", b"general.architecture", b"x", b"\xff"]),
        st.integers(0, 14),
        st.binary(max_size=24) | sizes.map(lambda n: struct.pack("<Q", n)) | st.binary(max_size=9).map(_text),
    ),
    max_size=4,
)
infos_of = st.lists(
    st.tuples(st.binary(max_size=9), st.lists(sizes, max_size=5), st.integers(0, 40), sizes), max_size=4
)


@long
@given(st.builds(_gguf, pairs_of, infos_of), st.binary(max_size=64), st.integers(0, 400), st.integers(0, 4096))
def test_headers_of_gguf(header: bytes, tail: bytes, cut: int, data: int) -> None:
    whole = (header + tail)[: max(24, len(header) + len(tail) - cut)] + bytes(data)
    given_bytes, found = min(64, len(whole)), None
    for _ in range(40):
        try:
            found = gguf.parse_header(whole[:given_bytes], len(whole), file="m.gguf")
        except gguf.NeedMore as more:
            assert given_bytes < more.bytes <= len(whole), "it asks for what it has, or for more than there is"
            given_bytes = more.bytes
            continue
        except FormatError:
            return
        break
    assert isinstance(found, FileStructure)
    assert all(found.header_bytes <= each.begin <= each.end <= len(whole) for each in found.tensors)


nodes = st.sampled_from(["one", "two", "three", "nobody", "", "*"]) | words
lines = st.fixed_dictionaries(
    {},
    optional={
        "layers": words | st.sampled_from(["0-3", "4 - 7, 9", "9-1", "999999"]) | st.lists(counts, max_size=3),
        "tensors": st.lists(words | st.sampled_from(["*", "a.*", "[", "**"]), max_size=3) | words,
        "files": st.lists(words | st.sampled_from(["*", "../*", "f?.bin"]), max_size=3) | counts,
        "first": st.booleans() | counts,
        "last": st.booleans(),
        "overlap": st.booleans() | words,
        "helper": st.booleans(),
        "else": st.none(),
    },
)
plans = st.fixed_dictionaries(
    {}, optional={"nodes": st.dictionaries(nodes, lines | counts, max_size=4), "common": st.lists(words) | counts}
)


@long
@given(
    plans | st.recursive(counts | words, lambda inner: st.lists(inner) | st.dictionaries(words, inner), max_leaves=6)
)
def test_plan_files(document: object) -> None:
    try:
        plan = parse_plan(document)
    except PlacementError as error:
        assert len(error.what) < 500
        return
    assert plan.nodes
    assert callable(chosen)


@st.composite
def manifests(draw: st.DrawFn) -> pb.Manifest:
    message = pb.Manifest()
    fill(message, draw)
    if draw(st.booleans()):
        message.hub, message.repo_type, message.repo, message.commit = "huggingface", "model", "org/name", "a" * 40
    return message


@long
@given(manifests())
def test_manifests(message: pb.Manifest) -> None:
    try:
        manifest = wire.manifest_from_pb(message)
    except (ProtocolError, UsageError):
        return
    assert wire.manifest_to_pb(manifest).ByteSize() > 0
    assert all(file.size >= 0 for file in manifest.files)
    names = [file.path for file in manifest.files]
    assert not any(name.startswith("/") or ".." in name.split("/") or "\0" in name for name in names)
    assert len(set(names)) == len(names)
