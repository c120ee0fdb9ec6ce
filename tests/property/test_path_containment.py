"""No name leads out of a target folder: any names, on a real file system, with links planted in every place."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exo_dl.core.paths import check_path, colliding
from exo_dl.errors import StorageError, UsageError
from exo_dl.store.folder import Folder

_NASTY = [
    "..", ".", "", "/", "//", "../..", "a/../../x", "C:", "C:\\x", "\\\\host\\share", "nul", "CON.txt", "com1",
    "a.", "a ", " a", "a\0b", "a\nb", "\u2215", "\u2044", "\uff0f", "\u29f8", "\u2024\u2024", "\u200b", "a\u202eb",
    "e\u0301", "\u00e9", "~", "~root", "-rf", "$HOME", "%2e%2e", "a" * 256, ".ssh", "x",
]  # fmt: skip
parts = st.sampled_from(_NASTY) | st.text(max_size=8)
names = st.lists(parts, min_size=1, max_size=4).map("/".join)
many = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Folder, Path]]:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("untouched")
    yield Folder(tmp_path / "target"), outside


def state(outside: Path) -> list[tuple[str, str]]:
    """All that lies beside the target, with its content."""
    found = [path for path in outside.parent.rglob("*") if "target" not in path.relative_to(outside.parent).parts]
    return sorted((str(path), path.read_text() if path.is_file() else "") for path in found)


@many
@given(names, st.integers(0, 3))
def test_what_passes_stays_inside_whatever_is_planted(world: tuple[Folder, Path], name: str, plant_at: int) -> None:
    folder, outside = world
    shutil.rmtree(folder.root, ignore_errors=True)
    folder.root.mkdir()
    before = state(outside)
    try:
        check_path(name)
    except UsageError:
        return
    planted = name.split("/")[: plant_at + 1]
    with contextlib.suppress(OSError):
        folder.root.joinpath(*planted[:-1]).mkdir(parents=True, exist_ok=True)
        folder.root.joinpath(*planted).symlink_to(outside)
    for act in (
        lambda: folder.write(name, b"evil"),
        lambda: os.close(folder.open(name, os.O_RDWR | os.O_TRUNC, create=True)),
        lambda: os.close(folder.open(f"{name}/precious", os.O_RDWR | os.O_TRUNC)),
        lambda: folder.link(f"{name}/link", "../x"),
        lambda: folder.rename(name, f"{name}-moved"),
        lambda: folder.make(f"{name}/sub"),
        lambda: folder.remove(f"{name}/precious"),
        lambda: folder.prune(f"{name}/sub"),
    ):
        with contextlib.suppress(StorageError):
            act()  # type: ignore[no-untyped-call]
        assert folder.read(f"{name}/precious", limit=100) is None
    assert state(outside) == before


@many
@given(names)
def test_what_passes_is_a_plain_relative_name(name: str) -> None:
    try:
        check_path(name)
    except UsageError:
        return
    assert os.path.normpath(f"/target/{name}") == f"/target/{name}"
    assert not os.path.isabs(name)
    assert not set(name) & set("\\:\0\u2215\uff0f")


def test_a_link_that_is_planted_between_check_and_use_is_not_followed(world: tuple[Folder, Path]) -> None:
    folder, outside = world
    folder.write("sub/file", b"own")
    assert folder.is_file("sub/file", size=3)
    shutil.rmtree(folder.root / "sub")
    (folder.root / "sub").symlink_to(outside)
    with pytest.raises(StorageError, match="symbolic link"):
        folder.open("sub/precious", os.O_RDWR | os.O_TRUNC)
    assert folder.lstat("sub/precious") is None
    assert (outside / "precious").read_text() == "untouched"


@pytest.mark.parametrize(
    ("paths", "same"),
    [
        (["a.bin", "A.bin"], True),
        (["Sub/x", "sub/y"], True),
        (["\u00e9.bin", "e\u0301.bin"], True),
        (["stra\u00dfe", "STRASSE"], True),
        (["a", "b", "a/c"], False),
        (["sub/x", "sub/y"], False),
    ],
)
def test_names_that_some_disks_take_for_one(paths: list[str], *, same: bool) -> None:
    assert bool(list(colliding(paths))) is same


def test_a_disk_that_tells_case_apart_is_known_as_such(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (tmp_path / "Aa").write_text("")
    assert folder.folds_names() is (tmp_path / "aA").exists()
    assert os.listdir(tmp_path) == ["Aa"]
