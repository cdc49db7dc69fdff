"""Who a node is: its keys, whom it relies on, and what it refuses, all from the node's own configuration.

Nothing of this comes from the ServerApp. A SuperNode is started with

    --node-config 'sharetorch-keys="/etc/sharetorch" sharetorch-id="clinic_1"'

===========================  =============================================================================
key                          meaning
===========================  =============================================================================
``sharetorch-keys``          folder with the node's keys, ``ca.crt``, and certificates of all members
``sharetorch-id``            the node's name, as in its certificate
``sharetorch-server``        name of who convenes rounds and commands aggregators; "server" by default
``sharetorch-ledger``        file of rounds; ``ID.rounds`` in the folder of keys by default
``sharetorch-aggregators``   "alice@host:port,bob@host:port": whom it gives shares; nobody by default
``sharetorch-rules``         names of rules on shares it allows besides those that add up all clients alike
``sharetorch-fewest``        members a round of masks, clients a result of shares has at least; 3 by default
``sharetorch-corrupt``       share of the members that may work with the server; 0.1 by default
``sharetorch-dropout``       share of the members that may drop out; 0.1 by default
===========================  =============================================================================

The folder holds certificates of the clients, of the server and of aggregators, and of nobody else: whoever has one may
be named as a member of a round.

In a simulation there is one owner, and no secret: ``SIMULATED`` derives all keys from names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Context

from sharetorch.fl.aggregation import RULES
from sharetorch.fl.aggregation.invitations import COUNTED
from sharetorch.fl.masking import Enrolment, FileLedger, RequestRefusedError, RoundReusedError, Trust
from sharetorch.fl.masking.ledger import Ledger
from sharetorch.mpc.errors import ConfigurationError
from sharetorch.mpc.network.identity import Identity, Peer
from sharetorch.remote.network.settings import Address

PREFIX = "sharetorch-"
SERVER = "server"
FEWEST = 3
_ROUNDS = "sharetorch-rounds"
_KEYS = ("keys", "id", "server", "ledger", "aggregators", "rules", "fewest", "corrupt", "dropout")


class Keys(Protocol):
    """Where keys and certificates come from."""

    def identity(self, id: str) -> Identity:
        """Somebody's own keys."""

    def enrolment(self, ids: Iterable[str], convener: str) -> Enrolment:
        """The public keys of members, and of who convenes them."""


class KeyFolder:
    """A folder as ``sharetorch keygen`` makes it.

    Args:
        folder: with ``ca.crt``, certificates, and the keys of whoever it belongs to.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def identity(self, id: str) -> Identity:
        """See ``Keys``."""
        return Identity.load(self.folder, id)

    def enrolment(self, ids: Iterable[str], convener: str) -> Enrolment:
        """See ``Keys``."""
        return Enrolment.from_certificates(self.folder, ids, convener)


class SimulatedKeys:
    """Keys that everybody knows, for simulations: nothing is hidden from anybody."""

    def identity(self, id: str) -> Identity:
        """See ``Keys``."""
        secret = hashlib.sha256(b"sharetorch/flower/simulated/" + id.encode()).digest()
        return Identity(Path(), id, Ed25519PrivateKey.from_private_bytes(secret), datetime.max.replace(tzinfo=UTC))

    def enrolment(self, ids: Iterable[str], convener: str) -> Enrolment:
        """See ``Keys``."""
        publics = {id: self.identity(id).public for id in ids}
        return Enrolment(publics, Peer(convener, self.identity(convener).public))


SIMULATED = SimulatedKeys()
"""For simulations."""


class ContextLedger:
    """A ledger in a node's context, which ends with the run: for simulations.

    Args:
        context: of the node.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def begin(self, round: bytes) -> None:
        """See ``masking.ledger.Ledger``."""
        known = self._context.state.config_records.get(_ROUNDS, ConfigRecord({"begun": b""}))
        begun, line = bytes(known["begun"]), hashlib.sha256(round).digest()  # type: ignore[arg-type]
        if line in (begun[place : place + len(line)] for place in range(0, len(begun), len(line))):
            raise RoundReusedError(f"Round {round.hex()[:16]}... has begun at this node before. Convene a new one.")
        self._context.state[_ROUNDS] = ConfigRecord({"begun": begun + line})


@dataclass(frozen=True)
class Node:
    """A node as a member of rounds.

    Attributes:
        id: its name.
        keys: where its keys are.
        ledger: rounds and steps it has taken part in.
        server: who convenes rounds and commands aggregators.
        trust: what it assumes of the others.
        aggregators: addresses of those it gives shares, by name, in order of rank.
        rules: names of rules that it allows on its shares.
        simulated: whether it is part of a simulation.
    """

    id: str
    keys: Keys
    ledger: Ledger
    server: str = SERVER
    trust: Trust = field(default_factory=Trust)
    aggregators: Mapping[str, Address] = field(default_factory=dict)
    rules: frozenset[str] = COUNTED
    simulated: bool = False

    @classmethod
    def of(cls, context: Context) -> Node:
        """The node of a SuperNode's configuration.

        Raises:
            ConfigurationError: keys are missing, or a value has another form.
        """
        given = {key[len(PREFIX) :]: value for key, value in context.node_config.items() if key.startswith(PREFIX)}
        unknown = sorted(set(given) - set(_KEYS))
        if unknown or not {"keys", "id"} <= set(given):
            raise ConfigurationError(
                f"The node's configuration {f'has unknown keys {unknown}' if unknown else 'names no keys'}. Start the "
                f"SuperNode with --node-config '{PREFIX}keys=\"FOLDER\" {PREFIX}id=\"NAME\"'; further keys are "
                f"{', '.join(PREFIX + key for key in _KEYS[2:])}. In a simulation use mods=[simulated_mod]."
            )
        folder, id = Path(str(given["keys"])), str(given["id"])
        return cls(
            id,
            KeyFolder(folder),
            FileLedger(str(given.get("ledger", folder / f"{id}.rounds"))),
            str(given.get("server", SERVER)),
            _trust(given),
            addresses(str(given.get("aggregators", ""))),
            _rules(str(given.get("rules", ""))),
        )

    @classmethod
    def simulated_of(cls, context: Context) -> Node:
        """The node of a simulation, named after its partition.

        Raises:
            ConfigurationError: this is no simulation.
        """
        if "partition-id" not in context.node_config or any(key.startswith(PREFIX) for key in context.node_config):
            raise ConfigurationError(
                "simulated_mod was used on a node that is not part of a simulation. Its keys are known to everybody; "
                "use mods=[secure_mod]."
            )
        id = f"client-{context.node_config['partition-id']}"
        return cls(id, SIMULATED, ContextLedger(context), simulated=True)

    def require_clients(self, ids: Iterable[str]) -> None:
        """Refuse a round among whose clients are those who compute its result.

        Raises:
            RequestRefusedError: they are.
        """
        helpers = sorted({*ids} & {self.server, *self.aggregators})
        if helpers:
            raise RequestRefusedError(
                f"{', '.join(helpers)} of the round are no clients, but the server or its helpers: with their own "
                "updates known, a sum would show the others'. Convene clients only."
            )


def addresses(text: str) -> dict[str, Address]:
    """Workers from "alice@host:port,bob@host:port".

    Raises:
        ConfigurationError: something else.
    """
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, at, address = part.partition("@")
        if not at or name in found:
            raise ConfigurationError(f"{part!r} names no worker, or one twice. Write 'alice@host:port,bob@host:port'.")
        found[name] = Address.parse(address)
    return found


def _rules(text: str) -> frozenset[str]:
    found = frozenset(filter(None, (part.strip() for part in text.split(","))))
    unknown = sorted(found - RULES.keys())
    if unknown:
        raise ConfigurationError(
            f"{PREFIX}rules names {', '.join(map(repr, unknown))} in the node's configuration; there are "
            f"{', '.join(RULES)}."
        )
    return found | COUNTED


def _trust(given: Mapping[str, object]) -> Trust:
    numbers = {}
    for key, usual in (("fewest", FEWEST), ("corrupt", Trust.corrupt), ("dropout", Trust.dropout)):
        value = given.get(key, usual)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigurationError(f"{PREFIX}{key} is {value!r} in the node's configuration; write a number.")
        numbers[key] = value
    return Trust(dropout=numbers["dropout"], corrupt=numbers["corrupt"], fewest=int(numbers["fewest"]))
