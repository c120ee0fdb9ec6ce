"""The state database: what it believes, what it does not, and what it says when it is damaged."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from exo_dl.errors import NotFoundError, StorageError
from exo_dl.store.library import Library, verify_model
from exo_dl.store.publish import DirLayout, HFLayout
from tests.unit.store.conftest import MakeNode
from tests.unit.store.stores import COMMIT, MIB, blob_of, manifest_of, random_bytes, small_model


def publish(
    make_node: MakeNode, cache: Path, files: dict[str, bytes], revision: str = "main", commit: str = COMMIT
) -> Path:
    node = make_node(manifest_of(files, commit=commit), HFLayout(cache)).begin()
    node.fill(files)
    return node.store.finish(revision)


def test_models_are_listed_newest_first(tmp_path: Path, make_node: MakeNode, library: Library) -> None:
    files, cache = small_model(), tmp_path / "hub"
    old = publish(make_node, cache, files)
    new = publish(make_node, cache, {**files, "config.json": b"{}"}, commit="d" * 40)
    node = make_node(manifest_of(files), DirLayout(tmp_path / "dir")).begin()
    node.fill(files)
    node.store.finish("")
    models = library.models()
    assert [(m.layout, m.path, m.commit, m.revisions, m.complete) for m in models] == [
        ("dir", tmp_path / "dir", COMMIT, (), True),
        ("hf", new, "d" * 40, ("main",), True),
        ("hf", old, COMMIT, (), True),
    ]
    assert models[0].size_bytes == sum(blob.size for blob in node.manifest.blobs) and len(models[0].files) == len(files)
    assert [m.path for m in library.find_models("org/tiny", "main")] == [new]
    assert len(library.find_models("org/tiny", COMMIT)) == 2
    with pytest.raises(NotFoundError, match="org/tiny@v9 is not on this node"):
        library.find_models("org/tiny", "v9")


def test_a_model_that_lost_a_file_is_not_complete(tmp_path: Path, make_node: MakeNode, library: Library) -> None:
    path = publish(make_node, tmp_path / "hub", small_model())
    (path / "config.json").unlink()
    assert [m.complete for m in library.models()] == [False]
    os.rename(tmp_path / "hub", tmp_path / "away")
    assert library.models() == []
    os.rename(tmp_path / "away", tmp_path / "hub")
    assert len(library.models()) == 1


def test_verify_reads_every_file_again(tmp_path: Path, make_node: MakeNode, library: Library) -> None:
    files, cache = small_model(), tmp_path / "hub"
    path = publish(make_node, cache, files)
    model = library.models()[0]
    assert all(check.ok and not check.problem for check in verify_model(library, model))
    assert {check.path: check.size for check in verify_model(library, model)} == {p: len(d) for p, d in files.items()}
    blob = blob_of(manifest_of(files), "exactly.bin")
    assert library.find(blob)
    with (path / "exactly.bin").open("r+b") as file:
        file.seek(77)
        file.write(b"\0bad")
    (path / "one.bin").write_bytes(b"xx")
    (path / "config.json").unlink()
    problems = {check.path: check.problem for check in verify_model(library, model) if not check.ok}
    assert problems == {
        "exactly.bin": "its content does not have the hub's digest",
        "one.bin": "it has 2 bytes instead of 1",
        "config.json": "it is missing",
    }
    assert not library.find(blob)


def test_verify_can_be_stopped(tmp_path: Path, make_node: MakeNode, library: Library) -> None:
    publish(make_node, tmp_path / "hub", {"w.bin": random_bytes(4 * MIB), "x.bin": b"x"})
    stop = threading.Event()
    stop.set()
    checks = list(verify_model(library, library.models()[0], stop))
    assert [(check.path, check.problem) for check in checks] == [("w.bin", "the check was stopped")]


def test_pulls_and_values_outlive_a_restart(tmp_path: Path) -> None:
    first = Library(tmp_path / "state.db")
    first.save_pull("a" * 20, generation=1, payload=b"offer")
    first.save_pull("b" * 20, generation=1, payload=b"other")
    first.save_pull("a" * 20, generation=2, payload=b"\0again")
    first.drop_pull("b" * 20)
    first.put("node_id", "n1")
    first.close()
    second = Library(tmp_path / "state.db")
    assert second.pulls() == [("a" * 20, 2, b"\0again")]
    assert second.get("node_id") == "n1" and second.get("rate", "0") == "0"
    second.close()


@pytest.mark.parametrize("damage", ["text", "middle", "other"])
def test_a_damaged_database_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.db"
    library = Library(path)
    for number in range(200):
        library.save_pull(f"{number:020x}", generation=1, payload=random_bytes(500, number))
    library.close()
    if damage == "text":
        path.write_bytes(b"this is no database at all " * 200)
    elif damage == "middle":
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(random_bytes(40_000))
    else:
        path.unlink()
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE blobs (x)")
        other.close()
    with pytest.raises(StorageError, match=str(path)) as caught:
        Library(path)
    assert "Move this file away" in caught.value.hint or "its folder" in caught.value.hint


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Library(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StorageError, match="newer exo-dl"):
        Library(path)


def test_many_threads_share_it(tmp_path: Path, library: Library) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(30):
                library.put(f"{number}", str(step))
                assert library.get(f"{number}") == str(step)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_store_keeps_no_list_of_the_files_that_hold_the_same(tmp_path: Path, make_node: MakeNode) -> None:
    """Stores stay open after the end of a pull, and what many models share has as many files."""
    files = small_model()
    publish(make_node, tmp_path / "hub", files)
    node = make_node(manifest_of(files), DirLayout(tmp_path / "dir"))
    assert node.store.candidates()
    node.begin()
    assert not [slot for slot in node.store._work.slots.values() if slot.known or slot.candidates]
