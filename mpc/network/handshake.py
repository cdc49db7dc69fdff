"""How two members of a session make sure of each other and agree on a secret.

Their TLS connections prove who they are. Inside, one signed exchange of ephemeral X25519 keys gives the pair secret,
from which their common streams are drawn, and the keys of their frames. What is signed is the session id with both
identities, ranks and ephemeral keys, so an exchange fits one pair of one session; both ephemeral keys are forgotten,
so nobody can compute the secret later (forward secrecy).

The session id is the SHA-256 of the session document and of 32 fresh bytes from every member.

    hello       "STH1", session id (32), ranks of the dialer and of the other (1, 1), purpose (1), key (32)
    signature   Ed25519 over "low" or "high", for the signer's rank, and
                SHA-256("sharetorch/v1/pair", session id, ranks, identities, ephemeral keys)

The member of lower rank dials twice. The first connection (purpose 0) carries the exchange, then its frames; the second
(purpose 1) carries the other's frames: its hello has in place of a key a MAC under the pair secret. Nobody writes into
a connection in which the other one writes.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sharetorch.mpc.errors import ConnectionLostError, DeadlineExceededError, HandshakeError
from sharetorch.mpc.network.frames import Direction
from sharetorch.mpc.network.identity import Identity, Peer, verify
from sharetorch.mpc.randomness import SECRET_BYTES

VERSION = 1
FRESH_BYTES = 32
_HELLO = struct.Struct("<4s32sBBB32s")
_MAGIC = b"STH1"
_SIGNATURE_BYTES = 64
FORTH, BACK = 0, 1
"""Purposes of a connection: frames of the one who dialed, frames of the other."""


class MemberEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member in a session document.

    Attributes:
        id: its name.
        public: its identity key, 32 bytes.
        host: where its peers reach it.
        port: likewise.
    """

    id: str
    public: bytes
    host: str
    port: int


class SessionDocument(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What all members of a session agree on.

    Attributes:
        version: of this protocol.
        members: in order of rank, the provider last if there is one.
        parties: how many of the members hold shares.
        modulus: of the ring, big-endian.
        suite: name of the protocol suite.
        round_seconds: how long a member waits for one message.
    """

    version: int
    members: list[MemberEntry]
    parties: int
    modulus: bytes
    suite: str
    round_seconds: float

    def canonical(self) -> bytes:
        """The one way of writing this document."""
        return msgspec.msgpack.encode(self)


def session_id(document: SessionDocument, fresh: Sequence[bytes]) -> bytes:
    """The id of a session, 32 bytes, from its document and 32 fresh bytes of every member in order of rank."""
    written = document.canonical()
    return hashlib.sha256(
        b"sharetorch/v1/session" + len(written).to_bytes(8, "big") + written + b"".join(fresh)
    ).digest()


class Hello(NamedTuple):
    """The first message on a connection between members."""

    magic: bytes
    session: bytes
    dialer: int
    other: int
    purpose: int
    key: bytes


class PairKeys(NamedTuple):
    """What two members have in common after the exchange.

    Attributes:
        secret: from which their streams are drawn.
        frames: key of the tags of frames, by rank of the sender.
        joining: key of the hello of the second connection.
    """

    secret: bytes
    frames: dict[int, bytes]
    joining: bytes

    def __repr__(self) -> str:
        return "PairKeys(...)"

    def direction(self, session: bytes, sender: int, receiver: int) -> Direction:
        """What frames of one direction are bound to."""
        return Direction(self.frames[sender], session, sender, receiver)


class Pair(NamedTuple):
    """Two members of a session: ``low`` has the lower rank and dials."""

    session: bytes
    low: int
    high: int
    low_entry: MemberEntry
    high_entry: MemberEntry


def read_hello(sock: ssl.SSLSocket) -> Hello:
    """Read the first message of a connection.

    Raises:
        HandshakeError: it is none.
    """
    hello = Hello(*_HELLO.unpack(_read(sock, _HELLO.size)))
    if hello.magic != _MAGIC or hello.dialer >= hello.other or hello.purpose not in (FORTH, BACK):
        raise HandshakeError(
            "A connection between members began with something else than their greeting; it is closed."
        )
    return hello


def exchange_as_low(sock: ssl.SSLSocket, pair: Pair, identity: Identity) -> PairKeys:
    """Dialer's side of the exchange, on the first connection.

    Raises:
        HandshakeError: the other's signature or session is wrong.
    """
    own = X25519PrivateKey.generate()
    public = own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    sock.sendall(_HELLO.pack(_MAGIC, pair.session, pair.low, pair.high, FORTH, public))
    answer = _read(sock, 32 + _SIGNATURE_BYTES)
    other, signature = answer[:32], answer[32:]
    transcript = _transcript(pair, public, other)
    verify(pair.high_entry.public, signature, b"high" + transcript)
    sock.sendall(identity.sign(b"low" + transcript))
    return _derive(pair, own, other, transcript)


def exchange_as_high(sock: ssl.SSLSocket, hello: Hello, pair: Pair, identity: Identity) -> PairKeys:
    """The other side of the exchange, after its hello was read.

    Raises:
        HandshakeError: the dialer's signature is wrong.
    """
    own = X25519PrivateKey.generate()
    public = own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    transcript = _transcript(pair, hello.key, public)
    sock.sendall(public + identity.sign(b"high" + transcript))
    verify(pair.low_entry.public, _read(sock, _SIGNATURE_BYTES), b"low" + transcript)
    return _derive(pair, own, hello.key, transcript)


def join_as_low(sock: ssl.SSLSocket, pair: Pair, keys: PairKeys) -> None:
    """Dialer's greeting on the second connection."""
    proof = hmac.digest(keys.joining, pair.session, "sha256")
    sock.sendall(_HELLO.pack(_MAGIC, pair.session, pair.low, pair.high, BACK, proof))


def check_join(hello: Hello, pair: Pair, keys: PairKeys) -> None:
    """Check the greeting of a second connection.

    Raises:
        HandshakeError: it is not of the one who made the exchange.
    """
    if not hmac.compare_digest(hello.key, hmac.digest(keys.joining, pair.session, "sha256")):
        raise HandshakeError(
            f"{pair.low_entry.id} opened a second connection without knowing the pair's secret; it is closed."
        )


def check_peer(peer: Peer, entry: MemberEntry) -> None:
    """Check that a connection belongs to a member of the document.

    Raises:
        HandshakeError: its certificate is another's.
    """
    if (peer.id, peer.public) != (entry.id, entry.public):
        raise HandshakeError(
            f"The session names {entry.id} with identity key {entry.public.hex()[:16]}..., but the connection belongs "
            f"to {peer.id} with {peer.public.hex()[:16]}.... Connect to the group's own workers."
        )


def _transcript(pair: Pair, low_key: bytes, high_key: bytes) -> bytes:
    digest = hashlib.sha256(b"sharetorch/v1/pair")
    for part in (
        pair.session, bytes([pair.low, pair.high]), pair.low_entry.id.encode(), pair.low_entry.public,
        pair.high_entry.id.encode(), pair.high_entry.public, low_key, high_key,
    ):  # fmt: skip
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


def _derive(pair: Pair, own: X25519PrivateKey, other: bytes, transcript: bytes) -> PairKeys:
    try:
        agreed = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise HandshakeError("A member sent a degenerate ephemeral key; the session is refused.") from error
    expanded = HKDF(
        algorithm=SHA256(), length=4 * SECRET_BYTES, salt=pair.session, info=b"sharetorch/v1/pair" + transcript
    ).derive(agreed)
    secret, low, high, joining = (expanded[i : i + SECRET_BYTES] for i in range(0, 4 * SECRET_BYTES, SECRET_BYTES))
    return PairKeys(secret, {pair.low: low, pair.high: high}, joining)


def _read(sock: ssl.SSLSocket, count: int) -> bytes:
    found = bytearray()
    try:
        while len(found) < count:
            part: Any = sock.recv(count - len(found))
            if not part:
                break
            found += part
    except TimeoutError as error:
        raise DeadlineExceededError("The other member did not finish the handshake in time.") from error
    except (OSError, ssl.SSLError) as error:
        raise ConnectionLostError(f"The connection broke during the handshake ({error}).") from error
    if len(found) < count:
        raise ConnectionLostError("The other member closed the connection during the handshake.")
    return bytes(found)
