"""``exo-dl limit`` and ``exo-dl leave`` against a real gRPC server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exo_dl.client import Client
from exo_dl.errors import UsageError
from exo_dl.rpc.v1 import cluster_pb2
from tests.unit.cli.test_commands import exo_dl
from tests.unit.client.fake_daemon import FakeDaemon


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with FakeDaemon(tmp_path / "state") as fake:
        fake.limits = cluster_pb2.ClusterLimits(
            cluster_hub_bytes_per_s=12_500_000,
            nodes=[
                cluster_pb2.NodeLimits(
                    id="a",
                    name="anna",
                    hub_share_bytes_per_s=6.25e6,
                    hub_used_bytes_per_s=6e6,
                    lan_up_bytes_per_s=10**6,
                ),
                cluster_pb2.NodeLimits(id="b", name="bob", hub_bytes_per_s=500_000, hub_share_bytes_per_s=1),
            ],
        )
        yield fake


async def test_limits_are_shown(daemon: FakeDaemon) -> None:
    done = await exo_dl("limit", state_dir=daemon.state_dir)
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert done.out.startswith("All nodes together from the hub: 12.5 MB/s\n")
    assert lines[2] == ["anna", "none", "6.2", "MB/s", "1.0", "MB/s", "none", "6.0", "MB/s"]
    assert lines[3] == ["bob", "500", "kB/s", "-", "none", "none", "-"]
    assert daemon.requests == [cluster_pb2.GetLimitsRequest()]
    json = (await exo_dl("limit", "--json", state_dir=daemon.state_dir)).documents[-1]
    assert json["cluster_hub_bytes_per_s"] == 12_500_000
    assert [node["name"] for node in json["nodes"]] == ["anna", "bob"]


async def test_limits_are_set_with_what_was_asked(daemon: FakeDaemon) -> None:
    await exo_dl("limit", "--cluster-hub", "100Mbit", state_dir=daemon.state_dir)
    await exo_dl(
        *("limit", "--hub", "none", "--lan", "12MB/s", "--node", "anna", "--node", "bob"), state_dir=daemon.state_dir
    )
    assert daemon.requests == [
        cluster_pb2.SetLimitsRequest(cluster_hub_bytes_per_s=12_500_000),
        cluster_pb2.SetLimitsRequest(
            nodes=["anna", "bob"], hub_bytes_per_s=0, lan_up_bytes_per_s=12_000_000, lan_down_bytes_per_s=12_000_000
        ),
    ]
    wrong = await exo_dl("limit", "--hub", "12 parsecs", state_dir=daemon.state_dir)
    assert wrong.code == 2
    assert "12 parsecs" in wrong.err
    assert "100Mbit" in wrong.err


async def test_leave_says_how_it_went_and_returns_when_the_daemon_is_gone(daemon: FakeDaemon) -> None:
    done = await exo_dl("leave", "--within", "3", state_dir=daemon.state_dir)
    assert done.code == 0
    assert "has left after 1.5 s" in done.out
    assert "3 pieces were on this node alone" in done.err
    assert daemon.requests == [cluster_pb2.LeaveRequest(within_s=3.0)]


async def test_the_client_sends_only_what_is_given_and_refuses_what_cannot_be(daemon: FakeDaemon) -> None:
    async with Client(daemon.state_dir) as client:
        limits = await client.set_limits(hub_bytes_per_s=0)
        assert limits == await client.get_limits()
        assert limits.nodes[1].hub_bytes_per_s == 500_000
        with pytest.raises(UsageError):
            await client.set_limits(hub_bytes_per_s=5)
    assert daemon.requests[0] == cluster_pb2.SetLimitsRequest(hub_bytes_per_s=0)
