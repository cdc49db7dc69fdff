"""``sharetorch keygen``: a group's authority, certificates and keys."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sharetorch.cli.output import Commands, command, show
from sharetorch.mpc.errors import ConfigurationError
from sharetorch.mpc.network import certificates
from sharetorch.mpc.network.identity import Identity

DEMO = ("alice", "bob", "crypto_provider", "me")
_LOCAL = ("localhost", "127.0.0.1", "::1")
_DEMO_DAYS = 30

_DESCRIPTION = """\
Make a private certificate authority, and for every member a certificate, a TLS key and an identity key.
A member's machine needs ca.crt and its own ID.crt, ID.key and ID.identity. Keep ca.key where you make certificates:
whoever has it can pass for any member. The driver, who runs the script, is a member too, usually with the id "me".
"""
_EXAMPLES = """\
  sharetorch keygen --demo                                     keys to try things out on one machine
  sharetorch keygen --id alice --id bob --id crypto_provider --id me \\
      --host alice=alice.example --host bob=bob.example        a new group
  sharetorch keygen --add --id carol --host carol=10.0.0.7     one more member of an existing group
  sharetorch keygen --renew --id alice                         a new certificate; the identity stays
  sharetorch keygen --request --id dave                        on dave's machine: keys, and a request dave.csr
  sharetorch keygen --sign dave.csr                            where ca.key is: dave.crt for that request
"""


def add(commands: Commands) -> None:
    """Add the command."""
    found = command(commands, "keygen", "make certificates and keys", _DESCRIPTION, _EXAMPLES)
    found.add_argument("--folder", type=Path, default=Path("keys"), help="where the files go (default: keys)")
    found.add_argument("--id", action="append", default=[], metavar="ID", help="a member; may be given several times")
    found.add_argument(
        "--host", action="append", default=[], metavar="[ID=]HOST", help="name or IP address of a member's machine"
    )
    found.add_argument("--days", type=int, help="how long the certificates are valid (default: 365, demo: 30)")
    how = found.add_mutually_exclusive_group()
    how.add_argument("--demo", action="store_true", help=f"keys for {', '.join(DEMO)} on this machine")
    how.add_argument("--add", action="store_true", help="use the authority that is there")
    how.add_argument("--renew", action="store_true", help="new certificates and TLS keys; identity keys stay")
    how.add_argument("--request", action="store_true", help="make own keys and a request for a certificate")
    how.add_argument("--sign", type=Path, metavar="FILE", help="sign such a request")
    found.add_argument("--force", action="store_true", help="overwrite files that are there")
    found.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command.

    Raises:
        ConfigurationError: files are there already, or an argument is wrong.
    """
    ids = list(dict.fromkeys(args.id or (DEMO if args.demo else ())))
    hosts = _hosts(args.host, ids, args.demo)
    days = args.days if args.days is not None else _DEMO_DAYS if args.demo else 365
    if args.sign is not None:
        ids = [certificates.sign(args.folder, args.sign, days, args.force)]
        return _report(args, ids, f"Give {ids[0]} these files back: {ids[0]}.crt, ca.crt.")
    if not ids:
        raise ConfigurationError("Nobody to make keys for: name members with --id, or take --demo.")
    if args.request:
        for id in ids:
            certificates.request(args.folder, id, hosts[id], args.force)
        names = ", ".join(f"{id}.csr" for id in ids)
        return _report(args, ids, f"Send {names} to whoever holds ca.key, and put what comes back into {args.folder}.")
    make(args.folder, hosts, days, args.add or args.renew, args.renew, args.force)
    return _report(args, ids, "Copy to each member's machine: ca.crt and its own three files. Keep ca.key to yourself.")


def make(
    folder: Path,
    members: dict[str, list[str]],
    days: int,
    existing: bool = False,
    renew: bool = False,
    force: bool = False,
) -> None:
    """Make an authority, unless one exists, and the files of members; nothing if one of them cannot be made.

    Args:
        folder: where the files go.
        members: ids, with the hosts of each.
        days: how long the certificates are valid.
        existing: use the authority that is there.
        renew: overwrite certificates and TLS keys, and keep identity keys.
        force: overwrite whatever is there.

    Raises:
        ConfigurationError: files are there already, or an argument is wrong.
    """
    certificates.require_possible(folder, members, days, renew or force)
    if not existing:
        certificates.make_authority(folder, replace=force)
    for id, hosts in members.items():
        certificates.issue(folder, id, hosts, days, force, renew)


def _hosts(given: Sequence[str], ids: Sequence[str], demo: bool) -> dict[str, list[str]]:
    """Hosts of each member; one without an id is everybody's."""
    hosts: dict[str, list[str]] = {id: list(_LOCAL) if demo else [] for id in ids}
    for entry in given:
        id, named, host = entry.rpartition("=")
        if named and id not in hosts:
            raise ConfigurationError(f"--host {entry} names a member that is not among those of --id: {id!r}.")
        for name in [id] if named else ids:
            hosts[name].append(host)
    return hosts


def _report(args: argparse.Namespace, ids: Sequence[str], then: str) -> int:
    folder: Path = args.folder
    expires = {}
    for id in ids:
        if all((folder / f"{id}.{end}").exists() for end in ("crt", "key", "identity")):
            expires[id] = f"{Identity.load(folder, id).expires:%Y-%m-%d}"
    lines = [f"{id}: certificate valid until {day}" for id, day in expires.items()]
    content = {"folder": str(folder), "members": list(ids), "expires": expires}
    show("\n".join([f"Keys are in {folder}.", *lines, then]), content, args.json)
    return 0
