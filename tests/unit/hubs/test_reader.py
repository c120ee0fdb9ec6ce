"""Ranges from a real local hub, and from servers that say odd things."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.hub import LocalHub
from exo_dl.errors import (
    AccessError,
    ExoDlError,
    HubBusyError,
    HubError,
    IntegrityError,
    NotFoundError,
    UsageError,
)
from exo_dl.hubs.reader import HubReader, RedirectCache, Timeouts
from tests.unit.hubs.conftest import ReaderFor, Serve
from tests.unit.hubs.reading import REPO, SHARD, TOKEN, content_of, etag_of, files_asked, read, records_of, url_of

QUICK = Timeouts(connect_s=2.0, first_byte_s=0.3, stall_s=0.3)


def test_a_whole_file_and_ranges_of_it_over_one_connection(reader_for: ReaderFor, hub: LocalHub) -> None:
    reader, content = reader_for(hub), content_of(hub)
    for first, end in ((0, len(content)), (0, 1), (1000, 500_000), (len(content) - 1, len(content))):
        opened = reader.open_range(url_of(hub), first, end, etag=etag_of(hub), size=len(content))
        assert (len(opened), opened.total_bytes, opened.asked_end) == (end - first, len(content), end)
        assert read(opened) == content[first:end]
    reader.close()
    assert len({record["port"] for record in records_of(hub)}) == 1
    hub.settle()
    assert hub.stats()["file_bytes"] == len(content) + 1 + 499_000 + 1


def test_the_end_is_told_by_0_again_and_again(reader_for: ReaderFor, hub: LocalHub) -> None:
    buffer = memoryview(bytearray(64))
    with reader_for(hub).open_range(url_of(hub), 0, 10) as opened:
        assert [opened.readinto(buffer) for _ in range(3)] == [10, 0, 0]
    assert opened.position == opened.end == 10


def test_bytes_land_in_the_callers_buffer(reader_for: ReaderFor, hub: LocalHub) -> None:
    buffer = bytearray(100)
    with reader_for(hub).open_range(url_of(hub), 5, 25) as opened:
        assert opened.readinto(memoryview(buffer)[40:]) == 20
    assert bytes(buffer) == bytes(40) + content_of(hub)[5:25] + bytes(40)


def test_windows_ask_for_a_part_at_a_time(reader_for: ReaderFor, hub: LocalHub) -> None:
    opened = reader_for(hub, window=lambda: 300_000).open_range(url_of(hub), 100, 700_100)
    assert opened.asked_end == 300_100
    assert read(opened) == content_of(hub)[100:700_100]
    ranges = [record["range"] for record in records_of(hub)]
    assert ranges == ["bytes=100-300099", "bytes=300100-600099", "bytes=600100-700099"]
    assert len({record["port"] for record in records_of(hub)}) == 1


def test_a_range_that_is_cut_short_ends_there(reader_for: ReaderFor, hub: LocalHub) -> None:
    reader = reader_for(hub)
    opened = reader.open_range(url_of(hub), 0, 1_000_000)
    buffer = memoryview(bytearray(1000))
    count = opened.readinto(buffer)
    assert opened.limit(5000) == 5000
    assert opened.limit(9000) == 5000
    assert opened.limit(0) == count
    assert read(opened) == b""
    assert opened.position == count
    assert read(reader.open_range(url_of(hub), 7, 9)) == content_of(hub)[7:9]


def test_what_lies_past_the_cut_is_not_asked_for(reader_for: ReaderFor, hub: LocalHub) -> None:
    opened = reader_for(hub, window=lambda: 200_000).open_range(url_of(hub), 0, 1_000_000)
    assert opened.limit(300_000) == 300_000
    assert read(opened) == content_of(hub)[:300_000]
    assert [record["range"] for record in records_of(hub)] == ["bytes=0-199999", "bytes=200000-299999"]


@pytest.mark.parametrize(("first", "end"), [(5, 5), (6, 5), (-1, 5)])
def test_ranges_that_are_none(reader_for: ReaderFor, hub: LocalHub, first: int, end: int) -> None:
    with pytest.raises(UsageError):
        reader_for(hub).open_range(url_of(hub), first, end)


# --- redirects and the token ---------------------------------------------------------------------------------------


def test_signed_urls_are_resolved_once_and_get_no_token(reader_for: ReaderFor, serve: Serve) -> None:
    hub = serve(redirect="hub", token=TOKEN, access="gated")
    cache = RedirectCache()
    for first in (0, 100_000):
        opened = reader_for(hub, TOKEN, redirects=cache).open_range(
            url_of(hub), first, first + 100_000, etag=etag_of(hub)
        )
        assert read(opened) == content_of(hub)[first : first + 100_000]
    assert [record["auth"] for record in files_asked(hub)] == [True]
    assert [record["auth"] for record in files_asked(hub, storage=True)] == [False, False]


def test_relative_redirects_keep_their_query_and_the_token(reader_for: ReaderFor, serve: Serve) -> None:
    hub = serve(redirect="hub", token=TOKEN, access="gated")
    content = content_of(hub, "config.json")
    opened = reader_for(hub, TOKEN).open_range(
        url_of(hub, "config.json"), 0, len(content), etag=etag_of(hub, "config.json")
    )
    assert read(opened) == content
    asked, followed = files_asked(hub)
    assert asked["status"] == 307
    assert "/api/resolve-cache/" in str(followed["path"])
    assert "?etag=" in str(followed["path"])
    assert followed["auth"]
    assert asked["port"] == followed["port"]


def test_a_careless_hub_object_cannot_leak_the_token(reader_for: ReaderFor, serve: Serve) -> None:
    hub = serve(redirect="hub")
    reader = reader_for(hub, headers_for=lambda _: {"Authorization": f"Bearer {TOKEN}", "Cookie": "a=b"})
    read(reader.open_range(url_of(hub), 0, 10))
    assert [record["auth"] for record in files_asked(hub)] == [True]
    assert [record["auth"] for record in files_asked(hub, storage=True)] == [False]


def test_an_expired_signed_url_is_asked_for_anew(reader_for: ReaderFor, serve: Serve) -> None:
    hub = serve(redirect="hub")
    reader = reader_for(hub)
    assert read(reader.open_range(url_of(hub), 0, 10)) == content_of(hub)[:10]
    hub.fault("403-signed", path="/_storage/*", count=1)
    assert read(reader.open_range(url_of(hub), 10, 20)) == content_of(hub)[10:20]
    assert [record["status"] for record in files_asked(hub)] == [302, 302]
    assert [record["status"] for record in files_asked(hub, storage=True)] == [206, 403, 206]


def test_storage_that_goes_on_refusing_is_an_error(reader_for: ReaderFor, serve: Serve) -> None:
    hub = serve(redirect="hub")
    hub.fault("403-signed", path="/_storage/*")
    with pytest.raises(AccessError):
        reader_for(hub).open_range(url_of(hub), 0, 10)
    assert len(files_asked(hub)) == 2


@pytest.mark.parametrize(
    ("to", "text"),
    [
        ("", "to nowhere"),
        ("file:///etc/passwd", "no http or https"),
        ("mailto:x", "no http or https"),
        ("http://[::1", "no http or https"),
        ("/{path}", "more than"),
    ],
)
def test_redirects_that_lead_nowhere(reader_for: ReaderFor, hub: LocalHub, to: str, text: str) -> None:
    hub.fault("redirect", to=to.format(path=f"{REPO}/resolve/main/{SHARD}"))
    with pytest.raises(HubError, match=text):
        reader_for(hub).open_range(url_of(hub), 0, 10)


def test_the_cache_of_redirects_is_bounded_and_drops_only_what_it_was_told() -> None:
    cache = RedirectCache()
    for number in range(5000):
        cache.put(f"u{number}", "t")
    assert cache.get("u0") is None
    assert cache.get("u4999") == "t"
    cache.drop("u4999", "older")
    assert cache.get("u4999") == "t"
    cache.drop("u4999", "t")
    assert cache.get("u4999") is None


# --- hubs that misbehave -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["200-for-206", "short", "long"])
@pytest.mark.parametrize("window_bytes", [None, 60_000])
def test_odd_but_honest_answers_give_the_right_bytes(
    reader_for: ReaderFor, hub: LocalHub, kind: str, window_bytes: int | None
) -> None:
    hub.fault(kind)
    reader = reader_for(hub, window=lambda: window_bytes)
    for first, end in ((0, 100_000), (150_000, 300_000)):
        assert read(reader.open_range(url_of(hub), first, end, etag=etag_of(hub))) == content_of(hub)[first:end]


def test_a_connection_that_is_closed_in_the_middle_is_opened_again(reader_for: ReaderFor, hub: LocalHub) -> None:
    hub.fault("close", after_bytes=50_000, count=2)
    assert read(reader_for(hub).open_range(url_of(hub), 1000, 500_000)) == content_of(hub)[1000:500_000]
    # Each connection has a thread at the hub, and notes when it has ended: in any order.
    assert sorted(record["bytes"] for record in records_of(hub)) == [50_000, 50_000, 399_000]


@pytest.mark.parametrize("after_bytes", [0, 50_000])
def test_a_hub_that_always_closes_is_an_error(reader_for: ReaderFor, hub: LocalHub, after_bytes: int) -> None:
    hub.fault("close", after_bytes=after_bytes)
    opened = reader_for(hub).open_range(url_of(hub), 0, 500_000)
    with pytest.raises(HubError, match="closed the connection in the middle"):
        read(opened)
    assert len(records_of(hub)) <= 5


def test_a_moved_etag_is_refused(reader_for: ReaderFor, hub: LocalHub) -> None:
    hub.fault("etag")
    with pytest.raises(IntegrityError, match="digest"):
        reader_for(hub).open_range(url_of(hub), 0, 10, etag=etag_of(hub))


def test_a_moved_etag_on_a_redirect_is_refused(reader_for: ReaderFor, serve: Serve) -> None:
    hub = serve(redirect="hub")
    hub.fault("etag")
    with pytest.raises(IntegrityError, match="digest"):
        reader_for(hub).open_range(url_of(hub), 0, 10, etag=etag_of(hub))


def test_another_size_is_refused(reader_for: ReaderFor, hub: LocalHub) -> None:
    with pytest.raises(IntegrityError, match="bytes now"):
        reader_for(hub).open_range(url_of(hub), 0, 10, size=11)
    hub.fault("200-for-206")
    with pytest.raises(IntegrityError, match="bytes now"):
        reader_for(hub).open_range(url_of(hub), 0, 10, size=11)


def test_a_range_past_the_end_is_refused(reader_for: ReaderFor, hub: LocalHub) -> None:
    with pytest.raises(IntegrityError):
        reader_for(hub).open_range(url_of(hub), 1 << 40, (1 << 40) + 1)


def test_silence_in_the_middle_is_an_error(reader_for: ReaderFor, hub: LocalHub) -> None:
    hub.fault("stall", after_bytes=1000)
    opened = reader_for(hub, timeouts=QUICK).open_range(url_of(hub), 0, 100_000)
    with pytest.raises(HubError, match="no byte"):
        read(opened)


def test_a_slow_hub_is_no_silent_one(reader_for: ReaderFor, hub: LocalHub) -> None:
    hub.fault("slow", rate=100_000.0)
    opened = reader_for(hub, timeouts=QUICK).open_range(url_of(hub), 0, 60_000)
    assert read(opened) == content_of(hub)[:60_000]


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("429", "", HubBusyError),
        ("503", "", HubBusyError),
        ("500", "", HubError),
        ("401", "GatedRepo", AccessError),
        ("403", "", AccessError),
        ("404", "EntryNotFound", NotFoundError),
        ("410", "", NotFoundError),
    ],
)
def test_refusals(reader_for: ReaderFor, hub: LocalHub, status: str, code: str, expected: type[ExoDlError]) -> None:
    hub.fault(status, code=code, count=1)
    reader = reader_for(hub)
    with pytest.raises(expected) as caught:
        reader.open_range(url_of(hub), 0, 10)
    assert type(caught.value) is expected
    assert read(reader.open_range(url_of(hub), 0, 10)) == content_of(hub)[:10]
    assert len({record["port"] for record in records_of(hub)}) == 1


@pytest.mark.parametrize("ratelimit", [True, False])
def test_the_hubs_waiting_time_is_told(reader_for: ReaderFor, hub: LocalHub, ratelimit: bool) -> None:
    hub.fault("429", retry_after_s=172, ratelimit=ratelimit)
    with pytest.raises(HubBusyError) as caught:
        reader_for(hub).open_range(url_of(hub), 0, 10)
    assert caught.value.retry_after_s == 172.0


def test_a_gated_file_without_token(reader_for: ReaderFor, serve: Serve) -> None:
    hub = serve(token=TOKEN, access="gated")
    with pytest.raises(AccessError, match="gated"):
        reader_for(hub).open_range(url_of(hub), 0, 10)
    with pytest.raises(AccessError, match="gated") as caught:
        reader_for(hub, "hf_other").open_range(url_of(hub), 0, 10)
    assert "hf_other" not in str(caught.value)


def test_a_hub_that_is_down() -> None:
    with LocalHub(Path("/nonexistent")) as hub:
        url = url_of(hub)
    reader = HubReader(lambda _: {})
    with pytest.raises(HubError, match="Nothing answers"):
        reader.open_range(url, 0, 10)
    with pytest.raises(HubError, match="Nothing answers"):
        reader.connect(url)


def test_connecting_ahead_saves_the_round_trip_later(reader_for: ReaderFor, hub: LocalHub) -> None:
    reader = reader_for(hub)
    reader.connect(url_of(hub))
    assert read(reader.open_range(url_of(hub), 0, 10)) == content_of(hub)[:10]
