"""``exo-dl metrics`` against a real gRPC server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exo_dl.rpc.v1 import cluster_pb2
from tests.unit.cli.test_commands import exo_dl
from tests.unit.client.fake_daemon import FakeDaemon


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with FakeDaemon(tmp_path / "state") as fake:
        fake.metrics = cluster_pb2.NodeMetrics(
            id="a",
            name='an"na',
            version="1.2",
            bytes_from_hub=5 * 10**12,
            pulls_failed=3,
            rss_bytes=123,
            loop_lag=cluster_pb2.LoopLag(
                p99_s=0.25,
                sum_s=2.5,
                count=10,
                buckets=[
                    cluster_pb2.LagBucket(at_most_s=0.001, count=7),
                    cluster_pb2.LagBucket(at_most_s=5.0, count=9),
                ],
            ),
        )
        yield fake


async def test_prometheus_can_read_it(daemon: FakeDaemon) -> None:
    done = await exo_dl("metrics", state_dir=daemon.state_dir)
    assert (done.code, done.err) == (0, "")
    samples = {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels) if key != "node")): sample.value
        for family in text_string_to_metric_families(done.out)
        for sample in family.samples
        if sample.labels["node"] == 'an"na'
    }
    assert samples["exo_dl_hub_bytes_total",] == 5e12
    assert samples["exo_dl_pulls_total", "failed"] == 3
    assert samples["exo_dl_resident_memory_bytes",] == 123
    assert samples["exo_dl_loop_lag_recent_seconds", "0.99"] == 0.25
    assert samples["exo_dl_loop_lag_seconds_bucket", "0.001"] == 7
    assert samples["exo_dl_loop_lag_seconds_bucket", "5.0"] == 9
    assert samples["exo_dl_loop_lag_seconds_bucket", "+Inf"] == 10
    assert samples["exo_dl_loop_lag_seconds_count",] == 10
    assert samples["exo_dl_loop_lag_seconds_sum",] == 2.5


async def test_every_field_is_in_both_forms(daemon: FakeDaemon) -> None:
    """A field that is added to the message must not be forgotten here."""
    document = (await exo_dl("metrics", "--json", state_dir=daemon.state_dir)).documents[-1]
    assert set(document) == set(cluster_pb2.NodeMetrics.DESCRIPTOR.fields_by_name)
    assert set(document["loop_lag"]) == set(cluster_pb2.LoopLag.DESCRIPTOR.fields_by_name)
    assert document["loop_lag"]["buckets"] == [[0.001, 7], [5.0, 9]]
    for number, field in enumerate(cluster_pb2.NodeMetrics.DESCRIPTOR.fields):
        if field.name not in ("id", "name", "version", "loop_lag"):
            setattr(daemon.metrics, field.name, 1000 + number)
    text = (await exo_dl("metrics", state_dir=daemon.state_dir)).out
    shown = {sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    missing = [
        field.name
        for number, field in enumerate(cluster_pb2.NodeMetrics.DESCRIPTOR.fields)
        if field.name not in ("id", "name", "version", "loop_lag") and 1000 + number not in shown
    ]
    assert not missing
