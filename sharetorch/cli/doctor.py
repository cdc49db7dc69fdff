"""``sharetorch doctor``: is this machine ready for a worker, and are the others there?"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import platform
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from sharetorch.cli.output import Commands, command, show
from sharetorch.cli.worker import add_settings, settings_of
from sharetorch.mpc.errors import ConfigurationError, DeadlineExceededError, NetworkError
from sharetorch.mpc.network.identity import ALPN_CONTROL, Identity, dial, tls_failure

if TYPE_CHECKING:
    from sharetorch.remote.network.settings import Address

Outcome = Literal["ok", "warning", "wrong"]

PACKAGES = ("torch", "numpy", "numba", "cryptography", "gmpy2", "msgspec", "websockets")
_SIGNS: Mapping[Outcome, str] = {"ok": "ok     ", "warning": "warning", "wrong": "WRONG  "}
_SOON_DAYS = 14
_CLOCK_SECONDS = 30.0
_SECONDS = 5.0
_REPLY_BYTES = 1 << 16

_DESCRIPTION = """\
Check versions and the compiled kernels; given a worker's settings or a group file, also its keys, whether the others
can be reached and accept its certificate, and how far their clocks are from this one. Nothing is changed.
The exit code is 1 if something is wrong.
"""
_EXAMPLES = """\
  sharetorch doctor                                            this machine alone
  sharetorch doctor --config /etc/sharetorch/worker.toml       a worker and its peers
  sharetorch doctor --group sharetorch-demo/group.toml         the members of a group, as its driver sees them
"""


class Finding(NamedTuple):
    """The outcome of one check.

    Attributes:
        check: what was looked at.
        outcome: "ok", "warning" or "wrong".
        detail: what was found, and what to do about it.
    """

    check: str
    outcome: Outcome
    detail: str


def add(commands: Commands) -> None:
    """Add the command."""
    found = command(commands, "doctor", "check this machine, keys and connections", _DESCRIPTION, _EXAMPLES)
    add_settings(found)
    found.add_argument("--group", type=Path, metavar="FILE", help="a group file, for the driver's side")
    found.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command.

    Raises:
        ConfigurationError: settings are given that cannot be read.
    """
    findings = [*_versions(), _tls(), _kernels()]
    if args.group is not None:
        from sharetorch.remote.network.group import load_group

        group = load_group(args.group)
        findings += _network(group.keys, group.identity, group.addresses)
    elif args.config is not None or args.id is not None or args.keys is not None:
        settings = settings_of(args)
        findings += _network(settings.keys, settings.id, settings.peers)
    wrong = sum(found.outcome == "wrong" for found in findings)
    lines = [f"{_SIGNS[found.outcome]}  {found.check}: {found.detail}" for found in findings]
    lines.append(f"{wrong} of {len(findings)} checks failed." if wrong else "Everything is in order.")
    content = {"ok": not wrong, "findings": [found._asdict() for found in findings]}
    show("\n".join(lines), content, args.json)
    return int(bool(wrong))


# ------------------------------------------------------------------------------------------------------ this machine


def _versions() -> list[Finding]:
    import sharetorch

    enough = sys.version_info >= (3, 11)
    found = [
        Finding("sharetorch", "ok", sharetorch.__version__),
        Finding("python", "ok" if enough else "wrong", f"{platform.python_version()} on {platform.platform()}"),
    ]
    for name in PACKAGES:
        try:
            found.append(Finding(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, "wrong", f"is not installed. Run `pip install {name}`."))
    return found


def _tls() -> Finding:
    if not ssl.HAS_TLSv1_3:
        return Finding("openssl", "wrong", f"{ssl.OPENSSL_VERSION} has no TLS 1.3. Use a Python with a newer OpenSSL.")
    return Finding("openssl", "ok", f"{ssl.OPENSSL_VERSION}, TLS 1.3")


def _kernels() -> Finding:
    """Compiled kernels against plain Python, on numbers with every bit in use."""
    begin = time.perf_counter()
    try:
        wrong = [name for name, holds in _KERNELS.items() if not holds()]
    except Exception as error:  # Compilers and processors fail in many ways; all of them are the finding.
        return Finding("kernels", "wrong", f"cannot be compiled: {type(error).__name__}: {error}. Reinstall numba.")
    if wrong:
        return Finding(
            "kernels", "wrong", f"{', '.join(wrong)} give wrong results. Do not run workers here; report it."
        )
    return Finding("kernels", "ok", f"exact; checked in {time.perf_counter() - begin:.1f} s")


def _words(count: int) -> list[int]:
    """Unsigned words that look arbitrary and are always the same."""
    step, start = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03
    return [(start + index * step) % 2**64 for index in range(count)]


def _matmul_is_exact() -> bool:
    import numpy as np

    from sharetorch.mpc import kernels

    n, k, m = 5, 7, 3
    left = np.array(_words(n * k), np.uint64).view(np.int64).reshape(n, k)
    right = np.array(_words(k * m + 9)[9:], np.uint64).view(np.int64).reshape(k, m)
    expected = [[sum(int(a) * int(b) for a, b in zip(row, column, strict=True)) for column in right.T] for row in left]
    found = kernels.matmul(left, right).view(np.uint64)
    return [[int(word) for word in row] for row in found] == [[word % 2**64 for word in row] for row in expected]


def _bits_come_back() -> bool:
    import numpy as np

    from sharetorch.mpc import kernels

    bits = np.array([word >> 63 for word in _words(77)], np.uint8)
    return bool((kernels.unpack_bits(kernels.pack_bits(bits), 77) == bits).all())


def _residues_are_below() -> bool:
    from sharetorch.mpc.randomness import Stream

    found = Stream(bytes(16)).residues(1000)
    return len(found) == 1000 and int(found.max()) < 67


_KERNELS: Mapping[str, Callable[[], bool]] = {
    "matmul": _matmul_is_exact,
    "bits": _bits_come_back,
    "residues": _residues_are_below,
}


# --------------------------------------------------------------------------------------------------- keys and others


def _network(keys: Path, id: str, peers: Mapping[str, Address]) -> list[Finding]:
    try:
        identity = Identity.load(keys, id)
    except ConfigurationError as error:
        return [Finding(f"keys of {id}", "wrong", str(error))]
    found = [_validity(identity)]
    for peer, address in peers.items():
        found += _peer(identity, peer, address)
    return found


def _validity(identity: Identity) -> Finding:
    days = (identity.expires - datetime.now(UTC)).total_seconds() / 86400
    until = f"certificate valid until {identity.expires:%Y-%m-%d}"
    remedy = "Make a new one: `sharetorch keygen --renew`."
    if days <= 0:
        return Finding(f"keys of {identity.id}", "wrong", f"certificate expired on {identity.expires:%F}. {remedy}")
    if days < _SOON_DAYS:
        return Finding(f"keys of {identity.id}", "warning", f"{until}, {days:.0f} days. {remedy}")
    return Finding(f"keys of {identity.id}", "ok", f"{until}; private keys readable by their owner alone")


def _peer(identity: Identity, id: str, address: Address) -> list[Finding]:
    """Whether a worker accepts us, and how far its clock is off."""
    begin = time.perf_counter()
    try:
        date = _date_of(identity, id, address)
    except NetworkError as error:
        return [Finding(f"peer {id}", "wrong", str(error))]
    seconds = time.perf_counter() - begin
    found = [Finding(f"peer {id}", "ok", f"{address} answers and accepts our certificate ({1000 * seconds:.0f} ms)")]
    if date is not None:
        off = (date - datetime.now(UTC)).total_seconds()
        off = max(0.0, abs(off) - 1 - seconds)  # The date comes in whole seconds.
        outcome: Outcome = "ok" if off <= _CLOCK_SECONDS else "wrong"
        detail = (
            f"within {off + 1:.0f} s of ours" if off <= _CLOCK_SECONDS else f"{off:.0f} s from ours. Set both by NTP."
        )
        found.append(Finding(f"clock of {id}", outcome, detail))
    return found


def _date_of(identity: Identity, id: str, address: Address) -> datetime | None:
    """The time a worker gives in its reply to a request for nothing, which it refuses.

    Raises:
        NetworkError: it does not answer, or one side refuses the other's certificate.
    """
    who = f"{id} at {address}"
    tls, _ = dial(identity, (address.host, address.port), id, ALPN_CONTROL, _SECONDS)
    reply = b""
    with tls:
        try:
            tls.settimeout(_SECONDS)
            tls.sendall(b"GET / HTTP/1.1\r\nHost: worker\r\nUser-Agent: sharetorch-doctor\r\nConnection: close\r\n\r\n")
            while b"\r\n\r\n" not in reply and len(reply) < _REPLY_BYTES:
                part = tls.recv(4096)
                if not part:
                    raise EOFError
                reply += part
        except TimeoutError as error:
            raise DeadlineExceededError(f"{who} does not answer within {_SECONDS:g} s. It hangs.") from error
        except (OSError, EOFError) as error:
            raise tls_failure(error, who) from error
    for line in reply.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "date":
            with contextlib.suppress(ValueError):
                return parsedate_to_datetime(value.strip())
    return None
