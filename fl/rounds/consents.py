"""What the owner of a data set allows of hidden updates: to whom results may go, by whom, and over how many clients.

Without a consent a worker takes part in rounds, hidden or plain, if its policy lets the caller have what comes of the
data set. With one it takes part in hidden rounds as the consent says; who may have plain updates stays as the data
set's policy says, by default nobody at a private worker.

A data set of a worker's configuration (``[[datasets]]``) has a policy, which says as much: ``release_to`` are the
users, ``parties`` the aggregators. Policies that ask for more, rows or kinds of outputs, let no update out.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from sharetorch.fl.aggregation.invitations import COUNTED, Invitation
from sharetorch.fl.aggregation.registry import RULES
from sharetorch.fl.datasets import BaseDataset
from sharetorch.fl.serving import add_dataset, find_dataset
from sharetorch.mpc.errors import GetNotPermittedError, TrainingError
from sharetorch.remote.node import Node


@dataclass(frozen=True)
class Consent:
    """What an owner allows.

    Attributes:
        users: ids of drivers who may have results; None is anybody.
        aggregators: ids of workers among whom updates may be split; together they could see them.
        least: fewest clients over whom a result may be.
        rules: names of rules that may be applied.
    """

    users: frozenset[str] | None
    aggregators: frozenset[str]
    least: int
    rules: frozenset[str]

    def check(self, name: str, driver: str, invitation: Invitation) -> None:
        """Refuse what is not allowed.

        Args:
            name: of the worker, for messages.
            driver: who asks.
            invitation: to the round.

        Raises:
            GetNotPermittedError: some of it is not.
        """
        self.check_user(name, driver)
        strangers = sorted(set(invitation.aggregators) - self.aggregators)
        refused = ""
        if strangers:
            refused = f"does not trust {', '.join(strangers)} with a share of its update"
        elif invitation.limits[4] < self.least:
            refused = f"wants at least {self.least} clients in a result, and the round demands {invitation.limits[4]}"
        elif invitation.rule not in self.rules:
            refused = f"allows the rules {', '.join(sorted(self.rules))}, not {invitation.rule!r}"
        if refused:
            raise GetNotPermittedError(f"{name} {refused}. Its owner decides that with allow_hidden(...).")

    def check_user(self, name: str, driver: str) -> None:
        """Refuse drivers who may not have results.

        Raises:
            GetNotPermittedError: this one may not.
        """
        if self.users is not None and driver not in self.users:
            raise GetNotPermittedError(
                f"{driver} may not have results of hidden updates of {name}. Its owner can allow it with "
                "allow_hidden(..., users=[...])."
            )


_CONSENTS: MutableMapping[Node, dict[str, Consent]] = WeakKeyDictionary()
"""By node and key of the data set."""


def allow_hidden(
    node: Node,
    key: str,
    *,
    users: Iterable[str],
    aggregators: Iterable[str],
    least: int = 2,
    rules: Iterable[str] = tuple(sorted(COUNTED)),
) -> None:
    """Let a worker take part in rounds of hidden updates with one of its data sets; for the worker's own side.

    Args:
        node: the worker.
        key: of the data set.
        users: ids of drivers who may have results.
        aggregators: ids of workers among whom updates may be split.
        least: fewest clients over whom a result may be.
        rules: names of rules that may be applied. By default those that add up all clients: aggregators then open
            nothing that fewer made, whatever the driver commands. To allow median, trimmed mean or Krum is to trust the
            driver to command that rule and nothing else.

    Raises:
        FederatedDataError: there is no such data set.
        TrainingError: fewer than one client, or no rule of a name.
    """
    find_dataset(node, key)
    made = Consent(frozenset(users), frozenset(aggregators), least, frozenset(rules))
    unknown = sorted(made.rules - RULES.keys())
    if unknown or least < 1:
        raise TrainingError(
            f"A consent for at least {least} clients and the rules {', '.join(sorted(made.rules))}: the number must be "
            f"at least 1, and rules are {', '.join(RULES)}."
        )
    _CONSENTS.setdefault(node, {})[key] = made


_FEWEST = 2
"""Clients over whom results are, for data sets of the configuration."""


def take_from_shelf(node: Node, key: str, driver: str) -> None:
    """Let a data set of the worker's configuration take part in rounds of hidden updates, as its policy says.

    Nobody but the owner has plain updates of it. Without effect if there is none of that name with a target, or it is
    done already.

    Args:
        node: the worker.
        key: name of the data set.
        driver: who asks.

    Raises:
        GetNotPermittedError: the driver may not compute with it, or the policy asks for what an update does not show.
    """
    known = {number: shelved for number, shelved in node.shelf.items() if shelved.dataset == key}
    if any(not shelved.usable_by(driver) for shelved in known.values()):
        raise GetNotPermittedError(f"{driver} may not compute with data set {key!r} of {node.id}.")
    if key in node.datasets or len(known) != 2:
        return
    data, target = sorted(known)
    policy, parties = known[data].policy, known[data].parties
    if policy.outputs is not None or policy.min_rows > 1 or policy.max_elements is not None:
        raise GetNotPermittedError(
            f"The policy of data set {key!r} of {node.id} names outputs, rows or elements, and what an update holds of "
            "them cannot be seen. Its owner can give it a policy with release_to alone, or call allow_hidden(...)."
        )
    add_dataset(node, BaseDataset(node.objects[data].value, node.objects[target].value), key, users=())
    consent = Consent(policy.recipients, parties, _FEWEST, COUNTED)
    _CONSENTS.setdefault(node, {})[key] = consent


def consent_of(node: Node, key: str) -> Consent | None:
    """What was allowed of a data set; None if nothing was said."""
    return _CONSENTS.get(node, {}).get(key)
