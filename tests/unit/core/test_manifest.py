from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_dl.core.manifest import (
    PIECE_MAX_BYTES,
    PIECE_MIN_BYTES,
    FileEntry,
    Manifest,
    piece_size_for,
    pull_id_for,
)
from exo_dl.errors import ProtocolError, UsageError

MIB = 1 << 20


def entry(path: str, size: int, content: str | None = None) -> FileEntry:
    return FileEntry(path, size, hashlib.sha256((content or path).encode()).digest())


def manifest(*files: FileEntry) -> Manifest:
    return Manifest("huggingface", "model", "org/name", "a" * 40, tuple(files))


def test_pieces_are_a_power_of_two_between_the_bounds() -> None:
    assert piece_size_for(0) == PIECE_MIN_BYTES
    assert piece_size_for(1 << 30) == MIB
    assert piece_size_for((1 << 30) + 1) == 2 * MIB
    assert piece_size_for(1 << 50) == PIECE_MAX_BYTES


def test_files_with_one_content_are_one_blob() -> None:
    m = manifest(entry("a", 10, "same"), entry("b", 10, "same"), entry("c", 5))
    assert [b.paths for b in m.blobs] == [("a", "b"), ("c",)]
    assert m.total_bytes == 15
    assert m.piece_count == 2


def test_an_empty_file_has_no_pieces() -> None:
    m = manifest(entry("a", 0), entry("b", 3 * MIB), entry("c", 0), entry("d", 1))
    assert [b.piece_count for b in m.blobs] == [0, 3, 0, 1]
    assert m.blob_of(3).paths == ("d",)
    assert m.piece_at(3 * MIB) == 3
    assert manifest(entry("a", 0)).piece_count == 0


def test_pieces_outside_are_refused() -> None:
    m = manifest(entry("a", 1))
    for piece in (-1, 1):
        with pytest.raises(ProtocolError):
            m.blob_of(piece)


@pytest.mark.parametrize(
    "files",
    [
        (entry("a", 1), entry("a", 2, "x")),
        (entry("a", -1),),
        (FileEntry("a", 1, b"short"),),
        (entry("a", 1, "same"), entry("b", 2, "same")),
        (entry("huge", 1 << 62),),
    ],
)
def test_what_cannot_be_a_model_is_refused(files: tuple[FileEntry, ...]) -> None:
    with pytest.raises(ProtocolError):
        assert manifest(*files).blobs


def test_a_path_outside_is_refused() -> None:
    with pytest.raises(UsageError):
        manifest(entry("../a", 1))


def test_the_pull_id_follows_files_and_layout() -> None:
    one = manifest(entry("a", 1))
    assert pull_id_for(one, "hf") == pull_id_for(manifest(entry("a", 1)), "hf")
    assert pull_id_for(one, "hf") != pull_id_for(one, "dir:/x")
    assert pull_id_for(one, "hf") != pull_id_for(manifest(entry("a", 1), entry("b", 1)), "hf")


@given(st.lists(st.integers(0, 40 * MIB), min_size=1, max_size=12), st.data())
def test_spans_and_positions_agree(sizes: list[int], data: st.DataObject) -> None:
    m = manifest(*(entry(f"f{i}", size) for i, size in enumerate(sizes)))
    assert sum(m.piece_bytes(p) for p in range(m.piece_count)) == m.total_bytes == sum(sizes)
    if not m.piece_count:
        return
    first = data.draw(st.integers(0, m.piece_count - 1))
    end = data.draw(st.integers(first + 1, m.piece_count))
    spans = list(m.spans(first, end))
    assert sum(s.size for s in spans) == m.run_bytes(first, end)
    assert m.piece_at(m.position(first)) == first
    assert m.set_bytes((1 << end) - (1 << first)) == sum(m.piece_bytes(p) for p in range(first, end))
    some = data.draw(st.sets(st.integers(0, m.piece_count - 1)))
    assert m.set_bytes(sum(1 << p for p in some)) == sum(m.piece_bytes(p) for p in some)
    for piece in range(first, end):
        span = m.span(piece)
        assert any(s.blob == span.blob and s.offset <= span.offset < s.offset + s.size for s in spans)
