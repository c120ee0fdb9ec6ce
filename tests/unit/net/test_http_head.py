from __future__ import annotations

import contextlib

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_dl.errors import ProtocolError
from exo_dl.net.http_head import parse_answer, parse_request, render_answer
from exo_dl.net.uploads import PiecesRequest, ProbeRequest, parse_target, piece_path

PULL = "0123456789abcdef0123"


def test_a_request_is_read() -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: a:1\r\nX-Y:  two words \t"
    assert parse_request(head) == ("GET", "/healthz", {"host": "a:1", "x-y": "two words"}, True)


@pytest.mark.parametrize("head", [b"GET / HTTP/1.0", b"GET / HTTP/1.1\r\nConnection: Close"])
def test_who_does_not_want_to_go_on_is_let_go(head: bytes) -> None:
    assert parse_request(head)[3] is False


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET /",
        b"GET / HTTP/2.0",
        b"get / HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET http://x/ HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1",
        b"GET /" + b"a" * 3000 + b" HTTP/1.1",
        b"GET / HTTP/1.1\r\nNo colon",
        b"GET / HTTP/1.1\r\n: no name",
        b"GET / HTTP/1.1\r\nA : b",
        b"GET / HTTP/1.1\r\nA: b\r\n folded",
        b"GET / HTTP/1.1\r\nA: b\r\na: c",
        b"GET / HTTP/1.1\r\nA: b\nB: c",
        b"GET / HTTP/1.1\r\nA: \x00",
        b"GET / HTTP/1.1\r\nContent-Length: 5",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked",
        b"GET / HTTP/1.1" + b"".join(b"\r\nH%d: x" % i for i in range(65)),
    ],
)
def test_what_is_no_proper_request_is_refused(head: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_request(head)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (parse_request, parse_answer):
        with contextlib.suppress(ProtocolError):
            parse(data)


NAMES = st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=12).map(lambda name: f"x{name}")
VALUES = st.text([chr(c) for c in range(0x21, 0x7F)], min_size=1, max_size=40)


@given(
    status=st.sampled_from([200, 401, 404, 409, 503]),
    length=st.integers(0, 1 << 40),
    headers=st.dictionaries(NAMES, VALUES, max_size=8),
    keep=st.booleans(),
)
def test_answers_are_what_h11_reads_too(status: int, length: int, headers: dict[str, str], keep: bool) -> None:
    data = render_answer(status, length, headers, keep=keep)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    client.receive_data(data)
    theirs = client.next_event()
    assert isinstance(theirs, h11.Response)
    ours = parse_answer(data.removesuffix(b"\r\n\r\n"))
    assert ours == (theirs.status_code, {n.decode(): v.decode() for n, v in theirs.headers}, length)


@given(headers=st.dictionaries(NAMES, VALUES, max_size=8), target=VALUES)
def test_requests_of_h11_are_read(headers: dict[str, str], target: str) -> None:
    target = "/" + target
    client = h11.Connection(h11.CLIENT)
    data = client.send(h11.Request(method="GET", target=target, headers=[("host", "x"), *headers.items()]))
    assert data is not None
    assert parse_request(data.removesuffix(b"\r\n\r\n")) == ("GET", target, {"host": "x", **headers}, True)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 1",
        b"HTTP/1.1 99 x\r\nContent-Length: 1",
        b"HTTP/1.1 2000\r\nContent-Length: 1",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999",
        b"SSH-2.0-x",
    ],
)
def test_what_is_no_proper_answer_is_refused(head: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_answer(head)


def test_targets() -> None:
    assert parse_target(piece_path(PULL, 3, 9)) == PiecesRequest(PULL, ((3, 9),))
    assert parse_target(f"/v1/pieces/{PULL}/0-1,7-9") == PiecesRequest(PULL, ((0, 1), (7, 9)))
    assert parse_target("/v1/probe/1000") == ProbeRequest(1000)


@pytest.mark.parametrize(
    "target", ["/", "/v1/pieces/x/0-1", f"/v1/pieces/{PULL}/", f"/v1/pieces/{PULL}/1", "/v1/probe/"]
)
def test_other_targets_do_not_exist(target: str) -> None:
    assert parse_target(target) is None


@pytest.mark.parametrize(
    "target", [f"/v1/pieces/{PULL}/3-3", f"/v1/pieces/{PULL}/9-3", f"/v1/pieces/{PULL}/0-4097", "/v1/probe/4194305"]
)
def test_targets_that_ask_for_nothing_or_for_too_much_are_refused(target: str) -> None:
    with pytest.raises(ProtocolError):
        parse_target(target)
