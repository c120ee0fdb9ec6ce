from __future__ import annotations

import pytest

from exo_dl.core.paths import check_commit, check_path, check_repo
from exo_dl.errors import UsageError


@pytest.mark.parametrize("path", ["a", "sub/dir/b.safetensors", "with space.txt", "größe/模型.bin", ".gitattributes"])
def test_ordinary_names_pass(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\\b", "c:/a", "C:", "a\0b", "a\nb",
        "con", "a/NUL.txt", "lpt1", "a.", "a ", " a", "a\u2215b", "a\uff0fb", "a\u2044b",
        "x" * 256, "x/" * 600 + "x", "\ud800",
    ],
)  # fmt: skip
def test_names_that_could_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(UsageError, match="refused"):
        check_path(path)


@pytest.mark.parametrize("repo", ["gpt2", "org/name", "Org-1/Name_2.5-B", "org/__fake__"])
def test_repository_ids_pass(repo: str) -> None:
    assert check_repo(repo) == repo


@pytest.mark.parametrize(
    "repo", ["", "/a", "a/", "a/b/c", "../a", "a/..", "a/b..c", "a--b/c", "a b/c", "a/b.git", "a\0/b", "a/" + "x" * 100]
)
def test_what_is_no_repository_id_is_refused(repo: str) -> None:
    with pytest.raises(UsageError, match="no repository id"):
        check_repo(repo)


def test_a_commit_is_40_hex_digits() -> None:
    assert check_commit("0" * 40)
    for bad in ("main", "0" * 39, "G" * 40, "0" * 40 + "\n"):
        with pytest.raises(UsageError):
            check_commit(bad)
