"""An mDNS storm: announces nodes of a cluster that are none, over and over, to everybody on the network.

Runs until killed:

python bench/mdns_storm.py CLUSTER_ID OWN_ADDRESS --count 2000
"""

from __future__ import annotations

import argparse
import ipaddress
import itertools
import random
import socket
import time
from collections.abc import Iterator

from zeroconf import DNSAddress, DNSOutgoing, DNSPointer, DNSService, DNSText

from exo_dl.net.discovery import SERVICE_TYPE

_GROUP, _PORT = "224.0.0.251", 5353  # RFC 6762, section 3
_RESPONSE = 0x8400
_TYPE_A, _TYPE_PTR, _TYPE_TXT, _TYPE_SRV = 1, 12, 16, 33
_CLASS_IN, _UNIQUE = 1, 0x8001
_TTL_S = 120
_CHARS = "abcdefghijklmnopqrstuvwxyz234567"
_PER_PACKET = 4


def _text(**entries: str) -> bytes:
    pairs = [f"{key}={value}".encode() for key, value in entries.items()]
    return b"".join(bytes([len(pair)]) + pair for pair in pairs)


def packets(cluster_id: str, own: str, *, count: int, seed: int) -> Iterator[bytes]:
    """Announcements of ``count`` nodes: every other one is at an address of this network where nobody is."""
    rng = random.Random(seed)
    network = ipaddress.ip_network(f"{own}/24", strict=False)
    for start in range(0, count, _PER_PACKET):
        out = DNSOutgoing(_RESPONSE, multicast=True)
        for number in range(start, min(count, start + _PER_PACKET)):
            node = "".join(rng.choices(_CHARS, k=16))
            name, host = f"{node}-{cluster_id}.{SERVICE_TYPE}", f"exo-dl-{node}.local."
            address = own if number % 2 else str(network[100 + rng.randrange(100)])
            text = _text(
                v="1",
                id=node,
                cl=cluster_id,
                name=f"fake-{number}",
                pp="1",
                ver="0.1.0",
                inc=str(rng.randrange(1, 1 << 60)),
            )
            out.add_answer_at_time(DNSPointer(SERVICE_TYPE, _TYPE_PTR, _CLASS_IN, _TTL_S, name), 0)
            out.add_answer_at_time(DNSService(name, _TYPE_SRV, _UNIQUE, _TTL_S, 0, 0, 9, host), 0)
            out.add_answer_at_time(DNSText(name, _TYPE_TXT, _UNIQUE, _TTL_S, text), 0)
            out.add_answer_at_time(DNSAddress(host, _TYPE_A, _UNIQUE, _TTL_S, ipaddress.ip_address(address).packed), 0)
        yield from out.packets()


def main() -> None:
    """Begins."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cluster_id")
    parser.add_argument("own_address")
    parser.add_argument("--count", type=int, default=2000, help="nodes that are none, in each round")
    parser.add_argument("--per-s", type=float, default=400.0, help="packets a second")
    given = parser.parse_args()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(given.own_address))
        sock.bind(("", _PORT))
        for round_number in itertools.count():
            for packet in packets(given.cluster_id, given.own_address, count=given.count, seed=round_number % 2):
                sock.sendto(packet, (_GROUP, _PORT))
                time.sleep(1 / given.per_s)
            print(f"round {round_number}", flush=True)


if __name__ == "__main__":
    main()
