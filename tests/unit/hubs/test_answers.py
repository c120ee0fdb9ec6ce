"""The meaning of headers and statuses."""

from __future__ import annotations

import pytest

from exo_dl.errors import AccessError, ExoDlError, HubBusyError, HubError, IntegrityError, NotFoundError
from exo_dl.hubs.answers import (
    ContentRange,
    error_for_answer,
    own_digest,
    parse_content_range,
    parse_length,
    retry_after_s,
    shown_url,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 0-9/100", ContentRange(0, 10, 100)),
        ("bytes 5-5/*", ContentRange(5, 6, None)),
        ("bytes 9-5/100", None),
        ("bytes 0-100/100", None),
        ("bytes */100", None),
        ("items 0-9/100", None),
        ("bytes 0-" + "9" * 30 + "/100", None),
        ("", None),
        (None, None),
    ],
)
def test_content_range(value: str | None, expected: ContentRange | None) -> None:
    assert parse_content_range(value) == expected


@pytest.mark.parametrize("value", ["-1", "1e3", "", "٣", "9" * 30, "0x10"])
def test_a_length_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(HubError, match="Content-Length"):
        parse_length(value)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"RateLimit": '"resolvers";r=0;t=172', "Retry-After": "3"}, 172.0),
        ({"RateLimit": '"resolvers";r=12;t=172', "Retry-After": "3"}, 3.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:10 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 10.0),
        ({"Retry-After": "Wed, 21 Oct 2020 07:28:10 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "99999999999999"}, 3600.0),
        ({"Retry-After": "soon"}, 7.0),
        ({"Retry-After": "-5"}, 7.0),
        ({}, 7.0),
    ],
)
def test_waiting_time(headers: dict[str, str], expected: float) -> None:
    assert retry_after_s(headers, 7.0) == expected


def test_digest_of_an_answer() -> None:
    sha256, sha1 = "A" * 64, "b" * 40
    assert own_digest({"X-Linked-ETag": f'"{sha256}"', "ETag": f'"{sha1}"'}) == "a" * 64
    assert own_digest({"ETag": f'W/"{sha1}"'}) == sha1
    assert own_digest({"ETag": '"65a1-33"'}) == ""


@pytest.mark.parametrize(
    ("status", "code", "with_token", "expected"),
    [
        (404, "RepoNotFound", True, NotFoundError),
        (401, "RepoNotFound", False, NotFoundError),
        (401, "", False, NotFoundError),
        (401, "", True, AccessError),
        (404, "RevisionNotFound", False, NotFoundError),
        (404, "EntryNotFound", False, NotFoundError),
        (401, "GatedRepo", False, AccessError),
        (403, "GatedRepo", True, AccessError),
        (403, "", True, AccessError),
        (416, "", False, IntegrityError),
        (429, "", False, HubBusyError),
        (503, "", False, HubBusyError),
        (500, "", False, HubError),
        (418, "", False, HubError),
    ],
)
def test_status_to_error(status: int, code: str, with_token: bool, expected: type[ExoDlError]) -> None:
    error = error_for_answer(status, {"X-Error-Code": code}, "org/model", with_token=with_token)
    assert type(error) is expected
    assert "org/model" in error.what


def test_the_hubs_words_are_shown_without_control_characters() -> None:
    error = error_for_answer(500, {"X-Error-Message": "no\x1b[31m good" + "x" * 1000}, "org/model", with_token=False)
    assert "no[31m good" in error.what
    assert len(error.what) < 500


def test_urls_are_shown_without_secrets() -> None:
    assert shown_url("https://me:pw@host:8/a/b?sig=1") == "https://host:8/a/b"
