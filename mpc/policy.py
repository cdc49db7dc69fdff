"""Policies: to whom results that depend on an owner's data are released, which, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sharetorch.mpc.errors import ConfigurationError, MalformedRequestError

UNCOUNTED = 1 << 62
"""The number of rows where nothing needs to be counted."""

POLICY_BYTES = 1024
"""Largest size of a policy on the wire."""

MAKERS = frozenset(
    {
        "source", "sum", "mean", "cumsum", "combine", "product", "matmul", "convolution", "comparison", "relu", "max",
        "argmax", "sort", "argsort", "route", "divide", "square_root",
    }
)  # fmt: skip
"""What may have made an object, as policies name it. A mean is a sum times a public number and counts as one."""


class _Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A policy as it crosses the wire."""

    recipients: list[str] | None
    outputs: list[str] | None
    min_rows: int
    max_elements: int | None


_decoder = msgspec.msgpack.Decoder(_Wire)


@dataclass(frozen=True)
class Policy:
    """To whom results that depend on some data are released, which, and when.

    Attributes:
        recipients: ids of those who may have results; None is anybody, the empty set nobody.
        outputs: what may have made a released object, names of ``MAKERS``; None is anything.
        min_rows: how many rows of the data each element must aggregate.
        max_elements: how many elements one release may have; None sets no limit.

    Raises:
        ConfigurationError: an unknown output, or a number below 1.
    """

    recipients: frozenset[str] | None = None
    outputs: frozenset[str] | None = None
    min_rows: int = 1
    max_elements: int | None = None

    def __post_init__(self) -> None:
        unknown = sorted((self.outputs or frozenset()) - MAKERS)
        if unknown:
            raise ConfigurationError(
                f"A policy names the output {', '.join(unknown)}, which no operation makes, so it would never be "
                f"released. Choose among {', '.join(sorted(MAKERS))}."
            )
        for name, value in (("min_rows", self.min_rows), ("max_elements", self.max_elements)):
            if value is not None and not 1 <= value < UNCOUNTED:
                raise ConfigurationError(f"{name} = {value} in a policy; it is at least 1. Leave it out for no limit.")

    def join(self, other: Policy) -> Policy:
        """The strictest of both: what each of them allows."""
        if other is self or other == OPEN:
            return self
        if self == OPEN:
            return other
        return Policy(
            _common(self.recipients, other.recipients),
            _common(self.outputs, other.outputs),
            max(self.min_rows, other.min_rows),
            min((n for n in (self.max_elements, other.max_elements) if n is not None), default=None),
        )

    def to_bytes(self) -> bytes:
        """The policy in MessagePack.

        Raises:
            ConfigurationError: it takes more than 1024 bytes.
        """
        names = [None if part is None else sorted(part) for part in (self.recipients, self.outputs)]
        data = msgspec.msgpack.encode(_Wire(names[0], names[1], self.min_rows, self.max_elements))
        if len(data) > POLICY_BYTES:
            raise ConfigurationError(
                f"A policy of {len(data)} bytes; the limit is {POLICY_BYTES}. Name fewer recipients."
            )
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Policy:
        """Read what ``to_bytes`` wrote.

        Raises:
            MalformedRequestError: something else.
        """
        if len(data) > POLICY_BYTES:
            raise MalformedRequestError(f"A policy of {len(data)} bytes; the limit is {POLICY_BYTES}.")
        try:
            wire = _decoder.decode(data)
            recipients, outputs = (
                None if part is None else frozenset(part) for part in (wire.recipients, wire.outputs)
            )
            return cls(recipients, outputs, wire.min_rows, wire.max_elements)
        except (msgspec.MsgspecError, UnicodeDecodeError, ConfigurationError) as error:
            raise MalformedRequestError(f"Bytes that are no policy: {error}") from error


def _common(mine: frozenset[str] | None, theirs: frozenset[str] | None) -> frozenset[str] | None:
    if mine is None or theirs is None:
        return theirs if mine is None else mine
    return mine & theirs


OPEN = Policy()
"""No restriction."""

PRIVATE = Policy(recipients=frozenset())
"""Nothing for anybody."""


class Policies:
    """What a node's owner allows of each data set.

    Args:
        named: policies by data set.
        default: for all others; private if not given.
    """

    def __init__(self, named: Mapping[str, Policy] | None = None, default: Policy = PRIVATE) -> None:
        self.named = dict(named or {})
        self.default = default

    def of(self, dataset: str | None) -> Policy:
        """The policy of a data set, or of data outside any."""
        return self.named.get(dataset, self.default) if dataset is not None else self.default

    @classmethod
    def from_settings(cls, datasets: Mapping[str, Any], default: Any = None) -> Policies:
        """Policies as configuration gives them: a table for each data set; see ``policy_of``.

        Raises:
            ConfigurationError: an unknown key, or a value of another kind; the message names data set and key.
        """
        named = {name: policy_of(table, f"data set {name!r}") for name, table in datasets.items() if table is not None}
        return cls(named, PRIVATE if default is None else policy_of(default, "the worker"))


def policy_of(table: Any, whose: str) -> Policy:
    """A policy from a table of configuration; nobody receives anything unless ``release_to`` names them.

    Args:
        table: ``release_to`` and ``outputs``: lists of texts, "*" among them stands for all; ``min_rows`` and
            ``max_elements``: integers.
        whose: for messages.

    Raises:
        ConfigurationError: as ``Policies.from_settings``.
    """
    if isinstance(table, Policy):
        return table
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"The policy of {whose} is a {type(table).__name__}; write a table with its keys.")
    values: dict[str, Any] = {"recipients": frozenset()}
    for key, value in table.items():
        if key not in _KEYS:
            raise ConfigurationError(f"The policy of {whose} has a key {key!r}; there are {', '.join(_KEYS)}.")
        attribute, read = _KEYS[key]
        values[attribute] = read(value, f"{key} in the policy of {whose}")
    try:
        return Policy(**values)
    except ConfigurationError as error:
        raise ConfigurationError(f"The policy of {whose}: {error}") from error


def _names(value: Any, what: str) -> frozenset[str] | None:
    if isinstance(value, str) or not isinstance(value, Iterable) or not all(isinstance(part, str) for part in value):
        raise ConfigurationError(f"{what} is {value!r}; write a list of texts.")
    return None if "*" in value else frozenset(value)


def _rows(value: Any, what: str) -> int:
    return max(_count(value, what), 1)


def _count(value: Any, what: str) -> int:
    if type(value) is not int or value < 0:
        raise ConfigurationError(f"{what} is {value!r}; write a positive integer.")
    return value


_KEYS: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "release_to": ("recipients", _names),
    "outputs": ("outputs", _names),
    "min_rows": ("min_rows", _rows),
    "max_elements": ("max_elements", _count),
}
"""Keys of a table, with the attribute of ``Policy`` each one sets."""
