"""Into which folders, and from which hub, another node may have this one pull."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_dl.core.manifest import Manifest
from exo_dl.errors import AccessError
from exo_dl.hubs.huggingface import DEFAULT_ENDPOINT
from exo_dld.messages import PullSpec
from exo_dld.targets import OfferRules

MANIFEST = Manifest(hub="huggingface", repo_type="model", repo="a/b", commit="a" * 40, files=())


def spec(layout: str = "hf", endpoint: str = "") -> PullSpec:
    return PullSpec("p", MANIFEST, frozenset(), layout, endpoint, "main", 1, gated=False)


def refused(rules: OfferRules, offer: PullSpec) -> bool:
    try:
        rules.check(offer)
    except AccessError as error:
        assert error.hint
        return True
    return False


@pytest.mark.parametrize(
    ("own", "named", "allowed", "no"),
    [
        (DEFAULT_ENDPOINT, DEFAULT_ENDPOINT, (), False),
        (DEFAULT_ENDPOINT, "", (), False),
        (DEFAULT_ENDPOINT, "http://10.0.0.1:80", (), True),
        (DEFAULT_ENDPOINT, "http://mirror:8080", ("http://mirror:8080",), False),
        (DEFAULT_ENDPOINT, "http://mirror:8081", ("http://mirror:8080",), True),
        (DEFAULT_ENDPOINT, "https://mirror:8080", ("http://mirror:8080",), True),
        # It reads from its own mirror, whatever is named.
        ("http://mirror", "http://elsewhere", (), False),
    ],
)
def test_hubs(own: str, named: str, allowed: tuple[str, ...], no: bool) -> None:
    assert refused(OfferRules(own, allow_endpoints=allowed), spec(endpoint=named)) is no


@pytest.mark.parametrize("path", ["/etc/cron.d/new", "/", "/usr/lib/x", "/proc/self", "/tmp", "/root/../etc/x"])
def test_places_of_the_system_are_for_nobody_else(path: str) -> None:
    assert refused(OfferRules(DEFAULT_ENDPOINT, home=lambda: Path("/nobody")), spec(f"dir:{path}"))


def test_a_home_directory_but_nothing_hidden_in_it(tmp_path: Path) -> None:
    rules = OfferRules(DEFAULT_ENDPOINT, home=lambda: tmp_path)
    assert not refused(rules, spec(f"dir:{tmp_path}/models/new"))
    assert refused(rules, spec(f"dir:{tmp_path}/.ssh"))
    assert refused(rules, spec(f"dir:{tmp_path}/x/.config/y"))


def test_a_folder_of_somebodys_own_files_is_not_for_others(tmp_path: Path) -> None:
    rules = OfferRules(DEFAULT_ENDPOINT, home=lambda: tmp_path)
    (tmp_path / "mine").mkdir()
    assert not refused(rules, spec(f"dir:{tmp_path}/mine"))
    (tmp_path / "mine" / "thesis").write_text("x")
    assert refused(rules, spec(f"dir:{tmp_path}/mine"))
    assert refused(rules, spec(f"dir:{tmp_path}/mine/thesis"))
    (tmp_path / "mine" / ".cache" / "huggingface").mkdir(parents=True)
    assert not refused(rules, spec(f"dir:{tmp_path}/mine"))


def test_a_link_does_not_lead_out_of_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "way-out").symlink_to("/etc")
    for rules in (
        OfferRules(DEFAULT_ENDPOINT, home=lambda: tmp_path),
        OfferRules(DEFAULT_ENDPOINT, allow_dirs=(tmp_path / "models",)),
    ):
        assert refused(rules, spec(f"dir:{tmp_path}/models/way-out/new"))
        assert not refused(rules, spec(f"dir:{tmp_path}/models/new"))


def test_what_the_settings_allow_may_be_anything(tmp_path: Path) -> None:
    rules = OfferRules(DEFAULT_ENDPOINT, allow_dirs=(tmp_path / ".models",))
    (tmp_path / ".models").mkdir()
    (tmp_path / ".models" / "file").write_text("x")
    assert not refused(rules, spec(f"dir:{tmp_path}/.models"))
    assert refused(rules, spec(f"dir:{tmp_path}/other"))
    assert refused(rules, spec(f"dir:{tmp_path}/.models-too"))
