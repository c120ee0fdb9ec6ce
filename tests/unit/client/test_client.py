from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc
import pytest

import exo_dl
from exo_dl import errors
from exo_dl.client import Client, split_revision
from exo_dl.rpc.v1 import cluster_pb2, pull_pb2
from exo_dl.types import (
    ClusterLimits,
    Departure,
    FileCheck,
    Model,
    NodeLimits,
    NodePull,
    NodeState,
    Peer,
    PeerState,
    Pull,
    PullState,
    as_dict,
    from_message,
)
from tests.unit.client.fake_daemon import PULL_ID, FakeDaemon, make_pull


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with FakeDaemon(tmp_path / "state") as fake:
        yield fake


@pytest.fixture
async def client(daemon: FakeDaemon) -> AsyncIterator[Client]:
    async with Client(daemon.state_dir) as connected:
        yield connected


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Peer, cluster_pb2.Peer),
        (Pull, pull_pb2.Pull),
        (NodePull, pull_pb2.NodePull),
        (Model, pull_pb2.Model),
        (FileCheck, pull_pb2.VerifyModelResponse),
        (ClusterLimits, cluster_pb2.ClusterLimits),
        (NodeLimits, cluster_pb2.NodeLimits),
        (Departure, cluster_pb2.LeaveResponse),
    ],
)
def test_types_have_exactly_the_fields_of_their_messages(kind: Any, message: Any) -> None:
    assert [spec.name for spec in fields(kind)] == [spec.name for spec in message.DESCRIPTOR.fields]
    plain = as_dict(from_message(kind, message()))
    assert list(plain) == [spec.name for spec in message.DESCRIPTOR.fields]


@pytest.mark.parametrize(
    ("kind", "descriptor", "prefix"),
    [
        (PeerState, cluster_pb2.PeerState.DESCRIPTOR, "PEER_STATE_"),
        (PullState, pull_pb2.PullState.DESCRIPTOR, "PULL_STATE_"),
        (NodeState, pull_pb2.NodePullState.DESCRIPTOR, "NODE_PULL_STATE_"),
    ],
)
def test_states_stand_in_the_order_of_the_proto(kind: type[PeerState], descriptor: Any, prefix: str) -> None:
    names = [value.name.removeprefix(prefix).lower() for value in descriptor.values]
    assert [value.number for value in descriptor.values] == list(range(len(names)))
    assert [state.value for state in kind][1:] == names[1:]
    assert kind.from_number(999) == kind.UNKNOWN


def test_public_names_are_there_and_no_others_are_promised() -> None:
    assert {name for name in exo_dl.__all__ if not hasattr(exo_dl, name)} == set()
    assert exo_dl.Client is Client
    with pytest.raises(AttributeError):
        _ = exo_dl.nothing_like_that


async def test_a_pull_is_started_with_what_was_asked(client: Client, daemon: FakeDaemon) -> None:
    started = await client.start_pull(
        "org/model@v1", include=["*.safetensors"], exclude=["x/*"], nodes=["anna"], layout="dir:/models"
    )
    assert daemon.requests == [
        pull_pb2.StartPullRequest(
            repo="org/model",
            revision="v1",
            repo_type="model",
            include=["*.safetensors"],
            exclude=["x/*"],
            nodes=["anna"],
            layout="dir:/models",
        )
    ]
    assert not started.joined
    assert started.pull.state is PullState.RUNNING
    assert [node.name for node in started.pull.nodes] == ["anna", "bob"]
    assert started.pull.nodes[0].state is NodeState.PULLING


async def test_a_pull_is_watched_to_its_end(client: Client) -> None:
    states = [pull.state async for pull in client.watch_pull(PULL_ID)]
    assert states == [PullState.RUNNING, PullState.DONE]


async def test_a_watch_that_breaks_off_is_an_error(client: Client, daemon: FakeDaemon) -> None:
    daemon.updates = [make_pull()]
    with pytest.raises(errors.DaemonUnavailableError, match="stopped before the pull"):
        _ = [pull async for pull in client.watch_pull(PULL_ID)]


async def test_a_daemon_that_dies_during_a_watch_is_told_as_that(client: Client, daemon: FakeDaemon) -> None:
    daemon.hold = asyncio.Event()

    async def watch() -> None:
        async for _ in client.watch_pull(PULL_ID):
            pass

    task = asyncio.create_task(watch())
    await asyncio.wait_for(daemon.watching.wait(), 5)
    await daemon.stop()
    with pytest.raises(errors.DaemonUnavailableError):
        await asyncio.wait_for(task, 5)


async def test_leaving_a_watch_ends_the_call(client: Client, daemon: FakeDaemon) -> None:
    daemon.hold = asyncio.Event()
    updates = client.watch_pull(PULL_ID)
    assert (await anext(updates)).pull_id == PULL_ID
    await updates.aclose()  # type: ignore[attr-defined]
    assert (await client.list_pulls())[0].pull_id == PULL_ID


async def test_lists(client: Client, daemon: FakeDaemon) -> None:
    daemon.peers = [cluster_pb2.Peer(id="a", name="anna", state=cluster_pb2.PEER_STATE_SELF, addresses=["h:1"])]
    daemon.models = [pull_pb2.Model(repo="org/model", revisions=["main"], complete=True)]
    daemon.checks = [pull_pb2.VerifyModelResponse(path="f", ok=True, files_total=1, files_done=1)]
    (peer,) = await client.list_peers()
    assert (peer.state, peer.addresses) == (PeerState.SELF, ("h:1",))
    assert await anext(client.watch_peers()) == (peer,)
    assert (await client.list_models())[0].revisions == ("main",)
    assert [check.ok async for check in client.verify_model("org/model")] == [True]
    assert (await client.cancel_pull(PULL_ID)).state is PullState.CANCELLED


@pytest.mark.parametrize(
    ("status", "details", "error", "hint"),
    [
        ("NOT_FOUND", "No such model.\nLook at the name.", errors.NotFoundError, "Look at the name."),
        ("INVALID_ARGUMENT", "The glob selects nothing.", errors.UsageError, ""),
        ("PERMISSION_DENIED", "The model is gated.\nSet HF_TOKEN.", errors.AccessError, "Set HF_TOKEN."),
        ("UNAVAILABLE", "The hub is down: Connection reset by peer.\nTry later.", errors.HubError, "Try later."),
        ("RESOURCE_EXHAUSTED", "Disk full.", errors.StorageError, ""),
        (
            "DEADLINE_EXCEEDED",
            "Deadline Exceeded",
            errors.DaemonUnavailableError,
            "Look at its log, or start it again.",
        ),
        ("INTERNAL", "Odd.", errors.ExoDlError, ""),
    ],
)
async def test_status_codes_become_errors(
    client: Client, daemon: FakeDaemon, status: str, details: str, error: type[errors.ExoDlError], hint: str
) -> None:
    daemon.failure = (grpc.StatusCode[status], details)
    with pytest.raises(errors.ExoDlError) as raised:
        await client.start_pull("org/model")
    assert type(raised.value) is error
    assert raised.value.hint == hint
    with pytest.raises(error):
        _ = [pull async for pull in client.watch_pull(PULL_ID)]


async def test_no_daemon(tmp_path: Path) -> None:
    async with Client(tmp_path) as client:
        with pytest.raises(errors.DaemonUnavailableError) as raised:
            await client.list_peers()
    assert str(raised.value) == f"No exo-dl daemon answers at {tmp_path}/daemon.sock. Start one with: exo-dl up"


async def test_a_socket_that_a_killed_daemon_left_behind(daemon: FakeDaemon) -> None:
    await daemon.stop()
    path = daemon.state_dir / "daemon.sock"
    if not path.exists():
        path.touch()
    async with Client(daemon.state_dir) as client:
        with pytest.raises(errors.DaemonUnavailableError):
            await client.list_peers()


async def test_a_daemon_that_does_not_answer(daemon: FakeDaemon) -> None:
    daemon.hold = asyncio.Event()

    async def never(request: object, context: object) -> None:
        await daemon.hold.wait()  # type: ignore[union-attr]

    daemon._enter = never  # type: ignore[method-assign]
    async with Client(daemon.state_dir, timeout_s=0.2) as client:
        with pytest.raises(errors.DaemonUnavailableError, match="did not answer in time"):
            await client.list_peers()
    daemon.hold.set()


@pytest.mark.parametrize("folder", ["with space", "per%41cent", "ünï#?&", "long-" + "x" * 120])
async def test_any_state_directory_will_do(tmp_path: Path, folder: str) -> None:
    async with FakeDaemon(tmp_path / folder) as fake, Client(fake.state_dir) as client:
        assert await client.list_pulls()


async def test_a_proxy_in_the_environment_is_not_asked(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with Client(daemon.state_dir) as client:
        assert await client.list_pulls()


async def test_a_closed_client_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="closed"):
        await Client(tmp_path).list_peers()


async def test_a_shared_socket_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exo_dl import locations

    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    monkeypatch.setattr(locations, "_short_dir", lambda: shared)
    with pytest.raises(errors.DaemonUnavailableError, match="open to other users"):
        Client(tmp_path / ("x" * 120))


@pytest.mark.parametrize(
    "text",
    ["", "org/../x", "org/name\0", "/etc", "org/name@", "org/name@a\0b", "org/name@../x", "a/b/c", "org/name@a\nb"],
)
def test_names_that_cannot_be_models_are_refused_at_once(text: str) -> None:
    with pytest.raises(errors.UsageError):
        split_revision(text)


def test_revisions() -> None:
    assert split_revision("org/name") == ("org/name", "")
    assert split_revision("org/name@refs/pr/1") == ("org/name", "refs/pr/1")


async def test_contradictions_and_odd_lists_are_refused(client: Client) -> None:
    with pytest.raises(errors.UsageError, match="Two revisions"):
        await client.start_pull("org/name@a", revision="b")
    with pytest.raises(errors.UsageError, match="list"):
        await client.start_pull("org/name", include="*.bin")
    with pytest.raises(errors.UsageError, match="include"):
        await client.start_pull("org/name", include=["a\0b"])


def test_import_of_the_package_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, exo_dl; print(sorted({'grpc', 'asyncio', 'click', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
