"""Resolving a model against a real local hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.hub import LocalHub
from exo_dl.errors import AccessError, HubBusyError, HubError, NotFoundError, UsageError
from exo_dl.hubs.base import Resolved
from exo_dl.hubs.huggingface import HuggingFaceHub

REPO = "org/model"
TOKEN = "hf_secret"
Serve = Callable[..., LocalHub]


def _resolve(hub: LocalHub, repo: str = REPO, *, token: str | None = None, **given: Any) -> Resolved:
    return HuggingFaceHub(hub.url, token).resolve(repo, **given)


def _expected(hub: LocalHub) -> dict[str, tuple[int, str]]:
    repo = hub.repo("model", REPO)
    assert repo is not None
    return {file.path: (file.size, file.etag) for file in repo.files.values()}


def test_one_request_gives_commit_files_sizes_and_digests(hub: LocalHub) -> None:
    resolved = _resolve(hub)
    assert {f.path: (f.size, f.etag) for f in resolved.manifest.files} == _expected(hub)
    assert len(resolved.manifest.commit) == 40
    assert (resolved.revision, resolved.endpoint, resolved.gated) == ("main", hub.url, False)
    hub.settle()
    assert len(hub.records) == 1
    assert any(f.size == 0 for f in resolved.manifest.files)
    assert any(not f.path.isascii() and " " in f.path for f in resolved.manifest.files)


@pytest.mark.parametrize("page_size", [None, 3])
def test_missing_sizes_come_from_the_tree(serve: Serve, page_size: int | None) -> None:
    hub = serve(bare=True, page_size=page_size)
    assert {f.path: (f.size, f.etag) for f in _resolve(hub).manifest.files} == _expected(hub)


def test_what_the_tree_leaves_out_is_asked_for_by_head(serve: Serve) -> None:
    hub = serve(bare=True)
    hub.fault("404", on="api", path="*/tree/*")
    assert {f.path: (f.size, f.etag) for f in _resolve(hub).manifest.files} == _expected(hub)


def test_heads_follow_relative_redirects(serve: Serve) -> None:
    hub = serve(bare=True, redirect="hub")
    hub.fault("404", on="api", path="*/tree/*")
    assert {f.path: (f.size, f.etag) for f in _resolve(hub).manifest.files} == _expected(hub)
    hub.settle()
    assert not any(record["storage"] for record in hub.records)


def test_a_list_that_goes_on_at_another_host_is_refused(serve: Serve) -> None:
    other = serve()
    hub = serve(bare=True, page_size=3, link_base=other.url)
    with pytest.raises(HubError, match="goes on at another host"):
        _resolve(hub, token=TOKEN)
    assert not other.records


def test_a_redirect_to_another_host_takes_no_token_along(serve: Serve) -> None:
    other = serve()
    hub = serve(bare=True)
    for on in ("api", "file"):
        hub.fault("redirect", on=on, path="*/tree/*", to=f"{other.url}/api/models/{REPO}/tree/main?recursive=true")
    _resolve(hub, token=TOKEN)
    other.settle()
    assert other.records
    assert not any(record["auth"] for record in other.records)


@pytest.mark.parametrize("revision", ["v1.0", None])
def test_tags_and_commits_are_revisions(hub: LocalHub, revision: str | None) -> None:
    commit = _resolve(hub).manifest.commit
    assert _resolve(hub, revision=revision or commit).manifest.commit == commit


def test_include_and_exclude_as_hf_download_has_them(hub: LocalHub) -> None:
    resolved = _resolve(hub, include=["*.safetensors", "assets/"], exclude=["model-00002*"])
    paths = {f.path for f in resolved.manifest.files}
    assert "model-00001-of-00002.safetensors" in paths
    assert "model-00002-of-00002.safetensors" not in paths
    assert "assets/empty.txt" in paths
    unselected = {f.path for f in resolved.manifest.unselected}
    assert paths.isdisjoint(unselected)
    assert paths | unselected == set(_expected(hub))


def test_globs_that_select_nothing(hub: LocalHub) -> None:
    with pytest.raises(UsageError, match=r"No file is left with --include '\*\.gguf'"):
        _resolve(hub, include=["*.gguf"])


def test_a_missing_repository(hub: LocalHub) -> None:
    with pytest.raises(NotFoundError, match="org/none"):
        _resolve(hub, "org/none")
    with pytest.raises(NotFoundError, match="org/none"):
        _resolve(hub, "org/none", token=TOKEN)


def test_a_missing_revision(hub: LocalHub) -> None:
    with pytest.raises(NotFoundError, match=r"no such revision.*'nope'"):
        _resolve(hub, revision="nope")


@pytest.mark.parametrize("repo", ["../etc", "org/..", "org/na\0me", "a/b/c", "", "org/a--b", "-x/y"])
def test_names_that_no_hub_allows_are_refused_before_asking(hub: LocalHub, repo: str) -> None:
    with pytest.raises(UsageError):
        _resolve(hub, repo)
    assert not hub.records


@pytest.mark.parametrize("revision", ["", "../x", "a\0b", "a//b"])
def test_revisions_that_no_hub_allows_are_refused_before_asking(hub: LocalHub, revision: str) -> None:
    with pytest.raises(UsageError, match="revision"):
        _resolve(hub, revision=revision)
    assert not hub.records


def test_a_gated_model_needs_the_token(serve: Serve) -> None:
    hub = serve(token=TOKEN, access="gated")
    with pytest.raises(AccessError, match="gated") as without:
        _resolve(hub)
    assert "HF_TOKEN" in without.value.hint
    with pytest.raises(AccessError) as wrong:
        _resolve(hub, token="hf_other")
    assert "hf_other" not in str(wrong.value)
    assert _resolve(hub, token=TOKEN).gated


def test_a_private_model_needs_the_token(serve: Serve) -> None:
    hub = serve(token=TOKEN, access="private")
    with pytest.raises(NotFoundError, match="hides it"):
        _resolve(hub)
    assert _resolve(hub, token=TOKEN).gated


def test_the_token_in_the_environment_is_used(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert _resolve(serve(token=TOKEN, access="private")).gated


def test_a_hub_that_is_down() -> None:
    with LocalHub(Path("/nonexistent")) as hub:
        url = hub.url
    with pytest.raises(HubError, match="Nothing answers at"):
        HuggingFaceHub(url).resolve(REPO)


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(HubError, match=r"not known here|connection to"):
        HuggingFaceHub("http://no-such-host.invalid").resolve(REPO)


@pytest.mark.parametrize("ratelimit", [True, False])
def test_a_hub_that_asks_to_wait(hub: LocalHub, ratelimit: bool) -> None:
    hub.fault("429", on="api", retry_after_s=17, ratelimit=ratelimit)
    with pytest.raises(HubBusyError) as caught:
        _resolve(hub)
    assert caught.value.retry_after_s == 17.0


def test_a_hub_that_is_overloaded(hub: LocalHub) -> None:
    hub.fault("503", on="api")
    with pytest.raises(HubBusyError):
        _resolve(hub)
    hub.faults.clear()
    hub.fault("500", on="api")
    with pytest.raises(HubError, match="500"):
        _resolve(hub)


def test_json_that_was_cut_off(hub: LocalHub) -> None:
    hub.fault("truncate", on="api")
    with pytest.raises(HubError, match="cannot be understood"):
        _resolve(hub)


COMMIT = "0" * 40
OID = "1" * 40


def _answer(**changes: Any) -> str:
    item = {"rfilename": "a.bin", "size": 3, "blobId": OID} | changes.pop("item", {})
    return json.dumps({"id": REPO, "sha": COMMIT, "siblings": [item]} | changes)


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "null",
        "7",
        "<html>",
        "[" * 100_000,
        json.dumps({}),
        _answer(sha=None),
        _answer(sha="main"),
        _answer(sha=["x"]),
        _answer(siblings="files"),
        _answer(siblings=[1]),
        _answer(siblings={"a": 1}),
        _answer(siblings=[{"rfilename": "a", "size": 1, "blobId": OID}] * 2),
        _answer(item={"size": "3"}),
        _answer(item={"size": True}),
        _answer(item={"size": -1}),
        _answer(item={"size": 1 << 62}),
        _answer(item={"size": 1e300}),
        _answer(item={"size": 1 << 49}),
        _answer(item={"blobId": "xyz"}),
        _answer(item={"blobId": 5}),
        _answer(item={"lfs": {"sha256": "abc", "size": 3, "pointerSize": 1}}),
        _answer(item={"lfs": {"sha256": "a" * 64, "size": 4, "pointerSize": 1}}),
        _answer(item={"lfs": "yes"}),
        _answer(item={"rfilename": "../a"}),
        _answer(item={"rfilename": "/etc/passwd"}),
        _answer(item={"rfilename": "a/../../b"}),
        _answer(item={"rfilename": "a\0b"}),
        _answer(item={"rfilename": "C:\\a"}),
        _answer(item={"rfilename": ""}),
        _answer(item={"rfilename": 5}),
        _answer(item={"rfilename": "\ud800"}),
    ],
)
def test_answers_that_make_no_sense(hub: LocalHub, body: str) -> None:
    hub.fault("json", on="api", body=body)
    with pytest.raises(HubError):
        _resolve(hub)


def test_trees_that_make_no_sense(serve: Serve) -> None:
    hub = serve(bare=True)
    for body in ("{}", "[", '[{"type": "file", "path": "config.json", "size": -4, "oid": "x"}]'):
        hub.faults.clear()
        hub.fault("json", on="api", path="*/tree/*", body=body)
        with pytest.raises(HubError, match="cannot be understood"):
            _resolve(hub)


def test_an_empty_repository(hub: LocalHub) -> None:
    hub.fault("json", on="api", body=_answer(siblings=[]))
    with pytest.raises(NotFoundError, match="no files"):
        _resolve(hub)


@pytest.mark.parametrize("endpoint", ["ftp://host", "huggingface.co", "http://", "http://a:b@host", "http://host:x"])
def test_endpoints_that_cannot_be_one(endpoint: str) -> None:
    with pytest.raises(UsageError):
        HuggingFaceHub(endpoint)


def test_tokens_that_cannot_be_one_are_refused_and_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        HuggingFaceHub("http://host", "abc\r\nX: y")
    assert "abc" not in str(caught.value)


def test_the_endpoint_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror:81/hf/")
    assert HuggingFaceHub().endpoint == "http://mirror:81/hf"


def test_the_token_goes_to_the_hubs_own_origin_only() -> None:
    hub = HuggingFaceHub("http://hub.example:81", TOKEN)
    assert hub.headers_for("http://HUB.example:81/x")["Authorization"] == f"Bearer {TOKEN}"
    for url in (
        "https://hub.example:81/x",
        "http://hub.example/x",
        "http://hub.example:82/x",
        "http://cdn.hub.example:81/x",
        "http://hub.example:81@evil.example/x",
    ):
        assert "Authorization" not in hub.headers_for(url), url


def test_file_urls_are_quoted(hub: LocalHub) -> None:
    manifest = _resolve(hub).manifest
    url = HuggingFaceHub(hub.url).file_url(manifest, "a b/ä#?.txt")
    assert url == f"{hub.url}/{REPO}/resolve/{manifest.commit}/a%20b/%C3%A4%23%3F.txt"


def test_an_empty_token_keeps_the_users_own_one_at_home(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub = serve(token=TOKEN, access="private")
    with pytest.raises(NotFoundError):
        _resolve(hub, token="")
    hub.settle()
    assert not any(record["auth"] for record in hub.records)


def test_offline_mode_is_named(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        _resolve(hub)
