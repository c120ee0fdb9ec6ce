"""HTTP/1.1 as other servers may speak it: framing, lies, TLS, proxies."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.hub import LocalHub
from exo_dl.errors import CancelledPullError, HubError
from exo_dl.hubs.reader import HubRange, HubReader, Timeouts
from tests.unit.hubs.rawserver import RawServer

QUICK = Timeouts(connect_s=2.0, first_byte_s=0.3, stall_s=0.3)
PATH = "org/model/resolve/main/config.json"


_READERS: list[HubReader] = []


@pytest.fixture(autouse=True)
def readers_are_closed() -> Iterator[None]:
    yield
    while _READERS:
        _READERS.pop().close()


def _reader(timeouts: Timeouts = QUICK, *, ssl_context: ssl.SSLContext | None = None, agent: str = "") -> HubReader:
    headers = {"User-Agent": agent} if agent else {}
    reader = HubReader(lambda _: headers, timeouts=timeouts, ssl_context=ssl_context)
    _READERS.append(reader)
    return reader


def _read(opened: HubRange) -> bytes:
    got = bytearray()
    buffer = memoryview(bytearray(7))
    with opened:
        while count := opened.readinto(buffer):
            got += buffer[:count]
    return bytes(got)


def _ok(body: bytes, first: int = 0, total: int | None = None, extra: str = "") -> bytes:
    end = first + len(body) - 1
    size = "*" if total is None else total
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{end}/{size}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n{extra}\r\n".encode() + body


HEAD = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
TEN = b"0123456789"


@pytest.mark.parametrize(
    "answer",
    [
        _ok(TEN),
        _ok(TEN, total=10),
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + _ok(TEN),
        HEAD + CHUNKED + b"4\r\n0123\r\n6;x=y\r\n456789\r\n0\r\nX: y\r\n\r\n",
        HEAD + b"Content-Length: 10\r\nContent-Length: 10\r\n\r\n" + TEN,
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + TEN,
        b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"a\r\n0123456789\r\n0\r\n\r\n",
        b"HTTP/1.1 206 \r\nContent-Range: bytes 0-9/10\r\nContent-Length: 10\r\n\r\n" + TEN,
    ],
)
def test_framings(answer: bytes) -> None:
    with RawServer(answer, _ok(b"x", first=3)) as server:
        reader = _reader()
        assert _read(reader.open_range(server.url, 0, 10)) == TEN
        assert _read(reader.open_range(server.url, 3, 4)) == b"x"
        assert server.connections == 1


def test_a_body_that_ends_with_the_connection() -> None:
    def talk(sock: socket.socket, _: bytes) -> None:
        sock.sendall(b"HTTP/1.0 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\n\r\n" + TEN)

    with RawServer(talk, _ok(b"x")) as server:
        reader = _reader()
        assert _read(reader.open_range(server.url, 0, 10)) == TEN
        assert _read(reader.open_range(server.url, 0, 1)) == b"x"
        assert server.connections == 2


def test_an_idle_connection_that_the_server_closed_is_opened_again() -> None:
    def talk(sock: socket.socket, _: bytes) -> None:
        sock.sendall(_ok(TEN))

    with RawServer(talk, _ok(b"x")) as server:
        reader = _reader()
        assert _read(reader.open_range(server.url, 0, 10)) == TEN
        assert _read(reader.open_range(server.url, 0, 1)) == b"x"
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 99 No\r\n\r\n",
        b"\x00" * 9000,
        b"HTTP/1.1 206 X\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 206 X\r\nA: " + b"b" * 70000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
        b"HTTP/1.1 206 X\r\nContent-Length: 10\r\n\r\n" + TEN,
        b"HTTP/1.1 206 X\r\nContent-Range: bytes 5-14/20\r\nContent-Length: 10\r\n\r\n" + TEN,
        HEAD + b"Content-Length: 9\r\n\r\n" + TEN,
        HEAD + b"Content-Length: 10\r\nContent-Length: 11\r\n\r\n" + TEN,
        HEAD + b"Content-Length: -10\r\n\r\n" + TEN,
        HEAD + b"Content-Length: ten\r\n\r\n" + TEN,
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + TEN,
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\n" + TEN,
        HEAD + CHUNKED + b"zz\r\n",
        HEAD + CHUNKED + b"4\r\n0123xx4\r\n4567\r\n0\r\n\r\n",
        HEAD + CHUNKED + b"0\r\n\r\n",
        HEAD + CHUNKED + b"f" * 20 + b"\r\n",
        b"HTTP/1.1 206 X\r\nContent-Type: multipart/byteranges; boundary=x\r\nContent-Length: 3\r\n\r\n--x",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\nContent-Length: 0\r\n\r\n",
        b"",
    ],
)
def test_answers_that_cannot_be_used(answer: bytes) -> None:
    with RawServer(*[answer] * 5) as server:
        reader = _reader()
        with pytest.raises(HubError):
            _read(reader.open_range(server.url, 0, 10))


def test_headers_that_drip_in_run_into_the_deadline() -> None:
    stop = threading.Event()

    def talk(sock: socket.socket, _: bytes) -> None:
        for byte in b"HTTP/1.1 206 Partial Content\r\n" + b"X: y\r\n" * 90:
            if stop.wait(0.02):
                return
            sock.sendall(bytes([byte]))

    with RawServer(talk) as server:
        reader = _reader()
        with pytest.raises(HubError, match="in time"):
            reader.open_range(server.url, 0, 10)
        stop.set()


def test_abort_ends_the_wait_for_an_answer() -> None:
    with RawServer(b"") as server:
        reader = _reader(Timeouts(first_byte_s=60.0))

        def abort() -> None:
            assert server.asked.wait(5)
            reader.abort()

        thread = threading.Thread(target=abort)
        thread.start()
        with pytest.raises(CancelledPullError):
            reader.open_range(server.url, 0, 10)
        thread.join()


def test_what_is_sent() -> None:
    with RawServer(_ok(TEN)) as server:
        reader = _reader(agent="exo-dl")
        _read(reader.open_range(f"{server.url}?a=b#c", 0, 10))
    head = server.heads()[0]
    assert head.startswith("GET /org/model/resolve/main/file?a=b HTTP/1.1\r\n")
    for line in (
        f"Host: 127.0.0.1:{server.port}",
        "Range: bytes=0-9",
        "Accept-Encoding: identity",
        "User-Agent: exo-dl",
    ):
        assert f"\r\n{line}\r\n" in head


def test_a_header_with_a_line_break_is_not_sent() -> None:
    with RawServer(_ok(TEN)) as server:
        reader = _reader(agent="a\r\nY: b")
        with pytest.raises(HubError, match="line break"):
            reader.open_range(server.url, 0, 10)
        assert not server.requests


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a hub of tests")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def tls_hub(certificate: Path, model_root: Path) -> LocalHub:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return LocalHub(model_root, tls=context)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_https_with_an_own_ca(tls_hub: LocalHub, certificate: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, str(certificate))
    with tls_hub as hub:
        content = (hub.root / "org/model/config.json").read_bytes()
        reader = _reader(Timeouts())
        assert _read(reader.open_range(f"{hub.url}/{PATH}", 0, len(content))) == content


def test_https_of_a_stranger(tls_hub: LocalHub) -> None:
    with tls_hub as hub, pytest.raises(HubError, match="not trusted") as caught:
        _reader(Timeouts()).open_range(f"{hub.url}/{PATH}", 0, 10)
    assert "SSL_CERT_FILE" in caught.value.hint


def test_a_ca_file_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    with RawServer() as server, pytest.raises(HubError, match=r"SSL_CERT_FILE='/nonexistent/ca\.pem'"):
        _reader().open_range(server.url.replace("http", "https"), 0, 10)


def test_https_asked_of_a_plain_port() -> None:
    def talk(sock: socket.socket, _: bytes) -> None:
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with RawServer(talk) as server, pytest.raises(HubError):
        _reader(Timeouts(connect_s=0.3)).open_range(server.url.replace("http", "https"), 0, 10)


def test_abort_over_tls_gives_no_cipher_text(tls_hub: LocalHub, certificate: Path) -> None:
    shard = "org/model/resolve/main/model-00001-of-00002.safetensors"
    with tls_hub as hub:
        hub.fault("stall", after_bytes=100_000)
        reader = _reader(Timeouts(), ssl_context=ssl.create_default_context(cafile=str(certificate)))
        opened = reader.open_range(f"{hub.url}/{shard}", 0, 1_000_000)
        got = bytearray()
        blocked = threading.Event()

        def abort() -> None:
            assert blocked.wait(5)
            opened.abort()

        thread = threading.Thread(target=abort)
        thread.start()
        buffer = memoryview(bytearray(65536))
        with pytest.raises(CancelledPullError):
            while count := opened.readinto(buffer):
                got += buffer[:count]
                if len(got) == 100_000:
                    blocked.set()
        thread.join()
        opened.close()
        assert bytes(got) == (hub.root / "org/model/model-00001-of-00002.safetensors").read_bytes()[:100_000]


# --- proxies ---------------------------------------------------------------------------------------------------------


def test_http_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(_ok(TEN)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        reader = _reader()
        assert _read(reader.open_range("http://hub.invalid/file", 0, 10)) == TEN
    head = proxy.heads()[0]
    assert head.startswith("GET http://hub.invalid/file HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in head


def test_https_through_a_proxy(tls_hub: LocalHub, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tls_hub as hub:

        def tunnel(sock: socket.socket, _: bytes) -> None:
            with socket.create_connection(("127.0.0.1", hub.port)) as far:
                sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_pump, args=(far, sock))
                back.start()
                _pump(sock, far)
                back.join()

        with RawServer(tunnel) as proxy:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            reader = _reader(Timeouts())
            assert len(_read(reader.open_range(f"{hub.url}/{PATH}", 0, 10))) == 10
            assert proxy.heads()[0].startswith(f"CONNECT 127.0.0.1:{hub.port} HTTP/1.1\r\n")


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while block := source.recv(65536):
            sink.sendall(block)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.mark.parametrize(("status", "text"), [(407, "name and a password"), (502, "refused the way")])
def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch, status: int, text: str) -> None:
    with RawServer(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(HubError, match=text):
            _reader().open_range("https://hub.invalid/file", 0, 10)


def test_hosts_that_need_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with RawServer(_ok(TEN)) as server:
        reader = _reader()
        assert _read(reader.open_range(server.url, 0, 10)) == TEN


def test_a_proxy_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(HubError, match="socks5"):
        _reader().open_range("http://hub.invalid/file", 0, 10)
