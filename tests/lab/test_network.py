"""The lab itself: its links carry what they say, and its switch passes multicast to those that shall have it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.labnet import HUB_ADDRESS, HUB_PORT, LabNet, NodePlan, payload_bytes_per_s
from bench.models import LabModel
from tests.lab.conftest import MIB, MakeLab, plans

_READ = """
import sys, time, urllib.request
begin = time.monotonic()
request = urllib.request.Request(sys.argv[1], headers={"Range": "bytes=0-" + str(int(sys.argv[2]) - 1)})
with urllib.request.urlopen(request, timeout=60) as answer:
    while answer.read(65536):
        pass
print(time.monotonic() - begin)
"""

_LISTEN = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 5353))
group = socket.inet_aton("224.0.0.251") + socket.inet_aton(sys.argv[1])
sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
sock.settimeout(float(sys.argv[2]))
print("ready", flush=True)
try:
    print(sock.recv(100).decode())
except TimeoutError:
    print("nothing")
"""

_SEND = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
sock.sendto(b"hello", ("224.0.0.251", 5353))
"""


@pytest.mark.parametrize("mbit", [25.0, 100.0])
def test_one_connection_to_the_hub_gets_the_links_rate(make_lab: MakeLab, model: LabModel, mbit: float) -> None:
    lab = make_lab(plans(mbit))
    rate = payload_bytes_per_s(mbit)
    shard = next(path for path in sorted(model.digests) if path.endswith(".safetensors"))
    url = f"http://{HUB_ADDRESS}:{HUB_PORT}/{model.repo}/resolve/main/{shard}"
    # Long enough that a machine which stands still for a moment is not taken for a slow link.
    size = min(int(rate * 6), 60 * MIB)
    seconds = float(lab.net.run("n1", [sys.executable, "-c", _READ, url, str(size)]).stdout)
    assert 0.9 <= size / seconds / rate <= 1.03


@pytest.mark.parametrize(("multicast", "heard"), [(True, "hello"), (False, "nothing")])
@pytest.mark.parametrize("sender", ["a", "b"])
def test_multicast_passes_the_switch_where_it_shall(sender: str, *, multicast: bool, heard: str) -> None:
    listener = "b" if sender == "a" else "a"
    with LabNet([NodePlan("a"), NodePlan("b", multicast=multicast)]) as net:
        patience_s = 20.0 if multicast else 1.0
        listen = [sys.executable, "-c", _LISTEN, net.lan_address(listener), str(patience_s)]
        with subprocess.Popen(net.command(listener, listen), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            net.run(sender, [sys.executable, "-c", _SEND, net.lan_address(sender)])
            assert process.stdout.read().strip() == heard
