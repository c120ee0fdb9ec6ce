from __future__ import annotations

import os
from pathlib import Path

import pytest

from exo_dl import locations
from exo_dl.errors import StorageError, UsageError


def test_the_socket_lies_in_the_state_directory() -> None:
    assert locations.socket_path(Path("/var/lib/exo-dl")) == Path("/var/lib/exo-dl/daemon.sock")


def test_a_long_state_directory_gets_a_short_socket_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    long = Path("/" + "x" * 200)
    path = locations.socket_path(long)
    assert len(os.fsencode(path)) < 100
    assert path.parent == Path(f"/tmp/exo-dl-{os.getuid()}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/elsewhere")
    assert locations.socket_path(long) == path
    assert locations.socket_path(Path("/" + "x" * 201)) != path
    # Letters of more than one byte count by their bytes.
    assert locations.socket_path(Path("/" + "é" * 60)).parent == path.parent


def test_relative_paths_are_taken_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert locations.socket_path(Path("s")) == tmp_path / "s" / "daemon.sock"
    assert locations.absolute("~/x") == Path.home() / "x"


@pytest.mark.parametrize("text", ["", "a\0b", "~no-such-user-here/x"])
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(UsageError):
        locations.absolute(text)


def test_the_shared_folder_must_be_ours_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    monkeypatch.setattr(locations, "_short_dir", lambda: shared)
    path = shared / "x.sock"
    locations.prepare_socket_dir(path)
    assert shared.stat().st_mode & 0o777 == 0o700
    locations.prepare_socket_dir(path)
    shared.chmod(0o755)
    with pytest.raises(StorageError, match="open to other users"):
        locations.prepare_socket_dir(path)
    shared.rmdir()
    shared.symlink_to(tmp_path)
    assert not locations.socket_is_trusted(path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be made"):
        locations.prepare_socket_dir(tmp_path / "file" / "daemon.sock")
