"""The command itself, as its own process, against a real gRPC server on a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from exo_dl.rpc.v1 import cluster_pb2, pull_pb2
from tests.unit.client.fake_daemon import COMMIT, PULL_ID, FakeDaemon, make_node, make_pull

LIMIT_S = 20


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict]:  # type: ignore[type-arg]
        return [json.loads(line) for line in self.out.splitlines()]


async def spawn(*arguments: str, state_dir: Path, stdin: int | None = None, stdout: int = PIPE) -> Process:
    environment = {**os.environ, "EXO_DL_STATE_DIR": str(state_dir)}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "exo_dl.cli", *arguments, stdin=stdin, stdout=stdout, stderr=PIPE, env=environment
    )


async def exo_dl(*arguments: str, state_dir: Path, send: str | None = None) -> Done:
    process = await spawn(*arguments, state_dir=state_dir, stdin=PIPE if send is not None else None)
    out, err = await asyncio.wait_for(process.communicate(None if send is None else send.encode()), LIMIT_S)
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with FakeDaemon(tmp_path / "state") as fake:
        yield fake


async def test_pull_in_lines(daemon: FakeDaemon) -> None:
    done = await exo_dl("pull", "org/model", state_dir=daemon.state_dir)
    assert done.code == 0
    assert done.err == ""
    assert "anna: pulling, 50 % (1.0 GB of 2.0 GB)" in done.out
    assert "Done: org/model at c0ffee000000 on 2 nodes in 12 s (least time for this network: 10 s)." in done.out
    assert "Here it is: /cache/models--org--model" in done.out


async def test_pull_passes_on_what_was_asked(daemon: FakeDaemon, tmp_path: Path) -> None:
    done = await exo_dl(
        *(
            "pull",
            "org/model@v1",
            "--include",
            "*.json",
            "--include",
            "a b/*",
            "--exclude",
            "x*",
            "--nodes",
            "anna,bob",
        ),
        *("--layout", "dir:some/where", "--repo-type", "dataset", "--no-wait"),
        state_dir=daemon.state_dir,
    )
    assert done.code == 0
    assert done.out == f"Started the pull {PULL_ID} of org/model.\nWatch it with: exo-dl status {PULL_ID} --watch\n"
    assert daemon.requests == [
        pull_pb2.StartPullRequest(
            repo="org/model",
            revision="v1",
            repo_type="dataset",
            include=["*.json", "a b/*"],
            exclude=["x*"],
            nodes=["anna", "bob"],
            layout=f"dir:{Path.cwd()}/some/where",
        )
    ]


async def test_pull_as_json_ends_with_the_summary(daemon: FakeDaemon) -> None:
    done = await exo_dl("pull", "org/model", "--json", state_dir=daemon.state_dir)
    assert done.code == 0
    *progress, last = done.documents
    assert [document["state"] for document in progress] == ["running", "done"]
    assert len(last) == 11
    assert (last["pull_id"], last["commit"], last["state"]) == (PULL_ID, COMMIT, "done")


async def test_pull_as_json_without_waiting_is_the_summary_alone(daemon: FakeDaemon) -> None:
    done = await exo_dl("pull", "org/model", "--json", "--no-wait", "--nodes", "all", state_dir=daemon.state_dir)
    assert done.code == 0
    (last,) = done.documents
    assert last["state"] == "running"
    assert list(daemon.requests[0].nodes) == []


async def test_pull_that_fails(daemon: FakeDaemon) -> None:
    nodes = [
        make_node("anna", pull_pb2.NODE_PULL_STATE_DONE),
        make_node("bob", pull_pb2.NODE_PULL_STATE_FAILED, error="The disk is full."),
    ]
    daemon.updates = [make_pull(), make_pull(pull_pb2.PULL_STATE_FAILED, nodes=nodes)]
    done = await exo_dl("pull", "org/model", "--json", state_dir=daemon.state_dir)
    assert done.code == 9
    assert done.documents[-1]["nodes"][1]["error"] == "The disk is full."
    assert done.err.splitlines()[:2] == [
        "exo-dl: The pull of org/model failed: 1 of 2 nodes lack the model.",
        "  bob: The disk is full.",
    ]


async def test_pull_that_ends_without_a_lost_node(daemon: FakeDaemon) -> None:
    ended = {
        "nodes": [make_node("anna", pull_pb2.NODE_PULL_STATE_DONE)],
        "lost_nodes": [make_node("bob", pull_pb2.NODE_PULL_STATE_LOST)],
        "error": "bob: the link to it was lost, and it did not come back",
    }
    daemon.updates = [make_pull(), make_pull(pull_pb2.PULL_STATE_FAILED, **ended)]
    done = await exo_dl("pull", "org/model", "--json", state_dir=daemon.state_dir)
    assert done.code == 9
    assert [node["name"] for node in done.documents[-1]["nodes"]] == ["anna"]
    for document in done.documents[-2:]:
        assert [(node["name"], node["state"]) for node in document["lost_nodes"]] == [("bob", "lost")]
    assert done.err.splitlines()[:3] == [
        "exo-dl: The pull of org/model failed: 1 of 2 nodes lack the model.",
        f"  {ended['error']}",
        "  bob: was lost during the pull, and does not have the model",
    ]


async def test_pull_that_is_cancelled(daemon: FakeDaemon) -> None:
    daemon.updates = [make_pull(), make_pull(pull_pb2.PULL_STATE_CANCELLED)]
    done = await exo_dl("pull", "org/model", state_dir=daemon.state_dir)
    assert done.code == 10
    assert "was cancelled" in done.err


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("INVALID_ARGUMENT", 2),
        ("NOT_FOUND", 3),
        ("PERMISSION_DENIED", 4),
        ("UNAVAILABLE", 5),
        ("RESOURCE_EXHAUSTED", 7),
    ],
)
async def test_pull_that_is_refused(daemon: FakeDaemon, status: str, code: int) -> None:
    daemon.failure = (grpc.StatusCode[status], "It cannot be done.\nDo this.\x1b[0m\nOr that.")
    done = await exo_dl("pull", "org/model", state_dir=daemon.state_dir)
    assert (done.code, done.out) == (code, "")
    assert done.err == "exo-dl: It cannot be done.\n  Do this.�[0m\n  Or that.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("pull", "org/../etc"),
        ("pull", "org/name@"),
        ("pull", "org/name", "--nodes", "all,bob"),
        ("pull", "org/name", "--nodes", "bob,,eve"),
        ("pull", "org/name", "--layout", "nowhere"),
        ("pull", "org/name", "--layout", "dir:"),
        ("pull",),
        ("pull", "org/name", "--no-such-flag"),
        ("no-such-command",),
        ("status", "--state-dir", ""),
    ],
)
async def test_arguments_that_cannot_be_used(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = await exo_dl(*arguments, state_dir=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err


async def test_without_a_daemon(tmp_path: Path) -> None:
    done = await exo_dl("pull", "org/model", state_dir=tmp_path)
    assert (done.code, done.out) == (6, "")
    assert done.err == f"exo-dl: No exo-dl daemon answers at {tmp_path}/daemon.sock.\n  Start one with: exo-dl up\n"


@pytest.mark.parametrize("before", [True, False])
async def test_state_dir_may_stand_before_or_after_the_command(
    daemon: FakeDaemon, tmp_path: Path, before: bool
) -> None:
    flag = ("--state-dir", str(daemon.state_dir))
    arguments = (*flag, "status", "--json") if before else ("status", "--json", *flag)
    done = await exo_dl(*arguments, state_dir=tmp_path / "another")
    assert done.code == 0


async def interrupt(daemon: FakeDaemon, process: Process) -> Done:
    await asyncio.wait_for(daemon.watching.wait(), LIMIT_S)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert process.returncode is not None
    return Done(process.returncode, (out or b"").decode(), err.decode())


async def test_ctrl_c_leaves_the_pull_running_and_says_so(daemon: FakeDaemon) -> None:
    daemon.hold = asyncio.Event()
    process = await spawn("pull", "org/model", state_dir=daemon.state_dir)
    done = await interrupt(daemon, process)
    assert done.code == 130
    assert done.err == (
        "\nThe pull goes on without this command.\n"
        f"Watch it with:  exo-dl status {PULL_ID} --watch\n"
        f"Cancel it with: exo-dl cancel {PULL_ID}\n"
    )
    assert not any(isinstance(request, pull_pb2.CancelPullRequest) for request in daemon.requests)


async def test_a_daemon_that_is_lost_during_a_pull(daemon: FakeDaemon) -> None:
    daemon.hold = asyncio.Event()
    process = await spawn("pull", "org/model", state_dir=daemon.state_dir)
    await asyncio.wait_for(daemon.watching.wait(), LIMIT_S)
    await daemon.stop()
    _, err = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert process.returncode == 6
    assert f"The daemon stopped while the pull {PULL_ID} was running." in err.decode()


async def test_pull_on_a_terminal_draws_and_gives_the_cursor_back(daemon: FakeDaemon) -> None:
    daemon.hold = asyncio.Event()
    leader, follower = pty.openpty()
    os.set_blocking(leader, False)
    seen = bytearray()
    drawn = asyncio.Event()

    def read() -> None:
        seen.extend(os.read(leader, 1 << 16))
        if b"cluster" in seen:
            drawn.set()

    asyncio.get_running_loop().add_reader(leader, read)
    try:
        process = await spawn("pull", "org/model", state_dir=daemon.state_dir, stdout=follower)
        await asyncio.wait_for(drawn.wait(), LIMIT_S)
        done = await interrupt(daemon, process)
        with contextlib.suppress(BlockingIOError):
            read()
    finally:
        asyncio.get_running_loop().remove_reader(leader)
        os.close(leader)
        os.close(follower)
    text = seen.decode()
    assert done.code == 130
    assert "anna" in text and "━" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


async def test_status_lists_pulls(daemon: FakeDaemon) -> None:
    daemon.pulls = [make_pull(), make_pull(pull_pb2.PULL_STATE_DONE, pull_id="f" * 20)]
    done = await exo_dl("status", state_dir=daemon.state_dir)
    assert done.code == 0
    heading, first, second = done.out.splitlines()
    assert heading.split()[:3] == ["PULL", "MODEL", "STATE"]
    assert first.startswith(f"{PULL_ID}  org/model@main  running  50 %")
    assert second.endswith("-")
    done = await exo_dl("status", "--json", state_dir=daemon.state_dir)
    (document,) = done.documents
    assert [pull["state"] for pull in document["pulls"]] == ["running", "done"]


@pytest.mark.parametrize("name", [PULL_ID, PULL_ID[:4], "org/model", "org/model@main", f"org/model@{COMMIT}"])
async def test_status_of_one_pull(daemon: FakeDaemon, name: str) -> None:
    done = await exo_dl("status", name, "--json", state_dir=daemon.state_dir)
    (document,) = done.documents
    assert document["pull_id"] == PULL_ID
    assert list(document) == [spec.name for spec in pull_pb2.Pull.DESCRIPTOR.fields]


async def test_status_of_one_pull_for_people(daemon: FakeDaemon) -> None:
    daemon.pulls = [make_pull(events=["bob was lost"], error="It is stuck.")]
    done = await exo_dl("status", PULL_ID, state_dir=daemon.state_dir)
    for text in ("  anna: pulling, 50 %", "  bob was lost", "Error: It is stuck.", COMMIT, "0 of 2 nodes done"):
        assert text in done.out


async def test_status_of_a_pull_that_is_not_there_or_not_clear(daemon: FakeDaemon) -> None:
    done = await exo_dl("status", "ffff", state_dir=daemon.state_dir)
    assert done.code == 3
    daemon.pulls = [make_pull(), make_pull(pull_id="0123" + "f" * 16)]
    done = await exo_dl("status", "0123", state_dir=daemon.state_dir)
    assert done.code == 2
    assert "fits 2 pulls" in done.err


async def test_status_watch_ends_with_the_pull_and_its_exit_code(daemon: FakeDaemon) -> None:
    daemon.updates = [make_pull(), make_pull(pull_pb2.PULL_STATE_FAILED)]
    done = await exo_dl("status", PULL_ID, "--watch", "--json", state_dir=daemon.state_dir)
    assert done.code == 9
    assert [document["state"] for document in done.documents] == ["running", "failed"]


async def test_peers(daemon: FakeDaemon) -> None:
    daemon.peers = [
        cluster_pb2.Peer(
            id="a1", name="anna", state=cluster_pb2.PEER_STATE_SELF, addresses=["10.0.0.1:1"], version="0.1"
        ),
        cluster_pb2.Peer(
            id="b1", name="bob", state=cluster_pb2.PEER_STATE_UNREACHABLE, problem="timed out", last_seen_s=4.2
        ),
    ]
    done = await exo_dl("peers", state_dir=daemon.state_dir)
    lines = done.out.splitlines()
    assert lines[1].startswith("anna  a1  self") and lines[1].endswith("now")
    assert "timed out" in lines[2] and lines[2].endswith("4.2 s ago")
    done = await exo_dl("peers", "--json", state_dir=daemon.state_dir)
    (document,) = done.documents
    assert [peer["state"] for peer in document["peers"]] == ["self", "unreachable"]
    assert list(document["peers"][0]) == [spec.name for spec in cluster_pb2.Peer.DESCRIPTOR.fields]


async def test_peers_watch_goes_on_until_ctrl_c(daemon: FakeDaemon) -> None:
    daemon.hold = asyncio.Event()
    daemon.peers = [cluster_pb2.Peer(id="a1", name="anna")]
    process = await spawn("peers", "--watch", "--json", state_dir=daemon.state_dir)
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), LIMIT_S)
    assert json.loads(line)["peers"][0]["name"] == "anna"
    done = await interrupt(daemon, process)
    assert (done.code, done.err) == (130, "")


async def test_ls(daemon: FakeDaemon) -> None:
    assert "No models" in (await exo_dl("ls", state_dir=daemon.state_dir)).out
    daemon.models = [
        pull_pb2.Model(repo="org/m", commit=COMMIT, revisions=["main"], size_bytes=5, files=1, path="/p", complete=True)
    ]
    assert (
        "org/m  c0ffee000000  main       5 B   1      yes       /p"
        in (await exo_dl("ls", state_dir=daemon.state_dir)).out
    )
    (document,) = (await exo_dl("ls", "--json", state_dir=daemon.state_dir)).documents
    assert list(document["models"][0]) == [spec.name for spec in pull_pb2.Model.DESCRIPTOR.fields]


async def test_cancel(daemon: FakeDaemon) -> None:
    done = await exo_dl("cancel", "org/model", state_dir=daemon.state_dir)
    assert (done.code, done.out.split(".")[0]) == (0, f"Cancelled the pull {PULL_ID} of org/model")
    assert daemon.requests[-1] == pull_pb2.CancelPullRequest(pull_id=PULL_ID)
    daemon.pulls = [make_pull(pull_pb2.PULL_STATE_DONE)]
    done = await exo_dl("cancel", PULL_ID, state_dir=daemon.state_dir)
    assert "had already ended (done)" in done.out
    (document,) = (await exo_dl("cancel", PULL_ID, "--json", state_dir=daemon.state_dir)).documents
    assert document["state"] == "cancelled"


async def test_verify(daemon: FakeDaemon) -> None:
    daemon.checks = [
        pull_pb2.VerifyModelResponse(path="a", size_bytes=5, ok=True, files_total=2, files_done=1),
        pull_pb2.VerifyModelResponse(path="b", size_bytes=6, problem="its sha256 differs", files_total=2, files_done=2),
    ]
    done = await exo_dl("verify", "org/model", state_dir=daemon.state_dir)
    assert done.code == 8
    assert done.out.splitlines() == ["1/2 ok    a", "2/2 WRONG b: its sha256 differs"]
    assert "1 of 2 files of org/model on this node are not what the hub has." in done.err
    daemon.checks.pop()
    done = await exo_dl("verify", "org/model", state_dir=daemon.state_dir)
    assert (done.code, done.out.splitlines()[-1]) == (0, "All 1 files of org/model (5 B) have the hub's digest.")
    (document,) = (await exo_dl("verify", "org/model", "--json", state_dir=daemon.state_dir)).documents
    assert document["ok"] is True


async def test_a_reader_that_goes_away_is_no_traceback(daemon: FakeDaemon) -> None:
    daemon.pulls = [make_pull(pull_id=f"{number:020x}") for number in range(2000)]
    process = await spawn("status", state_dir=daemon.state_dir, stdout=PIPE)
    assert process.stdout is not None and process.stderr is not None
    await asyncio.wait_for(process.stdout.read(1), LIMIT_S)
    process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
    err = await asyncio.wait_for(process.stderr.read(), LIMIT_S)
    await asyncio.wait_for(process.wait(), LIMIT_S)
    assert err == b""


async def test_up_runs_the_daemon_in_place(tmp_path: Path) -> None:
    done = await exo_dl("--state-dir", "/from/group", "up", "--name", "x", "--version", state_dir=tmp_path)
    assert done.code == 0, done.err
    assert done.out.startswith("exo-dld 0.1.0")
