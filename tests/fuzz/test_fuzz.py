"""Any bytes where the outside world speaks: each reader takes them or refuses them with an error of exo-dl's own.

A short run is part of the tests; `make fuzz` runs the same for as long as FUZZ_EXAMPLES says.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from exo_dl.core.manifest import Manifest, pull_id_for
from exo_dl.errors import ExoDlError, HubError, NotFoundError, ProtocolError, UsageError
from exo_dl.hubs.answers import error_for_answer, own_digest, parse_content_range, parse_length, retry_after_s
from exo_dl.hubs.huggingface import _listed
from exo_dl.net import wire
from exo_dl.net.discovery import read_sighting
from exo_dl.net.http_head import parse_answer, parse_request
from exo_dl.net.tickets import TicketKey, TicketSigner, authorizer
from exo_dl.net.uploads import parse_target
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dl.store.folder import Folder
from exo_dl.store.library import Library
from exo_dl.store.partfile import PartFile
from exo_dld.coordinator import Coordinator
from exo_dld.link import check_hello
from exo_dld.peerbook import PeerBook
from exo_dld.readings import Readings
from exo_dld.view import NodeView
from tests.fuzz.filling import MANIFEST, ME, fill, floats, long, numbers, words

pytestmark = pytest.mark.timeout(0)


@st.composite
def link_messages(draw: st.DrawFn) -> pb.LinkMessage:
    message = pb.LinkMessage()
    field = draw(st.sampled_from(list(pb.LinkMessage.DESCRIPTOR.fields)))
    body = getattr(message, field.name)
    body.SetInParent()
    fill(body, draw)
    return message


@long
@given(st.binary(max_size=400) | st.tuples(words, words, words))
def test_heads_of_requests(given_head: bytes | tuple[str, str, str]) -> None:
    head = given_head
    if isinstance(head, tuple):
        head = "{} {} HTTP/1.1\r\n{}".format(*head).encode("latin-1", "replace")
    for read in (parse_request, parse_answer):
        try:
            read(head)
        except ProtocolError:
            continue


@long
@given(words | st.from_regex(r"/v1/(pieces|probe)/[0-9a-f,/-]{0,60}"), words)
def test_targets_and_tickets(target: str, ticket: str) -> None:
    with contextlib.suppress(ProtocolError):
        parse_target(target)
    authorize = authorizer(TicketKey(b"k" * 32), audience=ME, clock=lambda: 1e9)
    assert authorize("GET", target, {"authorization": f"exo-dl {ticket}"}) is None


@long
@given(st.binary(max_size=2000))
def test_bytes_on_the_piece_port(data: bytes) -> None:
    """Whatever came before, the next client is served."""
    server = _piece_server()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        try:
            answer = sock.recv(4096)
        except ConnectionResetError:
            answer = b""
        assert not answer or answer.startswith(b"HTTP/1.1 ")
        assert not answer.startswith(b"HTTP/1.1 2") or b"healthz" in data
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        path = f"/v1/pieces/{'0' * 20}/0-1"
        ticket = TicketSigner(TicketKey(b"k" * 32), ME, audience=ME).headers("GET", path)["Authorization"]
        sock.sendall(f"GET {path} HTTP/1.1\r\nAuthorization: {ticket}\r\n\r\n".encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 404")  # its pull is not here: more than strangers are told


_servers: list[object] = []


def _piece_server() -> object:
    from exo_dl.net.piece_server import PieceServer

    if not _servers:

        def nothing(pull_id: str, first: int, end: int) -> list[object]:
            raise NotFoundError("nothing")

        authorize = authorizer(TicketKey(b"k" * 32), audience=ME)
        server = PieceServer(hosts=["127.0.0.1"], port=0, locate=nothing, authorize=authorize)  # type: ignore[arg-type]
        server.start()
        _servers.append(server)
    return _servers[0]


@pytest.fixture(scope="module", autouse=True)
def _close_servers() -> Iterator[None]:
    yield
    while _servers:
        _servers.pop().close()  # type: ignore[attr-defined]


@long
@given(st.binary(max_size=600))
def test_bytes_as_messages(data: bytes) -> None:
    with contextlib.suppress(DecodeError, ProtocolError):
        for message in pb.LinkRequest.FromString(data).messages:
            check_hello(message, expected_id=ME)


@long
@given(st.lists(link_messages(), min_size=1, max_size=6), st.integers(0, 1 << 30))
def test_messages_through_the_handlers_of_a_real_pull(messages: list[pb.LinkMessage], seed: int) -> None:
    """What a member may say in a pull: taken, or refused with ProtocolError."""
    asyncio.run(_through_handlers(messages, seed))


async def _through_handlers(messages: list[pb.LinkMessage], seed: int) -> None:
    pull_id, sent = pull_id_for(MANIFEST, "hf"), []
    chair = Coordinator(
        pull_id=pull_id,
        manifest=MANIFEST,
        epoch=1,
        expected=[],
        want_of=lambda node: (1 << MANIFEST.piece_count) - 1,
        send=lambda node, message: sent.append(message.SerializeToString()),
        on_fault=lambda _: None,
        on_hopeless=pytest.fail,  # also where a message broke the lease table
    )
    readings, view, book = Readings(MANIFEST), NodeView(ME, "me"), PeerBook(ME)
    record = book.need("b" * 16, now=0.0, proven=True)
    assert record is not None
    rng = random.Random(seed)
    try:
        for message in messages:
            kind = message.WhichOneof("body")
            try:
                match kind:
                    case "pull_join" | "lease_ask" | "lease_progress" | "lease_end":
                        chair.on_message(rng.choice(["b", "c"]), message)
                    case "have_map" | "have":
                        said = getattr(message, kind)
                        readings.newer(readings.check(said.readings))
                        list(wire.runs_from_pb(list(said.runs), MANIFEST, without=rng.getrandbits(45)))
                    case "suspect":
                        readings.check([message.suspect.reading])
                    case "pull_offer":
                        wire.check_claim(message.pull_offer)
                        wire.check_offer(message.pull_offer)
                    case "lease_grant":
                        wire.check_run(message.lease_grant.first, message.lease_grant.end, MANIFEST)
                    case "node_progress":
                        view.update(message.node_progress)
                        view.to_pb().SerializeToString()
                        assert 0 <= view.bytes_done <= view.bytes_wanted
                    case "hello":
                        check_hello(message, expected_id=ME)
                    case "peer_gossip":
                        for entry in message.peer_gossip.peers:
                            record.gossip(entry)
                            record.info(1.0)
            except (ProtocolError, UsageError):
                continue
        # Nothing that a member said may be a lease on two nodes at once beyond the last pieces, or one out of range.
        for lease in chair._table.leases():
            assert 0 <= lease.first <= lease.position <= lease.end <= MANIFEST.piece_count
    finally:
        chair.close()


@long
@given(
    st.dictionaries(st.binary(max_size=12) | st.sampled_from([b"v", b"id", b"cl", b"name", b"pp", b"ver", b"inc"]),
                    st.none() | st.binary(max_size=80) | st.sampled_from([b"1", ME.encode(), b"c" * 16, b"9" * 30])),
    st.none() | st.integers(-5, 70_000),
    st.lists(st.sampled_from(["10.0.0.1", "fe80::1%eth0", "ff02::1", "::1", "nonsense", ""]), max_size=40),
)  # fmt: skip
def test_mdns_records(properties: dict[bytes, bytes | None], port: int | None, addresses: list[str]) -> None:
    seen = read_sighting(properties, cluster_id="c" * 16, port=port, addresses=addresses)
    assert seen is None or (1 <= seen.grpc_port <= 65535 and 1 <= len(seen.addresses) <= 16 and len(seen.name) <= 64)


class _Sibling:
    def __init__(self, values: tuple[object, ...]) -> None:
        self.rfilename, self.size, self.blob_id, self.lfs = values[:4]


class _Lfs:
    def __init__(self, values: tuple[object, ...]) -> None:
        self.sha256, self.size = values[:2]


junk = (
    st.none() | st.booleans() | numbers | words | floats | st.lists(st.none(), max_size=2)
    | st.sampled_from(["a" * 40, "b" * 64])
)  # fmt: skip


@long
@given(st.lists(st.tuples(junk, junk, junk, st.none() | st.builds(_Lfs, st.tuples(junk, junk))), max_size=5))
def test_a_hubs_list_of_files(rows: list[tuple[object, ...]]) -> None:
    try:
        files = _listed([_Sibling(row) for row in rows])
        for path, file in files.items():
            if file.known():
                Manifest(hub="huggingface", repo_type="model", repo="a/b", commit="a" * 40, files=(file.entry(path),))
    except (TypeError, ValueError, HubError, UsageError, ProtocolError):
        return  # what `HuggingFaceHub` turns into errors for people


header_names = st.sampled_from(
    [
        "Retry-After",
        "RateLimit",
        "Date",
        "ETag",
        "X-Error-Code",
        "X-Linked-ETag",
        "X-Error-Message",
        "Content-Range",
        "Content-Length",
    ]
)
header_values = words | st.sampled_from(
    ["Wed, 99 Foo 2020", "9" * 30, "bytes 5-1/3", "bytes 0-9/*", '"api";r=0;t=999999999']
)


@long
@given(st.integers(100, 599), st.dictionaries(header_names, header_values))
def test_a_hubs_headers(status: int, headers: dict[str, str]) -> None:
    assert isinstance(error_for_answer(status, headers, "x", with_token=False), ExoDlError)
    assert 0 <= retry_after_s(headers, 1.0) <= 3600
    own_digest(headers)
    found = parse_content_range(headers.get("Content-Range"))
    assert found is None or 0 <= found.first < found.end
    try:
        parse_length(headers.get("Content-Length"))
    except HubError:
        return


@long
@given(st.binary(max_size=400), st.binary(max_size=64))
def test_the_record_beside_a_part_file(tmp_path: Path, record: bytes, tail: bytes) -> None:
    """A damaged record is read as fewer pieces, never as more than there are."""
    blob = MANIFEST.blobs[3]
    name = f"part-{random.getrandbits(60):x}"
    folder = Folder(tmp_path)
    part = PartFile.open(folder, name, blob)
    part.record(2, b"d" * 32)
    os.close(part.detach())
    path = tmp_path / f"{name}.pieces"
    good = path.read_bytes()
    for data in (record, good[:130] + record, good[: len(good) - len(tail)] + tail, good + tail):
        path.write_bytes(data)
        pieces, _ = PartFile.peek(folder, name, blob)
        assert all(0 <= piece < blob.piece_count and len(digest) == 32 for piece, digest in pieces)
        again = PartFile.open(folder, name, blob)
        assert all(0 <= piece < blob.piece_count for piece, _ in again.recorded())
        os.close(again.detach())
    for each in (path, tmp_path / name):
        each.unlink()


_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"


@long
@given(st.integers(0, 1 << 30), st.binary(max_size=50) | words | numbers.filter(lambda n: abs(n) < 1 << 63))
def test_rows_of_the_state_database(tmp_path: Path, seed: int, value: object) -> None:
    """A value of the wrong kind in any column: the library forgets the row or says so, and goes on."""
    rng = random.Random(seed)
    file = tmp_path / f"{rng.getrandbits(60):x}.db"
    library = Library(file)
    target = tmp_path / f"{file.stem}.bin"
    target.write_bytes(b"x")
    blob = MANIFEST.blobs[1]
    library.remember([(target, blob, bytes(32), target.stat())])
    library.put("k", "v")
    library.close()
    with sqlite3.connect(file) as base:
        for (table,) in base.execute(_TABLES).fetchall():
            columns = [row[1] for row in base.execute(f"PRAGMA table_info({table})")]
            column = rng.choice(columns)
            try:
                base.execute(f"UPDATE {table} SET {column} = ?", (value,))  # noqa: S608 - a test's own table
            except sqlite3.IntegrityError:
                continue
    base.close()
    try:
        again = Library(file)
    except ExoDlError:
        return
    try:
        again.find(blob)
        again.models()
        again.get("k")
    except ExoDlError:
        pass
    finally:
        again.close()
