"""TLS for pieces that are not for everybody: mutual, 1.3, with the cluster's certificates, on the piece port itself.

A node's certificate names its id. The side that connects checks that it reached the node that it means; the side that
serves takes members alone, and a request only from the node that its ticket names.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import ssl
import tempfile
import threading

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from exo_dl.errors import StorageError
from exo_dl.net.identity import Identity, certified_node

__all__ = ["CLIENT_HELLO", "PieceTls", "peer_node", "shut_down"]

CLIENT_HELLO = b"\x16"
"""The first byte that a TLS client sends (RFC 8446, 5.1: a handshake record); no HTTP request begins with it."""


class PieceTls:
    """The two TLS contexts of one node, made anew with its certificate. Thread-safe.

    Args:
        identity: this node's keys.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._lock = threading.Lock()
        self._shown: tuple[bytes, bytes] | None = None
        self._server: ssl.SSLContext | None = None
        self._client: ssl.SSLContext | None = None

    def serve(self, sock: socket.socket) -> ssl.SSLSocket:
        """The serving end of a connection; its handshake is still to be done. ``sock`` is of no use any more."""
        return self._context(server=True).wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def connect(self, sock: socket.socket, node_id: str) -> ssl.SSLSocket:
        """The end that connected, to ``node_id`` and no other; its handshake is still to be done."""
        return self._context(server=False).wrap_socket(sock, server_hostname=node_id, do_handshake_on_connect=False)

    def _context(self, *, server: bool) -> ssl.SSLContext:
        with self._lock:
            pair = self._identity.certificate()
            if pair != self._shown or self._server is None or self._client is None:
                self._server = self._make(ssl.PROTOCOL_TLS_SERVER, pair)
                self._client = self._make(ssl.PROTOCOL_TLS_CLIENT, pair)
                self._shown = pair
            return self._server if server else self._client

    def _make(self, protocol: int, pair: tuple[bytes, bytes]) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self._identity.ca_pem.decode("ascii"))
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # connections are kept; nobody resumes one
        _load(context, *pair)
        return context


def _load(context: ssl.SSLContext, key: bytes, certificate: bytes) -> None:
    """Python reads keys from files alone: this one is there for a moment, under a password that is nowhere written."""
    password = secrets.token_bytes(32).hex().encode()
    locked = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password),
    )
    try:
        handle, path = tempfile.mkstemp(prefix="exo-dl-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(locked + certificate)
            context.load_cert_chain(path, password=password)
        finally:
            os.unlink(path)
    except OSError as error:
        hint = "Pieces of private and gated models need a folder for temporary files: check TMPDIR."
        raise StorageError(f"The node's certificate cannot be loaded: {error}.", hint=hint) from error


def peer_node(sock: ssl.SSLSocket) -> str | None:
    """The node that the other side's certificate, which was checked, stands for; None where it is no member's."""
    data = sock.getpeercert(binary_form=True)
    if data is None:
        return None
    try:
        extensions = x509.load_der_x509_certificate(data).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    return certified_node(names.get_values_for_type(x509.DNSName))


def shut_down(sock: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    """Ends a connection that another thread may be using; TLS or not."""
    with contextlib.suppress(OSError):
        # The plain socket's method: the one of SSLSocket would take the TLS layer away from the thread that uses it.
        socket.socket.shutdown(sock, how)
