"""Who a member is, and connections both of whose ends are known.

A member has two key pairs. The TLS key (ECDSA P-256) serves connections; its certificate, signed by the group's own
authority, names the member in a URI ``sharetorch:ID?key=HEX``. The identity key (Ed25519) signs what must hold
longer than a connection; HEX is its public half. Nobody without a certificate of the same authority gets through a
handshake, and a peer's id is read from its certificate alone, never from what it says.

Only TLS 1.3 is spoken, without resumption. In TLS 1.3 a client has finished its handshake before the server has
looked at the client's certificate: whether it was accepted shows at the first read. Between members the server
therefore sends one byte once it has accepted, and ``dial`` waits for it; on the control channel the reply of the
websocket takes that part, and ``tls_failure`` says what an error there means.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import stat
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sharetorch.mpc.errors import ConfigurationError, DeadlineExceededError, HandshakeError, WorkerUnreachableError

ALPN_CONTROL = "http/1.1"
"""A websocket between a driver and a worker, or between two workers."""
ALPN_PEER = "sharetorch/1"
"""A data connection between two members."""

PUBLIC_BYTES = 32
_ACCEPTED = b"\x01"
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_URI = re.compile(rf"sharetorch:({_ID.pattern})\?key=([0-9a-f]{{{2 * PUBLIC_BYTES}}})")

SILENCE_SECONDS = 15
"""After so long without an acknowledgement the operating system gives a connection up."""


class Peer(NamedTuple):
    """Whom a connection belongs to, by its certificate.

    Attributes:
        id: name of the member.
        public: its Ed25519 public key, 32 bytes.
    """

    id: str
    public: bytes


class Identity:
    """A member's own id, keys and certificates.

    Attributes:
        id: name of the member.
        public: its Ed25519 public key, 32 bytes.
        expires: end of its certificate, in UTC.
    """

    __slots__ = ("_folder", "_private", "expires", "id", "public")

    def __init__(self, folder: Path, id: str, private: Ed25519PrivateKey, expires: datetime) -> None:
        self._folder = folder
        self._private = private
        self.id = id
        self.public = private.public_key().public_bytes_raw()
        self.expires = expires

    @classmethod
    def load(cls, folder: Path | str, id: str) -> Identity:
        """The identity whose files ``ID.crt``, ``ID.key``, ``ID.identity`` and ``ca.crt`` lie in a folder.

        An expired certificate is loaded too: peers refuse it, and ``expires`` tells.

        Raises:
            ConfigurationError: a file is missing, broken, readable by other users, or does not belong to the others.
        """
        check_id(id)
        folder = Path(folder)
        _require_files(folder, id)
        private = _private_key(folder / f"{id}.identity")
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigurationError(f"{folder / f'{id}.identity'} holds no Ed25519 key. Make keys with {_KEYGEN}.")
        certificate, authority = _certificate(folder / f"{id}.crt"), _certificate(folder / "ca.crt")
        found = cls(folder, id, private, certificate.not_valid_after_utc)
        _require_match(folder, found, certificate, authority)
        return found

    def sign(self, data: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""
        return self._private.sign(data)

    def server_context(self, protocols: Sequence[str] = (ALPN_CONTROL, ALPN_PEER)) -> ssl.SSLContext:
        """For accepting connections from members of the group, for ``accept``.

        Raises:
            ConfigurationError: a file has gone or no longer fits.
        """
        context = self._context(ssl.PROTOCOL_TLS_SERVER, protocols)
        context.num_tickets = 0
        return context

    def client_context(self, protocol: str) -> ssl.SSLContext:
        """For connecting to members of the group.

        Names of hosts are not compared: ids are, by ``dial`` or ``peer_of``.

        Raises:
            ConfigurationError: a file has gone or no longer fits.
        """
        return self._context(ssl.PROTOCOL_TLS_CLIENT, [protocol])

    def _context(self, kind: int, protocols: Sequence[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(kind)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
        path = self._folder / self.id
        try:
            context.load_verify_locations(cafile=self._folder / "ca.crt")
            context.load_cert_chain(f"{path}.crt", f"{path}.key")
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"The certificates of {self.id!r} in {self._folder}: {_reason(error)}.") from error
        context.set_alpn_protocols(list(protocols))
        return context

    def __repr__(self) -> str:
        return f"Identity({self.id!r}, public={self.public.hex()})"


_KEYGEN = "`sharetorch keygen`"


def check_id(id: str) -> None:
    """Refuse what cannot be the id of a member on the network.

    Raises:
        ConfigurationError: it is no text of up to 64 letters, digits, "_", "-" and ".", or begins with "-" or ".".
    """
    if not isinstance(id, str) or not _ID.fullmatch(id) or id == "ca":
        raise ConfigurationError(
            f"{id!r} is no id of a worker. Use 1 to 64 letters, digits, '_', '-' or '.', not '-' or '.' first, "
            "and not 'ca', which names the authority's files."
        )


def name_of(id: str, public: bytes) -> str:
    """The URI that names a member in its certificate."""
    return f"sharetorch:{id}?key={public.hex()}"


def named(uris: Sequence[str], who: str) -> Peer:
    """The member a certificate's URIs name.

    Raises:
        HandshakeError: they name none, or more than one.
    """
    peers = [Peer(found[1], bytes.fromhex(found[2])) for uri in uris if (found := _URI.fullmatch(uri))]
    if len(peers) != 1:
        raise HandshakeError(
            f"The certificate of {who} names {len(peers)} members instead of one, so whose it is cannot be told. "
            f"Make certificates with {_KEYGEN}."
        )
    return peers[0]


def peer_of(sock: ssl.SSLSocket) -> Peer:
    """Whom a connection belongs to, by the certificate it was opened with.

    Raises:
        HandshakeError: the certificate names no member, or there is none.
    """
    certificate: dict[str, Any] = dict(sock.getpeercert() or {})
    names = certificate.get("subjectAltName", ())
    return named([entry[1] for entry in names if entry[0] == "URI"], "the other end")


def verify(public: bytes, signature: bytes, data: bytes) -> None:
    """Check an Ed25519 signature.

    Raises:
        HandshakeError: it does not hold.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError) as error:
        raise HandshakeError(
            f"A signature does not hold under the identity key {public.hex()[:16]}...: the sender does not have this "
            "identity, or the message was changed on its way. The connection is refused."
        ) from error


# ---------------------------------------------------------------------------------------------------- connections


def dial(
    identity: Identity, address: tuple[str, int], expect: str | None, protocol: str, timeout: float
) -> tuple[ssl.SSLSocket, Peer]:
    """Connect to a member.

    For ``ALPN_PEER`` the other end has accepted our certificate when this returns; for ``ALPN_CONTROL`` only its
    first reply shows that. The socket has no timeout afterwards.

    Args:
        identity: our own.
        address: host and port.
        expect: id the other end must have; None takes any member of the group.
        protocol: ``ALPN_CONTROL`` or ``ALPN_PEER``.
        timeout: seconds for everything together.

    Raises:
        WorkerUnreachableError: nobody answers at the address.
        HandshakeError: one side refuses the other's certificate, or another member than expected answers.
        DeadlineExceededError: somebody answers, but does not complete the handshake in time.
    """
    deadline = time.monotonic() + timeout
    where = f"{address[0]}:{address[1]}"
    who = where if expect is None else f"{expect} at {where}"
    context = identity.client_context(protocol)
    tls = _wrapped(context, _connect(address, who, timeout), who, server_side=False)
    try:
        tls.settimeout(_left(deadline))
        tls.do_handshake()
        peer = _checked(tls, expect, protocol, who)
        if protocol == ALPN_PEER:
            tls.settimeout(_left(deadline))
            if tls.recv(1) != _ACCEPTED:
                raise EOFError
        tls.settimeout(None)
    except TimeoutError as error:
        tls.close()
        raise DeadlineExceededError(
            f"{who} accepted a connection but did not complete the handshake within {timeout:g} s. It is overloaded "
            "or hangs, or another program listens there. Try again, or look at its log."
        ) from error
    except (OSError, EOFError, ValueError) as error:
        tls.close()
        if isinstance(error, HandshakeError):
            raise
        raise tls_failure(error, who) from error
    return tls, peer


def accept(context: ssl.SSLContext, raw: socket.socket, timeout: float) -> tuple[ssl.SSLSocket, Peer]:
    """Take over a connection that was opened to us.

    ``selected_alpn_protocol()`` of the socket tells what it is for. The socket has no timeout afterwards. If this
    raises, the connection is closed.

    Args:
        context: ``server_context`` of our identity.
        raw: what the listening socket's ``accept`` gave.
        timeout: seconds for everything together.

    Raises:
        HandshakeError: the certificate of the other end is missing or refused, or it speaks another protocol.
        DeadlineExceededError: it does not complete the handshake in time.
    """
    deadline = time.monotonic() + timeout
    who = _address_of(raw)
    tls = _wrapped(context, raw, who, server_side=True)
    try:
        tls.settimeout(timeout)
        tls.do_handshake()
        peer = _checked(tls, None, None, who)
        if tls.selected_alpn_protocol() == ALPN_PEER:
            tls.settimeout(_left(deadline))
            tls.sendall(_ACCEPTED)
        tls.settimeout(None)
    except TimeoutError as error:
        tls.close()
        raise DeadlineExceededError(f"{who} did not complete the handshake within {timeout:g} s.") from error
    except (OSError, ValueError) as error:
        _close_with_alert(tls)
        if isinstance(error, HandshakeError):
            raise
        raise tls_failure(error, who) from error
    return tls, peer


def tune(sock: socket.socket) -> None:
    """Send at once, and notice a dead other end within ``SILENCE_SECONDS``."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux":
        third = SILENCE_SECONDS // 3
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, third)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, third)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * SILENCE_SECONDS)


_REFUSED_BY_US = {
    9: "its certificate is not valid yet. Compare the clocks of the two machines",
    10: "its certificate has expired. Its owner needs a new one: `sharetorch keygen --renew`",
    18: "its certificate is signed by itself, not by the authority of this group. Copy the group's ca.crt and a "
    "certificate signed by it to that machine",
    19: "its certificate is of another authority. Both sides need certificates signed by the same ca.crt",
    20: "its certificate is of another authority. Both sides need certificates signed by the same ca.crt",
}
"""By OpenSSL's number for the failure of a check."""

_REFUSED_BY_THEM = {
    "CERTIFICATE_EXPIRED": "our certificate has expired. Make a new one: `sharetorch keygen --renew`",
    "UNKNOWN_CA": "our certificate is of another authority. Both sides need certificates signed by the same ca.crt",
    "CERTIFICATE_REQUIRED": "it needs a certificate and we sent none. Load an identity made with `sharetorch keygen`",
    "DECRYPT_ERROR": "our certificate is of another authority. Both sides need certificates signed by the same ca.crt",
    "BAD_CERTIFICATE": "it takes our certificate for none, or for not valid yet. Compare the clocks, and make a new "
    "one with `sharetorch keygen`",
    "UNSUPPORTED_CERTIFICATE": f"our certificate has a form it does not take. Make one with {_KEYGEN}",
    "CERTIFICATE_UNKNOWN": f"our certificate is not accepted there. Make one with {_KEYGEN}",
}
"""By the alert the other end sent."""

_NO_TLS = ("HTTP_REQUEST", "WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION", "HTTPS_PROXY_REQUEST")


def tls_failure(error: BaseException, who: str) -> HandshakeError:
    """What an error before the first reply of the other end means.

    Args:
        error: an ``ssl.SSLError``, another ``OSError``, or an ``EOFError`` where the other end closed.
        who: the other end, for the message: its id and address.
    """
    if isinstance(error, HandshakeError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        why = _REFUSED_BY_US.get(error.verify_code, f"its certificate does not hold ({error.verify_message})")
        return HandshakeError(f"The connection with {who} is refused: {why}.")
    reason = (getattr(error, "reason", None) or "") if isinstance(error, ssl.SSLError) else ""
    for alert, why in _REFUSED_BY_THEM.items():
        if "ALERT" in reason and reason.endswith(alert):
            return HandshakeError(f"{who} refuses the connection: {why}.")
    if reason.endswith("PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        return HandshakeError(f"The connection with {who} is refused: it presents no certificate.")
    if reason.endswith(_NO_TLS):
        return HandshakeError(f"{who} does not speak TLS 1.3. Compare the ports, and the versions on both machines.")
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, EOFError, ConnectionError)):
        return HandshakeError(
            f"{who} closed the connection during the handshake. It refuses our certificate, accepts no more "
            "connections, or is no worker. Its log says which; `sharetorch doctor` checks our side."
        )
    return HandshakeError(f"The handshake with {who} failed: {_reason(error)}.")


def _connect(address: tuple[str, int], who: str, timeout: float) -> socket.socket:
    try:
        return socket.create_connection(address, timeout=timeout)
    except (OSError, UnicodeError, OverflowError) as error:
        raise WorkerUnreachableError(
            f"Nobody answers for {who}: {_reason(error)}. Compare the address, see that the worker runs, and that "
            "firewalls let the port through."
        ) from error


def _wrapped(context: ssl.SSLContext, raw: socket.socket, who: str, server_side: bool) -> ssl.SSLSocket:
    """A connection before its handshake."""
    try:
        tune(raw)
        return context.wrap_socket(raw, server_side=server_side, do_handshake_on_connect=False)
    except (OSError, ValueError) as error:
        raw.close()
        raise tls_failure(error, who) from error


def _checked(tls: ssl.SSLSocket, expect: str | None, protocol: str | None, who: str) -> Peer:
    """The other end, if it is who and what it should be."""
    chosen = tls.selected_alpn_protocol()
    if chosen is None or (protocol is not None and chosen != protocol):
        raise HandshakeError(
            f"{who} speaks {chosen or 'no protocol of ours'}, not {protocol or 'one of this worker'}. Compare the "
            "versions of ShareTorch on both machines."
        )
    peer = peer_of(tls)
    if expect is not None and peer.id != expect:
        raise HandshakeError(
            f"{who} has the certificate of {peer.id!r}, not of {expect!r}. Compare addresses and ids: the wrong "
            "worker runs there, or with the wrong keys."
        )
    return peer


def _close_with_alert(tls: ssl.SSLSocket) -> None:
    """Close so that what was sent last arrives: unread bytes would make the system reset the connection."""
    with contextlib.suppress(OSError, ValueError):
        tls.settimeout(0)
        socket.socket.shutdown(tls, socket.SHUT_WR)
        for _ in range(8):
            if not socket.socket.recv(tls, 1 << 16):
                break
    tls.close()


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _address_of(sock: socket.socket) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except (OSError, ValueError):
        return "the other end"
    return f"{host}:{port}"


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error)
    if isinstance(error, TimeoutError):
        return "no reply to the connection request"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


# ---------------------------------------------------------------------------------------------------------- files


def require_private(path: Path) -> None:
    """Refuse a key that others on this machine may read.

    Raises:
        ConfigurationError: its group or all users may.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        raise ConfigurationError(
            f"The private key {path} has mode {mode:04o}: other users of this machine may get at it. "
            f"Run `chmod 600 {path}`, and make new keys if somebody may have read it."
        )


def _require_files(folder: Path, id: str) -> None:
    names = (f"{id}.crt", f"{id}.key", f"{id}.identity", "ca.crt")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ConfigurationError(
            f"The keys of {id!r} are incomplete: {folder} has no {', '.join(missing)}. Make them with {_KEYGEN}, or "
            "copy them from where they were made."
        )
    for name in (f"{id}.key", f"{id}.identity"):
        require_private(folder / name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {_reason(error)}.") from error


def _private_key(path: Path) -> object:
    require_private(path)
    try:
        return load_pem_private_key(_read(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The cause is not passed on: it might quote the file.
        raise ConfigurationError(f"{path} is no private key in PEM form. Make keys with {_KEYGEN}.") from None


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise ConfigurationError(f"{path} is no certificate in PEM form. Make one with {_KEYGEN}.") from error


def _require_match(folder: Path, found: Identity, certificate: x509.Certificate, authority: x509.Certificate) -> None:
    """The files of one member belong together."""
    path = folder / f"{found.id}.crt"
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        peer = named(names.get_values_for_type(x509.UniformResourceIdentifier), str(path))
    except (x509.ExtensionNotFound, ValueError, HandshakeError) as error:
        raise ConfigurationError(f"{path} names no member. Make certificates with {_KEYGEN}.") from error
    if peer.id != found.id:
        raise ConfigurationError(f"{path} is the certificate of {peer.id!r}, not of {found.id!r}. Use its own.")
    if peer.public != found.public:
        raise ConfigurationError(
            f"{path} names another identity key than {folder / f'{found.id}.identity'} holds. Copy both from the same "
            f"place, or make them again with {_KEYGEN}."
        )
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{path} is not signed by the authority in {folder / 'ca.crt'}. Copy both from the same place."
        ) from error
    _require_tls_key(folder / f"{found.id}.key", certificate)


def _require_tls_key(path: Path, certificate: x509.Certificate) -> None:
    key = _private_key(path)
    public = getattr(key, "public_key", None)
    if public is None or public() != certificate.public_key():
        raise ConfigurationError(
            f"{path} is not the key of {path.with_suffix('.crt')}. Copy both from the same place, or make them "
            f"again with {_KEYGEN}."
        )
