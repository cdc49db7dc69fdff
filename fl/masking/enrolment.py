"""Whose signatures hold: the clients that are enrolled, and the convener of rounds.

Everything signed carries a label of what it says, so that no signature fits another statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from sharetorch.fl.masking.errors import ForgedMessageError
from sharetorch.mpc.errors import ConfigurationError, HandshakeError
from sharetorch.mpc.network.identity import Peer, check_id, named, verify

OPENING, KEYS, INCLUDED, SURVIVORS = b"opening", b"keys", b"included", b"survivors"


class Signer(Protocol):
    """Who signs: ``mpc.network.identity.Identity``, or an object over a key elsewhere."""

    @property
    def id(self) -> str:
        """Name of the member."""

    @property
    def public(self) -> bytes:
        """Its Ed25519 public key."""

    def sign(self, data: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""


class Enrolment:
    """The identity keys that a client or the aggregator relies on.

    Args:
        clients: public keys by id.
        convener: who signs documents of rounds.

    Raises:
        ConfigurationError: an id is none, or a key belongs to two clients.
    """

    def __init__(self, clients: Mapping[str, bytes], convener: Peer) -> None:
        for id in (*clients, convener.id):
            check_id(id)
        if len(set(clients.values())) != len(clients):
            raise ConfigurationError("Two clients are enrolled with one identity key. Each needs a key of its own.")
        self.clients = dict(clients)
        self.convener = convener

    @classmethod
    def from_certificates(cls, folder: Path | str, clients: Iterable[str], convener: str) -> Enrolment:
        """Who is named in certificates ``ID.crt`` that the authority in the same folder has signed.

        Raises:
            ConfigurationError: a certificate is missing, expired, of another authority, or names somebody else.
        """
        folder = Path(folder)
        return cls({id: _certified(folder, id) for id in clients}, Peer(convener, _certified(folder, convener)))


def statement(label: bytes, digest: bytes, member: int, content: bytes = b"") -> bytes:
    """What a member signs in a round."""
    return b"sharetorch/masking/v1/" + label + b"\x00" + digest + member.to_bytes(4, "big") + content


def require_signature(public: bytes, signature: bytes, data: bytes, who: str, what: str) -> None:
    """Check a signature.

    Raises:
        ForgedMessageError: it does not hold.
    """
    try:
        verify(public, signature, data)
    except HandshakeError as error:
        raise ForgedMessageError(
            f"The signature of {who} over {what} does not hold: it was changed on its way, is of another round, or "
            "does not come from who is enrolled by this name. It is not used."
        ) from error


def _certified(folder: Path, id: str) -> bytes:
    check_id(id)
    path = folder / f"{id}.crt"
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes()))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        peer = named(names.get_values_for_type(x509.UniformResourceIdentifier), str(path))
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound, HandshakeError) as error:
        raise ConfigurationError(
            f"{path} is no certificate of the authority in {folder / 'ca.crt'} ({type(error).__name__}). Copy both "
            "from where they were made."
        ) from error
    now = datetime.now(UTC)
    if peer.id != id or not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ConfigurationError(
            f"{path} names {peer.id!r} and holds from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}; a certificate of {id!r} that holds today is needed."
        )
    return peer.public
