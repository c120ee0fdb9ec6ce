"""The hubs that demo, lab and tests use are hubs to the real client, and their logs tell the truth."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from bench.hub import LocalHub
from bench.make_model import make_model
from bench.nginx_hub import write_config
from bench.served import read_requests, summarize
from exo_dl.hubs.huggingface import HuggingFaceHub
from exo_dl.hubs.reader import HubReader

REPO = "org/model"
SHARD = "model-00001-of-00002.safetensors"
Serve = Callable[..., LocalHub]

_DOWNLOAD = """
import sys
from huggingface_hub import HfApi, snapshot_download
print(snapshot_download(sys.argv[1], max_workers=4))
found = HfApi().verify_repo_checksums(sys.argv[1])
assert not found.mismatches and not found.missing_paths and found.checked_count > 5, found
"""


def _download(endpoint: str, home: Path) -> Path:
    """What `hf download` and `hf cache verify` do. In a process of its own: endpoint and cache are read at import."""
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", _DOWNLOAD, REPO], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


def _check_copy(copy: Path, original: Path) -> None:
    names = {path.relative_to(original) for path in original.rglob("*") if path.is_file()}
    assert {path.relative_to(copy) for path in copy.rglob("*") if path.is_file()} == names
    for name in names:
        assert (copy / name).read_bytes() == (original / name).read_bytes()


@pytest.mark.parametrize("redirect", ["none", "hub"])
def test_the_real_client_downloads_from_the_local_hub(serve: Serve, redirect: str, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    hub = serve(redirect=redirect, log=log)
    _check_copy(_download(hub.url, tmp_path / "home"), hub.root / REPO)
    hub.settle()
    total = sum(path.stat().st_size for path in (hub.root / REPO).rglob("*") if path.is_file())
    assert hub.stats()["file_bytes"] == total
    if redirect == "none":
        served = summarize(read_requests(log))
        assert (served.total_bytes, served.twice_bytes) == (total, 0)


@pytest.fixture
def nginx(model_root: Path, tmp_path: Path) -> Iterator[str]:
    if shutil.which("nginx") is None:
        pytest.skip("needs nginx")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    config = write_config(tmp_path / "n g", model_root, port=port, listen="127.0.0.1", daemon=True)
    subprocess.run(["nginx", "-c", str(config)], check=True, timeout=20)  # comes back when the port is open
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run(["nginx", "-c", str(config), "-s", "stop"], check=True, timeout=20)


def test_the_real_client_downloads_from_nginx(nginx: str, model_root: Path, tmp_path: Path) -> None:
    _check_copy(_download(nginx, tmp_path / "home"), model_root / REPO)
    total = sum(path.stat().st_size for path in (model_root / REPO).rglob("*") if path.is_file())
    served = summarize(read_requests(tmp_path / "n g" / "access.log"))
    assert (served.total_bytes, served.twice_bytes) == (total, 0)


def test_nginx_and_the_local_hub_say_the_same(nginx: str, hub: LocalHub) -> None:
    far = HuggingFaceHub(nginx)
    ours = HuggingFaceHub(hub.url).resolve(REPO).manifest
    for revision in ("main", "v1.0", ours.commit):
        assert far.resolve(REPO, revision).manifest == ours
    reader = HubReader(far.headers_for)
    for file in ours.files:
        if file.size:
            with reader.open_range(far.file_url(ours, file.path), 0, 1, etag=file.etag, size=file.size) as opened:
                assert opened.readinto(memoryview(bytearray(1))) == 1
    reader.close()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/org/none", "RepoNotFound"),
        ("/api/models/org/none/revision/main", "RepoNotFound"),
        ("/org/none/resolve/main/x", "RepoNotFound"),
        (f"/api/models/{REPO}/revision/nope", "RevisionNotFound"),
        (f"/{REPO}/resolve/nope/config.json", "RevisionNotFound"),
        (f"/{REPO}/resolve/main/nope", "EntryNotFound"),
        (f"/{REPO}/resolve/main/..%2f..%2f..%2fetc/passwd", None),
    ],
)
def test_both_refuse_alike(nginx: str, hub: LocalHub, path: str, code: str | None) -> None:
    for url in (nginx, hub.url):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url + path, timeout=10)  # noqa: S310 - our own
        with caught.value as answer:
            assert answer.status in (400, 401, 404)
            assert code is None or answer.headers["X-Error-Code"] == code


def test_the_log_counts_what_was_sent_and_not_what_was_asked(tmp_path: Path) -> None:
    root = tmp_path / "models"
    make_model(root, "big/model", total_mib=64, shards=1, small_files=0)
    with LocalHub(root, log=tmp_path / "log") as hub:
        reader = HubReader(lambda _: {}, receive_buffer_bytes=65536)
        url = f"{hub.url}/big/model/resolve/main/model.safetensors"
        opened = reader.open_range(url, 0, 60 << 20)
        assert opened.readinto(memoryview(bytearray(1000))) > 0
        opened.close()
        hub.settle()
        reader.close()
    (request,) = read_requests(tmp_path / "log")
    assert 0 < request.sent < 32 << 20


def test_a_limited_rate_is_kept_by_all_connections_together(serve: Serve) -> None:
    hub = serve(rate=2e6)
    readers = [HubReader(lambda _: {}) for _ in range(2)]
    opened = [r.open_range(f"{hub.url}/{REPO}/resolve/main/{SHARD}", 0, 400_000) for r in readers]
    for part in opened:
        buffer = memoryview(bytearray(65536))
        with part:
            while part.readinto(buffer):
                continue
    for reader in readers:
        reader.close()
    hub.settle()
    assert (
        max(float(record["time"]) + float(record["seconds"]) for record in hub.records)
        - min(float(record["time"]) for record in hub.records)
        > 0.2
    )


def test_faults_are_ordered_over_http(hub: LocalHub) -> None:
    def order(body: object) -> object:
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{hub.url}/_faults", data=data)  # noqa: S310 - our own
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own
            return json.load(answer)

    assert isinstance(order({"kind": "503", "count": 1, "path": "*.json"}), list)
    assert [fault["status"] for fault in hub.faults.listed()] == [503]
    for wrong in ({"kind": "dragons"}, {"kind": "close", "when": "now"}, {}, 7):
        with pytest.raises(urllib.error.HTTPError) as caught:
            order(wrong)
        caught.value.close()
        assert caught.value.code == 400
    hub.faults.clear()


def test_models_are_made_from_their_seed_alone(tmp_path: Path) -> None:
    made = [make_model(tmp_path / name, REPO, total_mib=2, shards=3, seed=5) for name in ("a", "b")]
    assert made[0]["commit"] == made[1]["commit"]
    again = make_model(tmp_path / "a", REPO, total_mib=2, shards=3, seed=6)
    assert again["commit"] != made[0]["commit"]
    index = json.loads((Path(again["folder"]) / "model.safetensors.index.json").read_text())
    found: dict[str, str] = {}
    for path in sorted(Path(again["folder"]).glob("*.safetensors")):
        with safe_open(path, "np") as opened:
            found |= dict.fromkeys(opened.keys(), path.name)
    assert found == index["weight_map"]
    assert set(found.values()) == {f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)}


def test_a_folder_that_was_not_made_here_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / REPO).mkdir(parents=True)
    with pytest.raises(FileExistsError):
        make_model(tmp_path, REPO, total_mib=1)
