"""A group file: who takes part in computations, where, and in which role.

    identity = "me"                       # whose keys the driver uses
    keys = "keys"                         # folder with them, relative to this file

    [[members]]
    id = "alice"
    address = "127.0.0.1:8777"
    role = "party"

    [[members]]
    id = "crypto_provider"
    address = "127.0.0.1:8779"
    role = "provider"

``sharetorch up`` writes one; examples take it by ``--parties FILE``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from sharetorch.mpc.errors import ConfigurationError
from sharetorch.mpc.network.identity import check_id
from sharetorch.remote.network.settings import Address, convert, read_toml

if TYPE_CHECKING:
    from sharetorch.remote.network.client import NetworkedWorker


class Workers(NamedTuple):
    """The workers of a group, connected."""

    parties: list[NetworkedWorker]
    provider: NetworkedWorker


@dataclass(frozen=True)
class Group:
    """Who takes part.

    Attributes:
        parties: ids of those who hold shares, in order.
        provider: id of the crypto provider.
        addresses: where each member listens, by id.
        keys: folder with the driver's keys and the authority's certificate.
        identity: id of the driver.
    """

    parties: tuple[str, ...]
    provider: str
    addresses: Mapping[str, Address]
    keys: Path
    identity: str = "me"

    @property
    def members(self) -> tuple[str, ...]:
        """Ids of the parties, then of the provider."""
        return (*self.parties, self.provider)

    def connect(self) -> Workers:
        """Connect the driver to every member.

        Raises:
            WorkerUnreachableError: a member does not answer.
            HandshakeError: a certificate is refused.
        """
        from sharetorch.remote.network.client import connect

        found = [
            connect(f"wss://{self.addresses[id]}", id=id, tls=self.keys, identity=self.identity) for id in self.members
        ]
        return Workers(found[:-1], found[-1])


class _Member(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    address: str
    role: Literal["party", "provider"] = "party"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    members: tuple[_Member, ...]
    keys: str = "."
    identity: str = "me"


def load_group(path: Path | str) -> Group:
    """Read a group file.

    Raises:
        ConfigurationError: it is missing or no TOML, a key is missing or unknown, an id stands twice, or there are
            fewer than two parties or not exactly one provider.
    """
    path = Path(path)
    file = convert(read_toml(path), _File, str(path))
    parties = tuple(member.id for member in file.members if member.role == "party")
    providers = [member.id for member in file.members if member.role == "provider"]
    try:
        for id in (*parties, *providers, file.identity):
            check_id(id)
        addresses = {member.id: Address.parse(member.address) for member in file.members}
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if len(parties) < 2 or len(providers) != 1:
        raise ConfigurationError(
            f"{path} names {len(parties)} parties and {len(providers)} providers. A group has two parties or more, "
            'and one member with role = "provider".'
        )
    if len(addresses) < len(file.members) or file.identity in addresses:
        raise ConfigurationError(f"{path}: an id stands twice. Members and the driver have ids of their own.")
    return Group(parties, providers[0], addresses, path.parent / Path(file.keys).expanduser(), file.identity)


def write_group(
    path: Path, parties: Mapping[str, Address], provider: tuple[str, Address], keys: str, identity: str = "me"
) -> None:
    """Write a group file.

    Args:
        path: of the file, which is overwritten.
        parties: where each party listens, by id.
        provider: id of the provider, and where it listens.
        keys: folder with the driver's keys, relative to the file.
        identity: id of the driver.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    lines = [f"identity = {_text(identity)}", f"keys = {_text(keys)}"]
    roles: Sequence[tuple[str, Address, str]] = [
        *((id, address, "party") for id, address in parties.items()),
        (*provider, "provider"),
    ]
    for id, address, role in roles:
        lines += ["", "[[members]]", f"id = {_text(id)}", f"address = {_text(str(address))}", f"role = {_text(role)}"]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error


def _text(value: str) -> str:
    """A text as TOML writes it."""
    return json.dumps(value, ensure_ascii=False)
