from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from exo_dl.errors import FormatError
from exo_dl.formats.gguf import FIRST_READ_BYTES, TYPES, join_splits, split_of
from exo_dl.formats.layers import classify
from exo_dl.formats.tensors import FileStructure
from tests.unit.formats.headers import gguf_header, gguf_info, gguf_text, read_gguf


def written(path: Path, names: list[str], *, words: int = 10) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_token_list([f"word{n}" for n in range(words)])
    writer.add_token_scores([0.5] * words)
    for index, name in enumerate(names):
        values = np.arange(64 * (index + 1), dtype=np.float32).reshape(index + 1, 64)
        if index % 2:
            q8 = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, q8, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


NAMES = [
    "token_embd.weight",
    "rope_freqs.weight",
    *(f"blk.{n}.{k}.weight" for n in (0, 1) for k in ("attn_q", "ffn_up")),
]


def test_what_the_package_writes_is_read(tmp_path: Path) -> None:
    data = written(tmp_path / "m.gguf", [*NAMES, "output_norm.weight"], words=70_000)
    found, asked = read_gguf(data)
    assert found.header_bytes > FIRST_READ_BYTES and asked <= 6
    assert found.metadata["llama.block_count"] == 2
    assert "tokenizer.ggml.tokens" not in found.metadata
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert theirs.keys() == {tensor.name for tensor in found.tensors}
    for tensor in found.tensors:
        other = theirs[tensor.name]
        assert (tensor.begin, tensor.size) == (other.data_offset, other.n_bytes)
        assert (tensor.dtype, list(tensor.shape)) == (other.tensor_type.name, [int(n) for n in other.shape][::-1])
    layers = classify(join_splits([found]))
    assert [len(layer.tensors) for layer in layers.layers] == [2, 2]
    assert (layers.first, layers.everywhere) == (("token_embd.weight",), ("rope_freqs.weight",))
    assert set(layers.last) == {"output_norm.weight", "token_embd.weight"}


def test_the_sizes_of_types_are_those_of_the_package() -> None:
    for kind, (block, size) in gguf.GGML_QUANT_SIZES.items():
        assert TYPES[kind.value] == (kind.name, block, size)


def test_the_parts_of_a_split_model_are_joined() -> None:
    def part(number: int, count: int = 2, total: int = 0, name: str = "m") -> FileStructure:
        metadata = {"split.no": number, "split.count": count, "split.tensors.count": total}
        return FileStructure(f"q/{name}-{number + 1:05d}-of-00002.gguf", 24, (), metadata)

    assert set(join_splits([part(0), part(1)]).files) == {"q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf"}
    for bad in ([part(0)], [part(0), part(1, 3)], [part(0), part(1, total=3)], [part(0), part(1, name="other")]):
        with pytest.raises(FormatError):
            join_splits(bad)
    assert split_of("a/m-00003-of-00002.gguf") is None and split_of("m.gguf") is None


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "letters GGUF"),
        (b"ggml" + bytes(60), "letters GGUF"),
        (gguf_header(version=1), "version 1"),
        (gguf_header(version=3 << 24), "big-endian"),
        (gguf_header(tensors=1 << 60), "announces"),
        (gguf_header(pairs=1 << 60), "announces"),
        (gguf_header(pairs=1, body=struct.pack("<Q", 1 << 62)), "past the file"),
        (gguf_header(pairs=1, body=gguf_text("k") + struct.pack("<I", 99)), "unknown type 99"),
        (gguf_header(pairs=1, body=gguf_text("k") + struct.pack("<IIQ", 9, 0, 1 << 62)), "past the file"),
        (gguf_header(pairs=1, body=gguf_text("k") + struct.pack("<IIQ", 9, 8, 1 << 62)), "more than there is room"),
        (gguf_header(pairs=1, body=gguf_text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9), "in arrays"),
        (gguf_header(pairs=2, body=(gguf_text("k") + struct.pack("<IB", 0, 1)) * 2), "twice"),
        (gguf_header(pairs=1, body=gguf_text(b"\xff") + struct.pack("<IB", 0, 1)), "UTF-8"),
        (gguf_header(pairs=1, body=gguf_text("general.alignment") + struct.pack("<II", 4, 0)), "alignment"),
        (gguf_header(tensors=1, body=gguf_info("a", [4, 4, 4, 4, 4])), "5 dimensions"),
        (gguf_header(tensors=1, body=gguf_info("a", [4], kind=77)), "unknown type 77"),
        (gguf_header(tensors=1, body=gguf_info("a", [33], kind=2)), "no multiple"),
        (gguf_header(tensors=1, body=gguf_info("a", [], kind=2)), "no multiple"),
        (gguf_header(tensors=1, body=gguf_info("a", [1 << 60])), "past the file"),
        (gguf_header(tensors=1, body=gguf_info("a", [8], offset=32)) + bytes(200), "after a hole"),
        (gguf_header(tensors=2, body=gguf_info("a", [8]) + gguf_info("b", [8])) + bytes(200), "over another"),
        (gguf_header(tensors=2, body=gguf_info("a", [8]) + gguf_info("a", [8], offset=32)) + bytes(200), "twice"),
        (gguf_header(tensors=1, body=gguf_info("n" * 600, [8])) + bytes(200), "600 bytes"),
    ],
)
def test_a_header_that_lies_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        read_gguf(data)
