"""Who is enrolled: the clients whose certificates a server, and each client for itself, accepts in a sum.

The authority of the group vouches that an id and an identity key belong together; the roll says which of the group's
members are clients. Who is struck from it takes part in no further round.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from sharetorch.fl.deployment.errors import EnrolmentRefusedError
from sharetorch.mpc.errors import ConfigurationError, HandshakeError
from sharetorch.mpc.network.identity import PUBLIC_BYTES, Peer, check_id, named

_FORM = "a line for each client: its id, or its id and the 64 hexadecimal digits of its identity key"


class Authority:
    """Whose certificates hold.

    Args:
        path: of ``ca.crt``.

    Raises:
        ConfigurationError: it is no certificate.
    """

    def __init__(self, path: Path | str) -> None:
        self._certificate = x509.load_der_x509_certificate(der_of(Path(path)))

    def member(self, certificate: bytes, who: str, any_day: bool = False) -> Peer:
        """Whom a certificate names.

        Args:
            certificate: in DER.
            who: whose it is said to be, for messages.
            any_day: one that has expired will do.

        Raises:
            ConfigurationError: it is of another authority, is not valid today, or names nobody.
        """
        try:
            found = x509.load_der_x509_certificate(certificate)
            found.verify_directly_issued_by(self._certificate)
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            peer = named(names.get_values_for_type(x509.UniformResourceIdentifier), who)
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound, HandshakeError) as error:
            raise ConfigurationError(
                f"{who} is no certificate of a member, signed by this group's authority. Copy it from where it was "
                "made, or have a new one signed with `sharetorch keygen`."
            ) from error
        check_id(peer.id)
        if not any_day and not found.not_valid_before_utc <= datetime.now(UTC) <= found.not_valid_after_utc:
            raise ConfigurationError(
                f"{who} holds from {found.not_valid_before_utc:%Y-%m-%d} to {found.not_valid_after_utc:%Y-%m-%d}, not "
                "today. Its owner needs a new one: `sharetorch keygen --renew`."
            )
        return peer

    def until(self, certificate: bytes, who: str) -> datetime:
        """When a member's certificate expires.

        Raises:
            ConfigurationError: as ``member``.
        """
        self.member(certificate, who)
        return x509.load_der_x509_certificate(certificate).not_valid_after_utc


class Roll:
    """The enrolled clients, read from where they are listed whenever that has changed.

    Args:
        path: a folder of certificates ``ID.crt``, or a text file with a line for each client: its id, or its id and
            its identity key in hexadecimal digits. What follows "#" is a comment.
        authority: who signs certificates.

    Attributes:
        authority: as given.
    """

    def __init__(self, path: Path | str, authority: Authority) -> None:
        self._path = Path(path)
        self.authority = authority
        self._stamp: list[tuple[str, int, int]] = []
        self._found: dict[str, bytes | None] = {}

    def read(self) -> dict[str, bytes | None]:
        """Identity keys by id; None accepts whatever key the authority vouches for.

        Raises:
            ConfigurationError: the list cannot be read, holds something else, or names a key twice.
        """
        try:
            stamp = self._stamped()
            if stamp != self._stamp:
                self._stamp = []
                self._found = self._folder() if self._path.is_dir() else self._file()
                self._stamp = stamp
        except OSError as error:
            raise ConfigurationError(
                f"The list of enrolled clients {self._path} cannot be read: {error.strerror}. Name a folder of their "
                f"certificates, or a file with {_FORM}."
            ) from error
        keys = [key for key in self._found.values() if key is not None]
        if len(set(keys)) != len(keys):
            raise ConfigurationError(
                f"{self._path} lists one identity key under several ids. Each client needs keys of its own."
            )
        return self._found

    def _stamped(self) -> list[tuple[str, int, int]]:
        """What changes when the list does."""
        paths = sorted(self._path.glob("*.crt")) if self._path.is_dir() else [self._path]
        found = [(path, path.stat()) for path in (self._path, *paths)]
        return [(str(path), state.st_mtime_ns, state.st_size) for path, state in found]

    def require(self, peer: Peer) -> None:
        """Refuse who is not enrolled.

        Raises:
            EnrolmentRefusedError: the id is not listed, or with another key.
            ConfigurationError: as ``read``.
        """
        listed = self.read()
        if peer.id not in listed:
            raise EnrolmentRefusedError(
                f"{peer.id!r} is not enrolled in this federation: its server does not list it. Ask whoever runs the "
                "server to enrol this certificate."
            )
        if listed[peer.id] not in (None, peer.public):
            raise EnrolmentRefusedError(
                f"{peer.id!r} is enrolled with another identity key than its certificate names. Enrol the certificate "
                "that it has now."
            )

    def _folder(self) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for path in sorted(self._path.glob("*.crt")):
            if path.name != "ca.crt":
                peer = self.authority.member(der_of(path), str(path), any_day=True)
                if f"{peer.id}.crt" != path.name:
                    raise ConfigurationError(f"{path} is the certificate of {peer.id!r}. Rename or remove it.")
                found[peer.id] = peer.public
        return found

    def _file(self) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for number, line in enumerate(self._path.read_text("utf-8", "replace").splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            try:
                check_id(words[0])
                key = bytes.fromhex(words[1]) if len(words) == 2 else None
            except (ConfigurationError, ValueError) as error:
                raise self._no_line(number, line) from error
            if len(words) > 2 or (key is not None and len(key) != PUBLIC_BYTES) or words[0] in found:
                raise self._no_line(number, line)
            found[words[0]] = key
        return found

    def _no_line(self, number: int, line: str) -> ConfigurationError:
        return ConfigurationError(
            f"Line {number} of {self._path}, {line.strip()[:80]!r}, enrols nobody, or somebody once more. Write "
            f"{_FORM}."
        )


def der_of(path: Path) -> bytes:
    """A certificate file in DER.

    Raises:
        ConfigurationError: it holds none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    except OSError as error:
        raise ConfigurationError(f"The certificate {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is no certificate in PEM form. Copy it from where it was made.") from error
