"""A real local hub with a small model for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from bench.hub import LocalHub
from bench.make_model import make_model
from exo_dl.hubs.huggingface import HuggingFaceHub
from exo_dl.hubs.reader import HubReader

REPO = "org/model"
Serve = Callable[..., LocalHub]
ReaderFor = Callable[..., HubReader]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    # A developer's own token must not be sent to the hubs of these tests.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)


@pytest.fixture(scope="session")
def model_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served") / "models"
    make_model(root, REPO, total_mib=3, shards=2, small_files=2, seed=7)
    return root


@pytest.fixture
def serve(model_root: Path) -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(**options: Any) -> LocalHub:
            return stack.enter_context(LocalHub(options.pop("root", model_root), **options))

        yield start


@pytest.fixture
def hub(serve: Serve) -> LocalHub:
    return serve()


@pytest.fixture
def reader_for(hub: LocalHub) -> Iterator[ReaderFor]:
    """Makes readers that are closed at the end, before the hub is."""
    with ExitStack() as stack:

        def make(hub: LocalHub, token: str | None = None, **options: Any) -> HubReader:
            headers_for = options.pop("headers_for", HuggingFaceHub(hub.url, token).headers_for)
            reader = HubReader(headers_for, **options)
            stack.callback(reader.close)
            return reader

        yield make
