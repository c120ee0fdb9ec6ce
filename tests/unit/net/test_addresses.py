"""Addresses as text."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_dl.errors import UsageError
from exo_dl.net.addresses import (
    grpc_target,
    join_host_port,
    local_hosts,
    parse_host_port,
    sort_hosts,
    split_host_port,
)


@given(st.ip_addresses().map(str) | st.sampled_from(["host", "host.local", "fe80::1%eth0"]), st.integers(1, 65535))
def test_what_is_joined_splits_again(host: str, port: int) -> None:
    assert split_host_port(join_host_port(host, port)) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        ":1",
        "host:",
        "host:0",
        "host:65536",
        "host:x",
        "host:\u0661",
        "::1:5",
        "[host]:5",
        "a b:1",
        "http://h:1",
        "h\n:1",
        "x" * 300 + ":1",
    ],
)
def test_what_is_no_address_is_said_with_its_value(text: str) -> None:
    with pytest.raises(UsageError, match="host:port"):
        parse_host_port(text)


@given(st.text(max_size=40))
def test_any_text_splits_or_is_a_value_error(text: str) -> None:
    try:
        host, port = split_host_port(text)
    except ValueError:
        return
    assert host
    assert 1 <= port <= 65535


def test_routable_addresses_come_first() -> None:
    mixed = ["127.0.0.1", "fe80::1%eth0", "fd00::2", "host.local", "192.168.1.2", "192.168.1.2", "169.254.1.1"]
    assert sort_hosts(mixed) == ("192.168.1.2", "fd00::2", "host.local", "169.254.1.1", "fe80::1%eth0", "127.0.0.1")


def test_targets_need_no_resolver() -> None:
    assert grpc_target("192.0.2.1", 5) == "ipv4:192.0.2.1:5"
    assert grpc_target("fe80::1%eth0", 5) == "ipv6:[fe80::1%25eth0]:5"
    with pytest.raises(ValueError, match="host"):
        grpc_target("host", 5)


def test_own_addresses_follow_what_is_listened_on() -> None:
    assert local_hosts(["127.0.0.1"]) == ("127.0.0.1",)
    everything = local_hosts()
    assert everything
    assert local_hosts(["0.0.0.0", "127.0.0.1"]) == everything
    assert len(everything) == len({ipaddress.ip_address(host) for host in everything})
