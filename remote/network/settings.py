"""A worker's settings: from a TOML file, or from options.

A file names everything a worker needs; ``docs/how-to/deploy.md`` explains each key. Paths are relative to the file.
Keys nobody knows are errors: a misspelt limit would otherwise be no limit.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from sharetorch.mpc.errors import ConfigurationError
from sharetorch.mpc.network.identity import check_id
from sharetorch.remote.node import Limits

DEFAULT_PORT = 8777

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1)]
Format = Literal["csv", "parquet", "npz", "idx", "safetensors"]
Dtype = Literal["float32", "float64", "int64", "int32", "int16", "uint8", "bool"]
T = TypeVar("T")


class Address(NamedTuple):
    """Where a worker listens. An IPv6 address has no brackets here."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, listening: bool = False) -> Address:
        """Read ``host:port``, ``[ipv6]:port`` or ``wss://host:port``.

        Args:
            text: what to read.
            listening: port 0, which takes any free one, is allowed.

        Raises:
            ConfigurationError: it is none of these.
        """
        found = _ADDRESS.fullmatch(text)
        port = int(found[3]) if found else -1
        if found is None or not (0 if listening else 1) <= port <= 65535:
            raise ConfigurationError(
                f"{text!r} is no address. Write a host and a port from 1 to 65535, such as "
                f"'bob.example:{DEFAULT_PORT}' or '[::1]:{DEFAULT_PORT}'."
            )
        return cls(found[1] or found[2], port)


_ADDRESS = re.compile(r"(?:wss://)?(?:\[([0-9A-Fa-f:.%]+)\]|([A-Za-z0-9_.-]+)):([0-9]{1,5})/?")


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times and bounds of connections.

    Attributes:
        handshake_seconds: an accepted connection must have shown its certificate by then.
        pending_handshakes: connections that may be without one; when another comes, the oldest is dropped.
        connect_seconds: for reaching another worker, handshake included.
        heartbeat_seconds: between signs of life on a quiet connection.
        silence_seconds: after so long without one, a connection is dead.
        round_seconds: for one message of a protocol; the session ends when it does not come.
        request_seconds: for the reply to a request.
        max_message_bytes: of one request or reply, all its parts together.
        max_connections_per_principal: control connections one member may hold at a time.
        max_sessions_per_principal: sessions one driver may have open.
        queue_bytes: what may wait to be sent on one connection; who sends more waits.
        debug: whether drivers may use ``st.debug()``, which shows values to the parties.
    """

    handshake_seconds: Seconds = 5.0
    pending_handshakes: Count = 64
    connect_seconds: Seconds = 10.0
    heartbeat_seconds: Seconds = 5.0
    silence_seconds: Seconds = 15.0
    round_seconds: Seconds = 120.0
    request_seconds: Seconds = 600.0
    max_message_bytes: Annotated[int, Meta(ge=1 << 16)] = 4 << 30
    max_connections_per_principal: Count = 64
    max_sessions_per_principal: Count = 16
    queue_bytes: Annotated[int, Meta(ge=1 << 20)] = 256 << 20
    debug: bool = False

    def __post_init__(self) -> None:
        """Refuse times that contradict each other."""
        if self.silence_seconds <= self.heartbeat_seconds:
            raise ValueError(
                f"silence_seconds = {self.silence_seconds:g} is not longer than heartbeat_seconds = "
                f"{self.heartbeat_seconds:g}: every quiet connection would count as dead"
            )


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a worker lets happen with its data; "*" stands for everybody or everything.

    Attributes:
        release_to: ids that results may be released to; nobody by default.
        outputs: what may have made a released result: names of operations, as ``mpc/policy.py`` lists them.
        min_rows: rows of this data that each released element must aggregate.
        max_elements: how many elements one release may have; no limit if not given.
        compute: ids that may compute with the data.
        parties: workers that may hold all shares of the data among them, though together they could open it; a
            session in which the owner is a party itself is always allowed.
    """

    release_to: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("*",)
    min_rows: Count = 1
    max_elements: Count | None = None
    compute: tuple[str, ...] = ("*",)
    parties: tuple[str, ...] = ()


class DatasetSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data file a worker holds from its start on; ``remote/network/sources.py`` loads it.

    Attributes:
        path: the file.
        name: of the data set; the file's if not given.
        format: what it is; by the end of the file's name if not given.
        tags: under which others find it.
        columns: columns of a table, or the array of a file, that are loaded; all if not given.
        target: the column or array with labels, held as an object of its own; for IDX the file of labels, relative
            to the folder of the data.
        dtype: of the data's elements.
        target_dtype: of the labels; int64 for whole numbers and float32 for others if not given.
        divide: divides the data, as 255 does pixels.
        row: shape of one row, if another than the file's.
        description: what others may read about it.
        policy: what may happen with it; the worker's policy if not given.
    """

    path: str
    name: str = ""
    format: Format | None = None
    tags: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    target: str | None = None
    dtype: Dtype = "float32"
    target_dtype: Dtype | None = None
    divide: float | None = None
    row: tuple[Count, ...] | None = None
    description: str = ""
    policy: PolicySettings | None = None


@dataclass(frozen=True)
class WorkerSettings:
    """Everything a worker is started with.

    Attributes:
        id: its name, which its certificate must bear.
        listen: where it listens.
        keys: folder with its certificate and keys.
        peers: where the other workers are, by id.
        private: whether only the owner of an object may have it back, unless others are allowed.
        owners: ids of those who decide about requests for its data, besides itself.
        state: folder for checkpoints and other things that outlast a process; none are kept without it.
        audit: file to which every request is appended; kept in memory only without it.
        datasets: data it holds from its start on.
        policy: for its data, where a data set has none of its own.
        limits: how large messages, objects and the store may be.
        network: times and bounds of connections.
        threads: for computation; 0 takes what the libraries take by themselves.
        log_level: the least severe events that are logged.
    """

    id: str
    listen: Address
    keys: Path
    peers: Mapping[str, Address] = field(default_factory=dict)
    private: bool = True
    owners: tuple[str, ...] = ()
    state: Path | None = None
    audit: Path | None = None
    datasets: tuple[DatasetSettings, ...] = ()
    policy: PolicySettings = PolicySettings()
    limits: Limits = Limits()
    network: NetworkSettings = NetworkSettings()
    threads: int = 0
    log_level: str = "info"


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A worker's settings as they are written."""

    id: str
    keys: str
    listen: str = f"127.0.0.1:{DEFAULT_PORT}"
    peers: dict[str, str] = {}
    private: bool = True
    owners: tuple[str, ...] = ()
    state: str | None = None
    audit: str | None = None
    datasets: tuple[DatasetSettings, ...] = ()
    policy: PolicySettings = PolicySettings()
    limits: dict[str, Any] = {}
    network: NetworkSettings = NetworkSettings()
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


_LIMITS: type[msgspec.Struct] = msgspec.defstruct(
    "Limits",
    [(entry.name, Count, entry.default) for entry in dataclasses.fields(Limits)],
    forbid_unknown_fields=True,
)
"""``Limits`` as they are written."""


def load(path: Path | str | None = None, overrides: Mapping[str, Any] | None = None) -> WorkerSettings:
    """A worker's settings.

    Args:
        path: a TOML file; None takes the overrides alone.
        overrides: settings by key, as in the file, that go before it; None among them means "not given".
            Paths among them are relative to the current folder.

    Raises:
        ConfigurationError: the file is missing or no TOML, a key is missing or unknown, or a value is wrong.
    """
    base, where = Path(), "The options"
    content: dict[str, Any] = {}
    if path is not None:
        base, where = Path(path).parent, str(path)
        content = _placed(read_toml(Path(path)), base)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    content |= {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    return _settled(convert(content, _File, where), where)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        ConfigurationError: it is missing, or no TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"The settings {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no TOML file: {error}.") from error


def convert(content: Mapping[str, Any], kind: type[T], where: str) -> T:
    """Check what was read from a file.

    Raises:
        ConfigurationError: a key is missing or unknown, or a value is wrong; the message names file, key and value.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(_explained(str(error), content, kind, where)) from None


def _placed(content: dict[str, Any], base: Path) -> dict[str, Any]:
    """The same with paths that no longer depend on where the file is."""
    placed = dict(content)
    for key in ("keys", "state", "audit"):
        if isinstance(placed.get(key), str):
            placed[key] = str(_path(base, placed[key]))
    datasets = placed.get("datasets")
    if isinstance(datasets, list):
        placed["datasets"] = [
            entry | {"path": str(_path(base, entry["path"]))}
            if isinstance(entry, dict) and isinstance(entry.get("path"), str)
            else entry
            for entry in datasets
        ]
    return placed


def _path(base: Path, text: str) -> Path:
    return base / Path(text).expanduser()


def _settled(file: _File, where: str) -> WorkerSettings:
    try:
        check_id(file.id)
        listen = Address.parse(file.listen, listening=True)
        peers = {id: Address.parse(address) for id, address in file.peers.items()}
        for id in (*peers, *file.owners):
            check_id(id)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    peers.pop(file.id, None)  # One list of all members serves every one of them.
    return WorkerSettings(
        id=file.id,
        listen=listen,
        keys=Path(file.keys),
        peers=peers,
        private=file.private,
        owners=file.owners,
        state=None if file.state is None else Path(file.state),
        audit=None if file.audit is None else Path(file.audit),
        datasets=file.datasets,
        policy=file.policy,
        limits=Limits(**msgspec.structs.asdict(convert(file.limits, _LIMITS, f"{where}, [limits]"))),
        network=file.network,
        threads=file.threads,
        log_level=file.log_level,
    )


# ---------------------------------------------------------------------------------------------------------- errors

_AT = re.compile(r"(.*?)(?: - at `(?:key in )?(\$[^`]*)`)?", re.DOTALL)
_NAME = re.compile(r"`([^`]*)`")


def _explained(text: str, content: Mapping[str, Any], kind: Any, where: str) -> str:
    """What msgspec found wrong, with file, key, value and remedy."""
    found = _AT.fullmatch(text)
    reason, path = (found[1], found[2] or "$") if found else (text, "$")
    steps = _steps(path)
    key = ".".join(map(str, steps)).replace(".[", "[")
    name = _NAME.search(reason)
    if reason.startswith("Object missing required field") and name:
        return f"{where}: {_below(key, name[1])} is missing. Add it; docs/how-to/deploy.md explains every key."
    if reason.startswith("Object contains unknown field") and name:
        known = _known(kind, steps)
        return f"{where}: {_below(key, name[1])} is no known key. {_instead(name[1], known)}"
    value = _value(content, steps)
    shown = "" if isinstance(value, (Mapping, Sequence)) and not isinstance(value, str) else f" = {value!r}"
    return f"{where}: {key or 'the file'}{shown} is wrong: {reason[0].lower() + reason[1:]}."


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _instead(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"Did you mean {close[0]}?" if close else f"Known are {', '.join(sorted(known))}."


def _steps(path: str) -> list[str]:
    """Keys of a path such as $.datasets[0].path; [...] stands for any key of a table."""
    return re.findall(r"\[[^\]]*\]|[^.\[\]$]+", path)


def _value(content: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        if isinstance(content, Mapping) and step in content:
            content = content[step]
        elif isinstance(content, Sequence) and step[1:-1].isdigit() and int(step[1:-1]) < len(content):
            content = content[int(step[1:-1])]
        else:
            return {}
    return content


def _known(kind: Any, steps: Sequence[str]) -> list[str]:
    """Names of the fields at a place."""
    for step in steps:
        if step.startswith("["):
            continue
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            fields = {entry.encode_name: entry.type for entry in msgspec.structs.fields(kind)}
            kind = fields.get(step)
        kind = _struct_in(kind)
    return list(kind.__struct_encode_fields__) if kind is not None else []


def _struct_in(kind: Any) -> Any:
    """The struct an annotation is about, such as that of tuple[Struct, ...] or Struct | None."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    for part in getattr(kind, "__args__", ()):
        found = _struct_in(part)
        if found is not None:
            return found
    return None
