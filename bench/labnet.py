"""Networks for the lab: namespaces on bridges, with shaped links, made with iproute2 on one Linux machine.

A namespace lives as long as a small process that reads from a pipe of this one, so nothing is left behind when the
run ends in whatever way, and no name can clash with another run's. As root the namespaces are made directly, otherwise
inside one unprivileged user namespace, where the kernel allows that.

Each node has a LAN port on a bridge (shaped in both directions) and, apart from it, a link of its own to the hub.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

__all__ = [
    "HUB_ADDRESS",
    "HUB_PORT",
    "LabNet",
    "LabUnavailableError",
    "Namespace",
    "NodePlan",
    "find_tool",
    "payload_bytes_per_s",
    "unavailable_reason",
]

HUB_ADDRESS = "10.90.0.1"
HUB_PORT = 8080

# An Ethernet frame of 1514 bytes carries 1500 bytes of IP, of which 20 + 32 are headers (TCP with time stamps).
_FRAME_BYTES = 1514
_FRAME_PAYLOAD_BYTES = 1500 - 52

_NAMESPACE_SCRIPT = """
ip link set lo up
for key in ipv6/conf/all/accept_dad ipv6/conf/default/accept_dad ipv6/conf/default/dad_transmits; do
    [ ! -e /proc/sys/net/$key ] || echo 0 > /proc/sys/net/$key
done
"""


# Where tools for root are; not on the PATH of everybody.
_SYSTEM_PATH = "/usr/sbin:/sbin"


class LabUnavailableError(Exception):
    """This machine or user cannot make the lab's networks; the text says why."""


def find_tool(name: str) -> str | None:
    """Path of a program, looked for where root's tools are as well; None where there is none."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}")


def payload_bytes_per_s(mbit: float) -> float:
    """Bytes of TCP payload per second that a link of ``mbit`` Mbit/s (counted in Ethernet frames) can carry."""
    return mbit * 1e6 / 8 * _FRAME_PAYLOAD_BYTES / _FRAME_BYTES


class Namespace:
    """A network namespace, kept by its own process."""

    def __init__(self, name: str, *, enter: Sequence[str], make: Sequence[str]) -> None:
        self.name = name
        self._keeper = subprocess.Popen(
            [*enter, *make, "sh", "-c", "echo ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self._keeper.stdout is None or self._keeper.stdout.readline() != "ready\n":
            _, problem = self._keeper.communicate(timeout=10)
            raise LabUnavailableError(f"{' '.join(make)}: {problem.strip() or 'no answer'}")

    @property
    def pid(self) -> int:
        """Process id of the keeper: /proc/<pid>/ns holds the namespace."""
        return self._keeper.pid

    def prefix(self, *, user: bool) -> list[str]:
        """The command words that enter it; ``user`` where it lies in a user namespace."""
        words = ["nsenter", "--target", str(self.pid), "--net"]
        return [*words, "--mount", "--user", "--preserve-credentials"] if user else words

    def close(self) -> None:
        """Ends the keeper; the kernel frees the namespace when its last process is gone."""
        self._keeper.kill()
        self._keeper.communicate(timeout=10)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """How one node is connected.

    Attributes:
        name: at most 10 letters and digits.
        hub_mbit: rate of its link to the hub in Mbit/s, each direction; None: no route to the hub.
        lan_mbit: rate of its LAN port in Mbit/s, each direction; None: not on the LAN.
        slow_mbit: rate of its port on a second LAN with lower addresses; None: not on it.
        multicast: False: the switch drops multicast from and to its LAN ports.
    """

    name: str
    hub_mbit: float | None = 100.0
    lan_mbit: float | None = 1000.0
    slow_mbit: float | None = None
    multicast: bool = True


class LabNet:
    """All namespaces of one lab: "fabric" (the switches), "hub", and one for each node.

    Args:
        nodes: the nodes, in the order of their addresses.
        shared_uplink_mbit: rate in Mbit/s of one link that all nodes' hub traffic goes through; None: there is none.

    Raises:
        LabUnavailableError: namespaces or links cannot be made here.
    """

    def __init__(self, nodes: Sequence[NodePlan], *, shared_uplink_mbit: float | None = None) -> None:
        self.nodes = tuple(nodes)
        self.shared_uplink_mbit = shared_uplink_mbit
        self._user = os.geteuid() != 0
        self._base: Namespace | None = None
        self._spaces: dict[str, Namespace] = {}
        missing = [tool for tool in ("ip", "tc", "unshare", "nsenter", "setpriv") if find_tool(tool) is None]
        if sys.platform != "linux" or missing:
            raise LabUnavailableError(f"needs Linux with iproute2 and util-linux (missing: {', '.join(missing)})")
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LabNet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees all namespaces. Processes that still run in them are their starter's business."""
        for space in self._spaces.values():
            space.close()
        self._spaces.clear()
        if self._base is not None:
            self._base.close()
            self._base = None

    # -- processes

    def command(self, space: str, argv: Sequence[str]) -> list[str]:
        """The words that run ``argv`` in the namespace ``space``; it dies with the process that starts it."""
        prefix = self._spaces[space].prefix(user=self._user)
        return [*prefix, "setpriv", "--pdeathsig", "KILL", "--", *argv]

    def run(
        self,
        space: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout_s: float = 60,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program in a namespace to its end. With ``check`` an exit code other than 0 is a RuntimeError."""
        done = subprocess.run(
            self.command(space, argv),
            env=dict(env) if env is not None else None,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(argv)} in {space}: exit {done.returncode}: {done.stderr.strip()}")
        return done

    def popen(
        self, space: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, log: IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a program in a namespace. The process id is the program's own. Its output goes to ``log``."""
        return subprocess.Popen(
            self.command(space, argv),
            env=dict(env) if env is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=log if log is not None else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )

    # -- addresses

    def lan_address(self, node: str) -> str:
        """IPv4 address of a node on the LAN."""
        return f"10.77.0.{self._number(node) + 10}"

    def slow_address(self, node: str) -> str:
        """IPv4 address of a node on the second LAN."""
        return f"10.70.0.{self._number(node) + 10}"

    def hub_address(self, node: str) -> str:
        """IPv4 address of a node on its link to the hub: what the hub's log calls it."""
        return f"10.80.{self._number(node)}.2"

    def _number(self, node: str) -> int:
        return next(number for number, plan in enumerate(self.nodes) if plan.name == node)

    # -- changes while it runs

    def set_hub_rate(self, node: str, mbit: float) -> None:
        """Changes the rate of a node's hub link, both directions."""
        number = self._number(node)
        self._script("router", _shape(f"w{number}", mbit, change=True))
        self._script(node, _shape("wan0", mbit, change=True))

    def set_lan_rate(self, node: str, mbit: float) -> None:
        """Changes the rate of a node's LAN port, both directions."""
        self._script("fabric", _shape(f"l{self._number(node)}", mbit, change=True))
        self._script(node, _shape("lan0", mbit, change=True))

    def set_hub_link(self, node: str, *, up: bool) -> None:
        """Unplugs a node's hub link at the hub's end, or plugs it in again."""
        self._script("router", f"ip link set w{self._number(node)} {'up' if up else 'down'}")

    def set_lan_link(self, node: str, *, up: bool) -> None:
        """Unplugs a node's LAN port at the switch, or plugs it in again."""
        self._script("fabric", f"ip link set l{self._number(node)} {'up' if up else 'down'}")

    def set_lan_side(self, node: str, *, apart: bool) -> None:
        """Moves a node's LAN port to a second switch, or back: nodes that are apart reach each other and no others."""
        self._script("fabric", f"ip link set l{self._number(node)} master {'apart' if apart else 'lan'}")

    def received_bytes(self, node: str, device: str) -> int:
        """Bytes that a node's device ("lan0", "slow0", "wan0") has received, frames and all."""
        table = Path(f"/proc/{self._spaces[node].pid}/net/dev").read_text(encoding="ascii")
        return int(table.split(f"{device}:")[1].split()[0])

    def listens(self, space: str, port: int) -> bool:
        """Whether a program in the namespace listens on a TCP port (IPv4)."""
        table = Path(f"/proc/{self._spaces[space].pid}/net/tcp").read_text(encoding="ascii")
        return any(
            fields[1].endswith(f":{port:04X}") and fields[3] == "0A" for fields in map(str.split, table.splitlines())
        )

    # -- construction

    def _script(self, space: str, script: str) -> None:
        if space == "router" and self.shared_uplink_mbit is None:
            space = "hub"
        self.run(space, ["sh", "-e"], stdin=f'PATH="$PATH:{_SYSTEM_PATH}"\n{script}')

    def _namespace(self, name: str) -> None:
        if self._user and self._base is None:
            self._base = Namespace("base", enter=(), make=("unshare", "--user", "--map-root-user", "--net", "--mount"))
        enter = [] if self._base is None else self._base.prefix(user=True)
        self._spaces[name] = Namespace(name, enter=enter, make=("unshare", "--net"))
        self._script(name, _NAMESPACE_SCRIPT)

    def _build(self) -> None:
        for name in ("fabric", "hub"):
            self._namespace(name)
        self._script("fabric", _SWITCH_SCRIPT)
        self._script("hub", f"ip address add {HUB_ADDRESS}/32 dev lo\n")
        if self.shared_uplink_mbit is not None:
            self._build_uplink(self.shared_uplink_mbit)
        for plan in self.nodes:
            self._namespace(plan.name)
            self._build_node(plan)

    def _build_uplink(self, mbit: float) -> None:
        self._namespace("router")
        self._script(
            "router",
            f"""
            echo 1 > /proc/sys/net/ipv4/ip_forward
            ip link add up0 type veth peer name up0 netns {self._spaces["hub"].pid}
            ip address add 10.91.0.2/30 dev up0
            ip link set up0 up
            """,
        )
        self._script("hub", "ip address add 10.91.0.1/30 dev up0\nip link set up0 up\n" + _shape("up0", mbit))
        self._script("hub", "ip route add 10.80.0.0/16 via 10.91.0.2\n")
        self._script("router", f"ip route add {HUB_ADDRESS}/32 via 10.91.0.1\n" + _shape("up0", mbit))

    def _build_node(self, plan: NodePlan) -> None:
        number = self._number(plan.name)
        home = self._spaces[plan.name].pid
        # The slow one first: a program that takes the first or lowest address it sees takes the wrong one.
        for device, bridge, port, address, mbit in (
            ("slow0", "slow", f"s{number}", self.slow_address(plan.name), plan.slow_mbit),
            ("lan0", "lan", f"l{number}", self.lan_address(plan.name), plan.lan_mbit),
        ):
            if mbit is None:
                continue
            # Link-local addresses look alike on both networks: only those of the LAN are left, so that a test can tell.
            only_v4 = f"sysctl -q -w net.ipv6.conf.{device}.disable_ipv6=1" if device == "slow0" else ""
            self._script(
                "fabric",
                f"""
                ip link add {port} type veth peer name {device} netns {home}
                ip link set {port} master {bridge} up
                {_shape(port, mbit)}
                {"" if plan.multicast else _drop_multicast(port)}
                """,
            )
            self._script(
                plan.name,
                f"""
                {only_v4}
                ip address add {address}/24 dev {device}
                ip link set {device} up
                {_shape(device, mbit)}
                ip route add 224.0.0.0/4 dev {device} metric {100 if device == "lan0" else 200}
                """,
            )
        if plan.hub_mbit is not None:
            self._script(
                "router",
                f"""
                ip link add w{number} type veth peer name wan0 netns {home}
                ip address add 10.80.{number}.1/30 dev w{number}
                ip link set w{number} up
                {_shape(f"w{number}", plan.hub_mbit)}
                """,
            )
            self._script(
                plan.name,
                f"""
                ip address add 10.80.{number}.2/30 dev wan0
                ip link set wan0 up
                {_shape("wan0", plan.hub_mbit)}
                ip route add {HUB_ADDRESS}/32 via 10.80.{number}.1
                """,
            )


# Forwarding at once, multicast to every port: a plain switch. null0 is where dropped frames go (its peer stays down).
_SWITCH_SCRIPT = """
for bridge in lan slow apart; do
    ip link add $bridge type bridge mcast_snooping 0 stp_state 0 forward_delay 0
    ip link set $bridge up
done
ip link add null0 type veth peer name null1
ip link set null0 up
"""


def _shape(device: str, mbit: float, *, change: bool = False) -> str:
    """Shell lines that limit what leaves ``device``, with a queue of about 20 ms.

    TCP hands large packets to a device, and a real network card gives them to the receiver in large parts again. The
    bucket must hold one of these (2 ms at this rate, 16..64 KiB), or it cuts them up, and every 1.5 kB wakes a program:
    then most of what a bench measures would be the lab.
    """
    rate_bytes_per_s = mbit * 1e6 / 8
    packet = min(65536, max(16384, int(rate_bytes_per_s * 0.002)))
    burst = max(int(packet * 1.1), int(rate_bytes_per_s / 1000))
    queue = max(4 * burst, int(rate_bytes_per_s / 50))
    verb = "change" if change else "add"
    return (
        f"ip link set dev {device} gso_max_size {packet}\n"
        f"tc qdisc {verb} dev {device} root tbf rate {mbit:g}mbit burst {burst} limit {queue}"
    )


def _drop_multicast(port: str) -> str:
    """Shell lines that make a switch port lose mDNS and other IPv4 multicast, both ways (not IPv6 neighbours)."""
    lines = [f"tc qdisc add dev {port} clsact"]
    for hook in ("ingress", "egress"):
        for protocol, match in (("ip", "ip dst 224.0.0.0/4"), ("ipv6", "ip6 dst ff02::fb/128")):
            lines.append(
                f"tc filter add dev {port} {hook} protocol {protocol} u32 match {match} "
                "action mirred egress redirect dev null0"
            )
    return "\n".join(lines)


def unavailable_reason() -> str | None:
    """Why no lab can be made here, in one line; None where it can."""
    if find_tool("nginx") is None:
        return "needs nginx (tests/lab/setup.sh installs it)"
    try:
        with LabNet((NodePlan("probe", multicast=False),)):
            return None
    except (LabUnavailableError, RuntimeError, OSError) as error:
        return " ".join(str(error).split())
