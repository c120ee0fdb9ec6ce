"""``exo-dl metrics``: what a daemon counted and measured, for a monitoring system."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from exo_dl.cli.options import common, open_client, run

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from exo_dl.types import NodeMetrics

__all__ = ["metrics"]

# Field, name of the metric, what it says. Prometheus has base units, and counters end with _total.
_COUNTERS = (
    ("bytes_from_hub", "hub_bytes", "Verified bytes of pieces from hubs."),
    ("bytes_from_peers", "peer_bytes", "Verified bytes of pieces from other nodes."),
    ("received_from_hub_bytes", "hub_received_bytes", "Bytes received from hubs, also what was thrown away."),
    ("received_from_peers_bytes", "peer_received_bytes", "The same from other nodes."),
    ("bytes_served", "served_bytes", "Bytes of pieces sent to other nodes."),
    ("piece_requests", "piece_requests", "Requests at the piece port."),
    ("piece_requests_busy", "piece_requests_busy", "Of those, answered that no slot is free."),
    ("piece_requests_refused", "piece_requests_refused", "Of those, refused."),
    ("calls_refused", "calls_refused", "gRPC calls that were not let in."),
    ("connections_refused", "connections_refused", "Connections to the gRPC port that were not let in."),
    ("cpu_s", "cpu_seconds", "CPU time of the daemon."),
)
_GAUGES = (
    ("uptime_s", "uptime_seconds", "Since the daemon's start."),
    ("piece_connections", "piece_connections", "Open at the piece port."),
    ("uploads", "uploads", "Answers with pieces under way."),
    ("peers_up", "peers_up", "Nodes that this one is linked to."),
    ("pulls_running", "pulls_running", "Pulls that have not ended."),
    ("rss_bytes", "resident_memory_bytes", "Memory of the daemon."),
    ("threads", "threads", "Threads of the daemon."),
    ("open_files", "open_files", "Open descriptors of the daemon."),
)
_DROPPED = (
    "unknown_pull", "other_epoch", "no_say", "malformed", "too_many", "other_protocol", "wrong_bytes", "no_answer",
)  # fmt: skip
_QUANTILES = (("0.5", "p50_s"), ("0.99", "p99_s"), ("1", "max_s"))


@click.command()
@common
def metrics(*, as_json: bool, state_dir: str | None) -> None:
    """Print what the daemon counted and measured, as Prometheus reads it.

    For its node exporter, a timer writes it into the exporter's textfile folder. A read-only ticket is enough.
    """
    run(_metrics(as_json=as_json, state_dir=state_dir))


async def _metrics(*, as_json: bool, state_dir: str | None) -> None:
    from exo_dl.cli.text import print_json
    from exo_dl.types import as_dict

    async with open_client(state_dir) as client:
        found = await client.get_metrics()
    if as_json:
        print_json(as_dict(found))
    else:
        print(_exposition(found), end="", flush=True)


def _exposition(found: NodeMetrics) -> str:
    from prometheus_client import CollectorRegistry, generate_latest

    class Once:
        """A collector of what is there already."""

        def collect(self) -> Iterator[Metric]:
            yield from _families(found)

    registry = CollectorRegistry()
    registry.register(Once())
    return generate_latest(registry).decode()


def _families(found: NodeMetrics) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    node = [found.name]
    info = GaugeMetricFamily("exo_dl_info", "The daemon.", labels=["node", "id", "version"])
    info.add_metric([found.name, found.id, found.version], 1)
    yield info
    for field, name, text in _COUNTERS:
        counter = CounterMetricFamily(f"exo_dl_{name}", text, labels=["node"])
        counter.add_metric(node, getattr(found, field))
        yield counter
    for field, name, text in _GAUGES:
        gauge = GaugeMetricFamily(f"exo_dl_{name}", text, labels=["node"])
        gauge.add_metric(node, getattr(found, field))
        yield gauge
    pulls = CounterMetricFamily("exo_dl_pulls", "Pulls that have ended.", labels=["node", "state"])
    for state in ("done", "failed", "cancelled"):
        pulls.add_metric([found.name, state], getattr(found, f"pulls_{state}"))
    yield pulls
    dropped = CounterMetricFamily("exo_dl_dropped", "What other nodes said or sent in vain.", labels=["node", "reason"])
    for reason in _DROPPED:
        dropped.add_metric([found.name, reason], getattr(found, f"dropped_{reason}"))
    yield dropped
    lag = found.loop_lag
    recent = GaugeMetricFamily(
        "exo_dl_loop_lag_recent_seconds", "How late the event loop was in the last minute.", labels=["node", "quantile"]
    )
    for quantile, field in _QUANTILES:
        recent.add_metric([found.name, quantile], getattr(lag, field))
    yield recent
    histogram = HistogramMetricFamily("exo_dl_loop_lag_seconds", "How late the event loop is.", labels=["node"])
    buckets = [(str(bound_s), count) for bound_s, count in lag.buckets]
    histogram.add_metric(node, buckets=[*buckets, ("+Inf", lag.count)], sum_value=lag.sum_s)
    yield histogram
