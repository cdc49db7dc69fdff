"""A group's own certificate authority, and the certificates and keys of its members.

Files in a folder: ``ca.crt`` and ``ca.key`` of the authority; for every member ``ID.crt`` and ``ID.key`` for TLS and
``ID.identity`` with its Ed25519 key. A member's machine needs ``ca.crt`` and its own three files. ``ca.key`` stays
where certificates are made: whoever has it can pass for any member.

A member that lets nobody else see its keys makes them itself with ``request`` and has the request signed by ``sign``.

Private keys come from the generator of OpenSSL, like the keys of TLS itself, and are written for their owner only.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sharetorch.mpc.errors import ConfigurationError, HandshakeError
from sharetorch.mpc.network.identity import check_id, name_of, named, require_private

AUTHORITY_DAYS = 3650
_EARLIER = timedelta(minutes=5)
"""Certificates begin so much before now: clocks differ."""
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")

MemberKeys = tuple[ec.EllipticCurvePrivateKey, Ed25519PrivateKey]


def make_authority(folder: Path | str, days: int = AUTHORITY_DAYS, replace: bool = False) -> None:
    """Make ``ca.crt`` and ``ca.key``.

    Args:
        folder: where to; made if it does not exist, for its owner only.
        days: how long the authority's certificate is valid.
        replace: overwrite an authority, which makes all its certificates worthless.

    Raises:
        ConfigurationError: there is one already, or the folder cannot be written.
    """
    folder = _ready(folder)
    _require_absent(folder, ["ca.crt", "ca.key"], replace)
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # No two groups have authorities of the same name, or failed checks would be hard to tell apart.
    name = _name(f"ShareTorch group authority {serial:x}"[:64])
    builder = _dated(x509.CertificateBuilder(), days).subject_name(name).issuer_name(name).serial_number(serial)
    builder = builder.public_key(key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    _write(folder / "ca.key", _pem(key), private=True)
    _write(folder / "ca.crt", builder.sign(key, SHA256()).public_bytes(Encoding.PEM), private=False)


def require_possible(
    folder: Path | str, members: Mapping[str, Sequence[str]], days: int = 365, replace: bool = False
) -> None:
    """Refuse to issue what cannot be issued to all members, before anything is made.

    Args:
        folder: where the files would go.
        members: ids, with the hosts of each.
        days: how long the certificates would be valid.
        replace: files that are there do not matter.

    Raises:
        ConfigurationError: a member has files already, or an argument is wrong.
    """
    for id, hosts in members.items():
        check_id(id)
        for host in hosts:
            _host(host)
    _require_days(days)
    _require_absent(Path(folder), [name for id in members for name in _member_files(id)], replace)


def issue(
    folder: Path | str,
    id: str,
    hosts: Sequence[str] = (),
    days: int = 365,
    replace: bool = False,
    renew: bool = False,
) -> None:
    """Make a member's keys and its certificate, signed by the authority in the folder.

    Args:
        folder: where the authority's files are, and the member's go.
        id: name of the member.
        hosts: names and IP addresses of its machine.
        days: how long the certificate is valid, at most as long as the authority's.
        replace: overwrite the member's files; others then see a new identity.
        renew: overwrite certificate and TLS key, and keep the identity key.

    Raises:
        ConfigurationError: there is no authority, the member has files already, or an argument is wrong.
    """
    check_id(id)
    names = [_host(host) for host in hosts]
    folder = _ready(folder)
    authority, signer = _authority(folder)
    _require_absent(folder, _member_files(id), replace or renew)
    keys = ec.generate_private_key(ec.SECP256R1()), _identity_key(folder, id, renew)
    public = keys[1].public_key().public_bytes_raw()
    certificate = _signed(authority, signer, id, public, keys[0].public_key(), names, days)
    _write_keys(folder, id, keys)
    _write(folder / f"{id}.crt", certificate, private=False)


def request(folder: Path | str, id: str, hosts: Sequence[str] = (), replace: bool = False) -> Path:
    """Make a member's keys and a request for a certificate, ``ID.csr``, on the member's own machine.

    Raises:
        ConfigurationError: the member has files already, or an argument is wrong.
    """
    check_id(id)
    names = [_host(host) for host in hosts]
    folder = _ready(folder)
    _require_absent(folder, [*_member_files(id), f"{id}.csr"], replace)
    keys = ec.generate_private_key(ec.SECP256R1()), Ed25519PrivateKey.generate()
    public = keys[1].public_key().public_bytes_raw()
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(id))
    builder = builder.add_extension(_alternatives(id, public, names), critical=False)
    _write_keys(folder, id, keys)
    path = folder / f"{id}.csr"
    _write(path, builder.sign(keys[0], SHA256()).public_bytes(Encoding.PEM), private=False)
    return path


def sign(folder: Path | str, path: Path | str, days: int = 365, replace: bool = False) -> str:
    """Sign a member's request by the authority in the folder; the certificate goes beside the authority's.

    Whoever signs vouches for the id: see that the request comes from that member.

    Returns:
        The member's id; its certificate is ``ID.crt``.

    Raises:
        ConfigurationError: there is no authority, the member has a certificate already, or the request does not hold.
    """
    folder = _ready(folder)
    authority, signer = _authority(folder)
    try:
        found = x509.load_pem_x509_csr(Path(path).read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        peer = named(names.get_values_for_type(x509.UniformResourceIdentifier), str(path))
    except (OSError, ValueError, x509.ExtensionNotFound, HandshakeError) as error:
        raise ConfigurationError(f"{path} is no request for a certificate of a member: {error}.") from error
    check_id(peer.id)
    key = found.public_key()
    if not found.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigurationError(f"The signature of {path} does not hold. Make the request again.")
    _require_absent(folder, [f"{peer.id}.crt"], replace)
    hosts = [name for name in names if isinstance(name, (x509.DNSName, x509.IPAddress))]
    certificate = _signed(authority, signer, peer.id, peer.public, key, hosts, days)
    _write(folder / f"{peer.id}.crt", certificate, private=False)
    return peer.id


# --------------------------------------------------------------------------------------------------------- content


def _signed(
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    id: str,
    public: bytes,
    key: ec.EllipticCurvePublicKey,
    hosts: Sequence[x509.GeneralName],
    days: int,
) -> bytes:
    builder = _dated(x509.CertificateBuilder(), days, authority.not_valid_after_utc).subject_name(_name(id))
    builder = builder.issuer_name(authority.subject).serial_number(x509.random_serial_number()).public_key(key)
    builder = builder.add_extension(_alternatives(id, public, hosts), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = builder.add_extension(both, critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(issuer, critical=False)
    return builder.sign(signer, SHA256()).public_bytes(Encoding.PEM)


def _alternatives(id: str, public: bytes, hosts: Sequence[x509.GeneralName]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name_of(id, public)), *hosts])


def _dated(builder: x509.CertificateBuilder, days: int, latest: datetime | None = None) -> x509.CertificateBuilder:
    _require_days(days)
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    if latest is not None:
        end = min(end, latest)
        if end <= now:
            raise ConfigurationError(
                f"The authority's certificate expired on {latest:%Y-%m-%d}. Make a new group: its members all need "
                "new certificates."
            )
    return builder.not_valid_before(now - _EARLIER).not_valid_after(end)


def _require_days(days: int) -> None:
    if not 0 < days <= 36500:
        raise ConfigurationError(f"A certificate cannot be valid for {days} days. Name 1 to 36500.")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise ConfigurationError(f"{host!r} is neither a name of a host nor an IP address. Name it without a port.")
    return x509.DNSName(host)


# ----------------------------------------------------------------------------------------------------------- files


def _member_files(id: str) -> list[str]:
    return [f"{id}.crt", f"{id}.key", f"{id}.identity"]


def _ready(folder: Path | str) -> Path:
    folder = Path(folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"The folder {folder} cannot be made: {error.strerror}.") from error
    return folder


def _require_absent(folder: Path, names: Sequence[str], replace: bool) -> None:
    present = [name for name in names if (folder / name).exists()]
    if present and not replace:
        raise ConfigurationError(
            f"{folder} has {', '.join(present)} already; nothing was changed. Whoever relies on these files would "
            "be locked out by new ones. Use another folder or id, renew the certificate with --renew, or overwrite "
            "with --force."
        )


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        require_private(folder / "ca.key")
        key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{folder} has no authority: {Path(error.filename).name} is missing. Make one with `sharetorch keygen`, or "
            "name the folder that holds it."
        ) from error
    except (OSError, TypeError, UnsupportedAlgorithm, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"The authority in {folder} cannot be read: ca.crt or ca.key is damaged.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigurationError(f"ca.key in {folder} is not the key of ca.crt. Copy both from the same place.")
    return certificate, key


def _identity_key(folder: Path, id: str, keep: bool) -> Ed25519PrivateKey:
    path = folder / f"{id}.identity"
    if not keep or not path.exists():
        return Ed25519PrivateKey.generate()
    require_private(path)
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, TypeError, UnsupportedAlgorithm, ValueError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path} holds no Ed25519 key, so it cannot be kept. Make a new one with --force.")
    return key


def _write_keys(folder: Path, id: str, keys: MemberKeys) -> None:
    _write(folder / f"{id}.key", _pem(keys[0]), private=True)
    _write(folder / f"{id}.identity", _pem(keys[1]), private=True)


def _pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes, private: bool) -> None:
    """Write a file whole or not at all; a private one is readable by its owner from its first byte on."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error
