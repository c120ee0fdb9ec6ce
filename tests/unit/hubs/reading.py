"""Reading from a local hub, for the tests of `exo_dl.hubs.reader`."""

from __future__ import annotations

from bench.hub import LocalHub
from exo_dl.hubs.reader import HubRange

__all__ = ["REPO", "SHARD", "TOKEN", "content_of", "etag_of", "files_asked", "read", "records_of", "url_of"]

REPO = "org/model"
SHARD = "model-00001-of-00002.safetensors"
TOKEN = "hf_secret"


def url_of(hub: LocalHub, path: str = SHARD) -> str:
    return f"{hub.url}/{REPO}/resolve/main/{path}"


def content_of(hub: LocalHub, path: str = SHARD) -> bytes:
    return (hub.root / REPO / path).read_bytes()


def etag_of(hub: LocalHub, path: str = SHARD) -> str:
    repo = hub.repo("model", REPO)
    assert repo is not None
    return repo.files[path].etag


def read(opened: HubRange, *, step: int = 100_000) -> bytes:
    got = bytearray()
    buffer = memoryview(bytearray(step))
    with opened:
        while count := opened.readinto(buffer):
            got += buffer[:count]
    return bytes(got)


def records_of(hub: LocalHub) -> list[dict[str, object]]:
    hub.settle()
    return list(hub.records)


def files_asked(hub: LocalHub, *, storage: bool = False) -> list[dict[str, object]]:
    return [record for record in records_of(hub) if record["storage"] == storage]
