"""The lab: real daemons in network namespaces, and nginx as their hub."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from bench.cluster import Node, wait_linked, wait_until
from bench.labnet import HUB_ADDRESS, HUB_PORT, LabNet, LabUnavailableError, NodePlan, find_tool
from bench.models import LabModel
from bench.nginx_hub import write_config
from bench.served import Request, read_requests
from exo_dl.net.identity import new_secret

__all__ = ["HUB_URL", "Lab", "faulty_lab", "nginx_lab"]

HUB_URL = f"http://{HUB_ADDRESS}:{HUB_PORT}"

# The log counts what nginx gave to the socket. Where a client cuts a response short, what is still in this buffer is
# counted although no link carried it; with buffers that the kernel tunes that would be megabytes each time.
_SEND_BUFFER_BYTES = 128 << 10

_ORDER = """
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], data=sys.stdin.buffer.read(), timeout=10)
"""


class Lab:
    """A network, a hub on it and a daemon on each of its nodes, for a with statement. Nodes are started by `start`.

    Args:
        plans: the nodes and their links.
        folder: an empty folder on a disk with room for every node's copy of the model.
        hub: the command that serves the hub at `HUB_URL` in the foreground, and writes its access log to ``hub_log``.
        hub_log: the access log, one JSON object a line.
        shared_uplink_mbit: see `LabNet`.
        settings: settings of single nodes (by name), as environment variables.
        small_disks: bytes of a file system of its own for the ``HF_HOME`` of single nodes (by name); only the node's
            own programs see what is in it.
    """

    def __init__(
        self,
        plans: Sequence[NodePlan],
        *,
        folder: Path,
        hub: Sequence[str],
        hub_log: Path,
        shared_uplink_mbit: float | None = None,
        settings: Mapping[str, Mapping[str, str]] | None = None,
        small_disks: Mapping[str, int] | None = None,
    ) -> None:
        self.folder = folder
        self.hub_log = hub_log
        self._hub_command = list(hub)
        self._hub: subprocess.Popen[bytes] | None = None
        self.net = LabNet(plans, shared_uplink_mbit=shared_uplink_mbit)
        self._small_disks = dict(small_disks or {})
        secret = new_secret()
        self.nodes = {
            plan.name: Node(
                plan.name,
                folder / plan.name,
                secret=secret,
                endpoint=HUB_URL,
                wrap=partial(self._command, plan.name),
                settings=(settings or {}).get(plan.name),
            )
            for plan in plans
        }

    def _command(self, name: str, argv: Sequence[str]) -> list[str]:
        size_bytes = self._small_disks.get(name)
        if size_bytes is not None:
            script = f'mount -t tmpfs -o size={size_bytes} tmpfs "$1" && shift && exec "$@"'
            home = str(self.folder / name / "hf")
            argv = ["unshare", "--mount", "sh", "-c", script, "sh", home, *argv]
        return self.net.command(name, argv)

    def __enter__(self) -> Lab:
        try:
            self.start_hub()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends daemons, hub and network. Their files stay."""
        for node in self.nodes.values():
            node.kill()
        self.stop_hub()
        self.net.close()

    # -- hub

    def start_hub(self) -> None:
        """Starts the hub and waits until it answers."""
        self.hub_log.parent.mkdir(parents=True, exist_ok=True)
        with (self.hub_log.parent / "hub.out").open("ab") as out:
            self._hub = self.net.popen("hub", self._hub_command, log=out)
        wait_until(self._hub_answers, timeout_s=15, what=f"the hub answers ({self.hub_log.parent / 'hub.out'})")

    def _hub_answers(self) -> bool:
        if self._hub is None or self._hub.poll() is not None:
            raise RuntimeError(f"The hub ended: see {self.hub_log.parent / 'hub.out'}.")
        return self.net.listens("hub", HUB_PORT)

    def stop_hub(self) -> None:
        """Ends the hub (SIGTERM)."""
        if self._hub is not None and self._hub.poll() is None:
            self._hub.terminate()
            try:
                self._hub.wait(10)
            except subprocess.TimeoutExpired:
                self._hub.kill()
                self._hub.wait(10)

    def fault(self, kind: str, **given: object) -> None:
        """Orders a fault from a `faulty_lab`'s hub; see `bench.faults.Fault` for what can be given."""
        order = json.dumps({"kind": kind} | given)
        self.net.run("hub", [sys.executable, "-c", _ORDER, f"{HUB_URL}/_faults"], stdin=order)

    def mark(self) -> int:
        """Where the hub's access log ends now, for `requests`."""
        return self.hub_log.stat().st_size if self.hub_log.exists() else 0

    def requests(self, *, since: int = 0) -> list[Request]:
        """What the hub was asked after `mark` gave ``since``."""
        return read_requests(self.hub_log, offset=since) if self.hub_log.exists() else []

    # -- nodes

    def start(self, names: Iterable[str] | None = None) -> list[Node]:
        """Starts the named nodes (default: all) and waits until they and all that run are linked to each other."""
        started = [self.nodes[name] for name in (self.nodes if names is None else names)]
        for node in started:
            node.start()
        for node in started:
            node.wait_ready()
        wait_linked([node for node in self.nodes.values() if node.running])
        return started

    def fresh(self) -> None:
        """Stops all nodes and removes what they have on disk, and starts them again."""
        for node in self.nodes.values():
            node.stop()
            node.forget()
        self.start()


def nginx_lab(
    plans: Sequence[NodePlan],
    model: LabModel,
    *,
    folder: Path,
    shared_uplink_mbit: float | None = None,
    settings: Mapping[str, Mapping[str, str]] | None = None,
    small_disks: Mapping[str, int] | None = None,
) -> Lab:
    """A lab whose hub is nginx, with the model on it.

    Raises:
        LabUnavailableError: there is no nginx.
    """
    if (nginx_path := find_tool("nginx")) is None:
        raise LabUnavailableError("There is no nginx here: `make lab-tools` installs it.")
    config = write_config(
        folder / "nginx", model.root, port=HUB_PORT, listen=HUB_ADDRESS, send_buffer_bytes=_SEND_BUFFER_BYTES
    )
    # One process: it dies with the run that started it, and a lone worker is all that the configuration asks for.
    nginx = [nginx_path, "-c", str(config), "-e", str(folder / "nginx" / "error.log")]
    return Lab(
        plans,
        folder=folder,
        hub=[*nginx, "-g", "master_process off;"],
        hub_log=folder / "nginx" / "access.log",
        shared_uplink_mbit=shared_uplink_mbit,
        settings=settings,
        small_disks=small_disks,
    )


def faulty_lab(
    plans: Sequence[NodePlan],
    model: LabModel,
    *,
    folder: Path,
    options: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, str]] | None = None,
) -> Lab:
    """A lab whose hub is `bench.hub`, which misbehaves on order (`Lab.fault`). ``options`` are its command line's."""
    log = folder / "hub" / "access.log"
    command = [sys.executable, str(Path(__file__).parent / "hub.py"), "--root", str(model.root), "--log", str(log)]
    return Lab(
        plans,
        folder=folder,
        hub=[*command, "--host", HUB_ADDRESS, "--port", str(HUB_PORT), *options],
        hub_log=log,
        settings=settings,
    )
