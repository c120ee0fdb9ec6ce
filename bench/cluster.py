"""Daemons as processes, each with folders of its own, on this machine or in the lab's namespaces."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.rss import peak_rss_bytes
from exo_dl.locations import socket_path, socket_target
from exo_dl.rpc.v1 import cluster_pb2, cluster_pb2_grpc

__all__ = [
    "Command",
    "CommandError",
    "Node",
    "clean_environment",
    "hub_cache",
    "wait_at_rest",
    "wait_linked",
    "wait_until",
]

_PROGRAM_DIR = Path(sys.executable).parent
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.02
_REST_S, _REST_PART = 0.5, 0.15
_numbers = itertools.count(1)


class CommandError(Exception):
    """A command ended with an exit code other than 0; ``stdout`` and ``stderr`` are what it printed."""

    def __init__(self, argv: Sequence[str], exit_code: int, stdout: str, stderr: str) -> None:
        super().__init__(f"{' '.join(argv)}: exit {exit_code}\n{stdout[-2000:]}\n{stderr[-2000:]}")
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The JSON documents that it printed."""
        return [json.loads(line) for line in self.stdout.splitlines() if line.strip()]


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Returns as soon as ``condition()`` is true.

    Raises:
        TimeoutError: it was not within ``timeout_s``; the text names ``what`` was waited for.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Not within {timeout_s:g} s: {what}.")
        time.sleep(_POLL_S)


def clean_environment() -> dict[str, str]:
    """This process's environment without what would point exo-dl or huggingface_hub to places of this user."""
    foreign = ("EXO_DL_", "HF_", "HUGGING", "XDG_", "PYTHON")
    env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    for key in list(env):
        if key.lower().endswith("_proxy"):
            del env[key]
    return env


def hub_cache(home: Path, repo: str, *, repo_type: str = "model") -> Path:
    """The folder of ``repo`` in the Hugging Face cache whose ``HF_HOME`` is ``home``."""
    return home / "hub" / f"{repo_type}s--{repo.replace('/', '--')}"


class Command:
    """A running ``exo-dl ... --json``. It prints into files, so that what it says can be read at any time."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], folder: Path) -> None:
        self.argv = list(argv)
        name = f"command-{next(_numbers)}"
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(self.argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def documents(self) -> list[dict[str, Any]]:
        """The JSON documents that it has printed so far, one a line."""
        lines = self._out.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines if line.strip()]

    def wait(self, *, timeout_s: float = 120) -> list[dict[str, Any]]:
        """Waits for its end; gives all documents.

        Raises:
            CommandError: exit code other than 0.
            TimeoutError: no end within ``timeout_s``; the command was killed.
        """
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            last = self._out.read_text(encoding="utf-8")[-2000:]
            raise TimeoutError(f"{' '.join(self.argv)}: no end within {timeout_s:g} s; it said last:\n{last}") from None
        if code:
            stdout, stderr = (path.read_text(encoding="utf-8", errors="replace") for path in (self._out, self._err))
            raise CommandError(self.argv, code, stdout, stderr)
        return self.documents()

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], *, timeout_s: float = 60, what: str) -> None:
        """Waits until the newest document meets ``condition``.

        Raises:
            TimeoutError: none did within ``timeout_s``.
            RuntimeError: the command ended before.
        """

        def met() -> bool:
            ended = self.process.poll() is not None
            documents = self.documents()
            if documents and condition(documents[-1]):
                return True
            if ended:
                raise RuntimeError(f"{' '.join(self.argv)} ended before this: {what}. Its last words: {documents[-1:]}")
            return False

        wait_until(met, timeout_s=timeout_s, what=what)

    def wait_for_share(self, share: float, *, timeout_s: float = 60) -> None:
        """Waits until a pull has verified ``share`` (0..1) of all the bytes that its nodes want."""
        self.wait_for(
            lambda pull: pull["bytes_done"] >= share * pull["bytes_wanted"] > 0,
            timeout_s=timeout_s,
            what=f"{share:.0%} of the bytes",
        )

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(10)


def _here(argv: Sequence[str]) -> list[str]:
    """The command as it is, and where there is a way to say so, ended when the process that started it ends."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--", *argv] if setpriv else list(argv)


class Node:
    """One daemon with its own state directory and its own ``HF_HOME``.

    Args:
        name: its ``EXO_DL_NAME``.
        folder: where its folders and its log go.
        secret: the cluster's secret text.
        endpoint: the hub's URL.
        wrap: turns a command into one that runs where this node is (a namespace); default: this machine.
        peers: static peers, "host:port".
        port: the gRPC port; 0: any.
        settings: further settings as environment variables.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        secret: str,
        endpoint: str,
        wrap: Callable[[Sequence[str]], list[str]] | None = None,
        peers: Sequence[str] = (),
        port: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self.port = port
        self.home = folder / "hf"
        self.state_dir = folder / "state"
        self.log = folder / "daemon.log"
        self._wrap = wrap or _here
        self._process: subprocess.Popen[bytes] | None = None
        self._commands: list[Command] = []
        self.home.mkdir(parents=True, exist_ok=True)
        self.env = clean_environment() | {
            "HOME": str(folder),
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": endpoint,
            "EXO_DL_STATE_DIR": str(self.state_dir),
            "EXO_DL_NAME": name,
            "EXO_DL_CLUSTER_SECRET": secret,
            "EXO_DL_LOG_JSON": "1",
        }
        if peers:
            self.env["EXO_DL_PEERS"] = ",".join(peers)
        self.env.update(settings or {})

    # -- life

    def start(self) -> None:
        """Starts the daemon; see `wait_ready`."""
        argv = [sys.executable, "-m", "exo_dld", "--state-dir", str(self.state_dir), "--port", str(self.port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._wrap(argv), env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def wait_ready(self, *, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Waits until the daemon answers the health check on its socket."""
        wait_until(self._answers, timeout_s=timeout_s, what=f"{self.name} answers (log: {self.log})")

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with exit {self.process.returncode}:\n{self.log_tail()}")
        if not socket_path(self.state_dir).exists():
            return False
        try:
            with self.channel() as channel:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The daemon's process."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started.")
        return self._process

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> int:
        """SIGTERM, and its exit code; SIGKILL when that takes too long."""
        if self.running:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode if self._process is not None else 0

    def kill(self) -> None:
        """SIGKILL, for its commands that still run as well."""
        for command in self._commands:
            command.kill()
        self._commands.clear()
        if self.running:
            self.process.kill()
            self.process.wait(_STOP_TIMEOUT_S)

    def pause(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    # -- talking to it

    def channel(self) -> grpc.Channel:
        """A channel to its Unix socket, for a with statement."""
        return grpc.insecure_channel(socket_target(socket_path(self.state_dir)))

    def up_peers(self) -> list[str]:
        """Names of the nodes that it is linked to, without itself, sorted."""
        return sorted(peer.name for peer in self._linked())

    def addresses_in_use(self) -> list[str]:
        """host:port of each node that it is linked to, as it reaches it now."""
        return [peer.addresses[0] for peer in self._linked()]

    def _linked(self) -> list[cluster_pb2.Peer]:
        try:
            with self.channel() as channel:
                stub = cluster_pb2_grpc.ClusterServiceStub(channel)
                peers = stub.ListPeers(cluster_pb2.ListPeersRequest(), timeout=5).peers
        except grpc.RpcError:
            return []
        return [peer for peer in peers if peer.state == cluster_pb2.PEER_STATE_UP]

    def command(self, *args: str) -> list[str]:
        """The words that run ``exo-dl ARGS`` as a user of this node."""
        return self._wrap([str(_PROGRAM_DIR / "exo-dl"), *args])

    def launch(self, *args: str) -> Command:
        """Starts ``exo-dl ARGS``."""
        command = Command(self.command(*args), env=self.env, folder=self.folder)
        self._commands.append(command)
        return command

    def json(self, *args: str, timeout_s: float = 120) -> list[dict[str, Any]]:
        """Runs ``exo-dl ARGS --json`` to its end and gives the documents that it printed."""
        return self.launch(*args, "--json").wait(timeout_s=timeout_s)

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float = 60) -> str:
        """Runs another program where this node is, as its user; its standard output.

        Raises:
            CommandError: exit code other than 0.
        """
        done = subprocess.run(
            self._wrap(argv),
            env=self.env | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode:
            raise CommandError(argv, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def spawn(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts another program where this node is, as its user; its output goes to a file in the node's folder."""
        with (self.folder / f"{Path(argv[0]).name}.out").open("ab") as log:
            return subprocess.Popen(
                self._wrap(argv),
                env=self.env | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    # -- what it uses and has

    def cpu_s(self) -> float:
        """CPU seconds of the daemon's process so far, user and system."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def metrics(self) -> cluster_pb2.NodeMetrics:
        """What the daemon counted and measured."""
        with self.channel() as channel:
            stub = cluster_pb2_grpc.ClusterServiceStub(channel)
            return stub.GetMetrics(cluster_pb2.GetMetricsRequest(), timeout=10).metrics

    def peak_rss_bytes(self) -> int:
        """The most memory that the daemon's process held."""
        return peak_rss_bytes(self.process.pid)

    def log_tail(self, *, lines: int = 30) -> str:
        """The end of the daemon's log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def forget(self) -> None:
        """Removes all that the node has on disk; only while it does not run."""
        for folder in (self.home, self.state_dir):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)
        self.home.mkdir(parents=True)


def wait_linked(nodes: Sequence[Node], *, timeout_s: float = 20) -> None:
    """Waits until each of ``nodes`` is linked to all the others."""
    for node in nodes:
        others = sorted(other.name for other in nodes if other is not node)
        wait_until(
            lambda node=node, others=others: set(others) <= set(node.up_peers()),  # type: ignore[misc]
            timeout_s=timeout_s,
            what=f"{node.name} is linked to {', '.join(others)}",
        )


def wait_at_rest(nodes: Sequence[Node], *, timeout_s: float = 30) -> None:
    """Waits until daemons that were started just now have loaded what they load in the background.

    That takes each of them a third of a second of CPU, once; a pull that begins meanwhile waits for it.
    """

    def quiet() -> bool:
        before_s = sum(node.cpu_s() for node in nodes)
        time.sleep(_REST_S)
        return sum(node.cpu_s() for node in nodes) - before_s < _REST_S * _REST_PART

    wait_until(quiet, timeout_s=timeout_s, what="the daemons have nothing to do")
