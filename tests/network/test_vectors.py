"""The wire format's test vectors: read by the independent decoder and by our code, and written by our code.

The vectors were made once from fixed inputs. They change only together with a version number of the format.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import sharetorch  # noqa: F401 registers every type that crosses a wire
from sharetorch.fl.structs import RemoteConfig
from sharetorch.fl.training import Settings
from sharetorch.mpc import policy
from sharetorch.mpc.channel import BYTES, RING, WORDS, Form, form_of
from sharetorch.mpc.errors import ConnectionLostError, HandshakeError, NetworkError, SessionEndedError, ShareTorchError
from sharetorch.mpc.linear import Slot
from sharetorch.mpc.network import frames, handshake
from sharetorch.mpc.network.frames import Direction
from sharetorch.mpc.network.handshake import MemberEntry, Pair, SessionDocument
from sharetorch.mpc.network.identity import Peer
from sharetorch.mpc.network.links import Incoming, Note, Times
from sharetorch.mpc.network.member import Report
from sharetorch.mpc.protocols.bilinear import BilinearMap, Geometry
from sharetorch.mpc.randomness import PairSecret
from sharetorch.mpc.ring import Ring, WideElements, WideField, ring_of
from sharetorch.mpc.tensor.fixed_precision import FixedPrecisionTensor
from sharetorch.remote import messages, secret_values, wire
from sharetorch.remote.network import approvals, control
from sharetorch.remote.network.client import Hello
from sharetorch.remote.network.settings import NetworkSettings
from sharetorch.remote.objects import dtype_name
from sharetorch.remote.plans import graph, protocol, serving
from sharetorch.remote.pointer import PointerTensor
from sharetorch.remote.requests import metadata_of
from sharetorch.remote.sessions import messages as session_messages
from tests.network import independent_decoder as independent
from tests.network.test_frames import Bytes

FOLDER = Path(__file__).parent / "vectors"
STRUCTS: dict[str, Any] = {
    "Meta": messages.Meta, "Encoding": secret_values.EncodingFields, "SharedHandle": secret_values.HandleFields,
    "Spec": graph.Spec, "Node": graph.Node, "Graph": graph.Graph, "Plan": serving.PlanFields,
    "Step": protocol.StepFields, "Protocol": protocol.ProtocolFields, "MemberEntry": MemberEntry,
    "SessionDocument": SessionDocument, "Report": Report, "Note": Note, "Hello": Hello, "Training": Settings,
    "CheckpointEntry": session_messages.CheckpointEntry, "Policy": policy._Wire, "Asked": approvals.Asked,
}  # fmt: skip
FAMILIES: dict[str, Any] = {
    "Request": messages.Request, "Reply": messages.Reply, "ToMember": session_messages.ToMember,
    "Answer": session_messages.Answer, "Notice": session_messages.Notice,
    "Approval": approvals.Waiting | approvals.Decide, "ApprovalReply": approvals.Listed | messages.Failed,
}  # fmt: skip


def vectors(name: str, which: str = "accepted") -> list[Any]:
    found = json.loads((FOLDER / f"{name}.json").read_text())[which]
    return [pytest.param(entry, id=entry["name"].replace(" ", "-")) for entry in found]


def same(one: Any, other: Any) -> None:
    """Trees are equal, with 1, 1.0 and True told apart."""
    assert json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


# -------------------------------------------------------------------------------------------- our objects as trees


def tree(value: Any) -> Any:
    """What our code decoded, in the form the independent decoder gives."""
    for kind, write in TREES:
        if isinstance(value, kind):
            return write(value)
    raise AssertionError(f"a {type(value).__name__}")


def _struct(value: msgspec.Struct) -> Any:
    found = {name: tree(getattr(value, name)) for name in value.__struct_fields__}
    tag = value.__struct_config__.tag
    return found if tag is None else {"is": tag, **found}


def _tensor(value: torch.Tensor) -> Any:
    raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
    return {"tensor": dtype_name(value.dtype), "shape": list(value.shape), "hex": raw.hex()}


def _pointer(value: PointerTensor) -> Any:
    handle = value.handle
    return {"Pointer": {"worker": handle.link.worker.id, "meta": tree(metadata_of(value)), "owned": handle.owned}}


def _fixed(x: FixedPrecisionTensor) -> Any:
    fields = secret_values.FixedFields(x.integers, secret_values._fields(x.encoding), dtype_name(x.dtype))
    return {"Fixed": _struct(fields)}


def _geometry(value: Geometry) -> Any:
    return _struct(session_messages._geometry_fields(value))


def _map(value: BilinearMap) -> Any:
    geometry = getattr(value, "geometry", None)
    return {
        "BilinearMap": {
            "name": session_messages._NAMES[type(value)],
            "geometry": None if geometry is None else _geometry(geometry),
        }
    }


TREES: list[tuple[Any, Callable[[Any], Any]]] = [
    ((type(None), bool, int, float, str), lambda value: value),
    (bytes, lambda value: {"bytes": value.hex()}),
    ((list, tuple), lambda value: [tree(part) for part in value]),
    (dict, lambda value: {"map": [[key, tree(part)] for key, part in value.items()]}),
    (wire.Seen, lambda value: {"Seen": {"number": value.number, "form": value.form, "sizes": value.sizes}}),
    (wire.Ref, lambda value: {"ref": value.number}),
    (PointerTensor, _pointer),
    (FixedPrecisionTensor, _fixed),
    (torch.Tensor, _tensor),
    (torch.dtype, lambda value: {"dtype": dtype_name(value)}),
    (torch.memory_format, lambda value: {"memory_format": str(value).removeprefix("torch.")}),
    (torch.layout, lambda value: {"layout": str(value).removeprefix("torch.")}),
    (torch.device, lambda value: {"device": str(value)}),
    (complex, lambda value: {"complex": [value.real, value.imag]}),
    (RemoteConfig, lambda value: {"Config": {"model": value.model, "settings": _struct(value.settings)}}),
    (Slot, lambda value: {"slot": value.number}),
    (BilinearMap, _map),
    (Geometry, lambda value: {"Geometry": _geometry(value)}),
    (msgspec.Struct, _struct),
]


class Elsewhere:
    """A node that knows a worker, for pointers."""

    def link(self, name: str) -> Any:
        return SimpleNamespace(
            worker=SimpleNamespace(id=name), owner=SimpleNamespace(id="me"), lend=lambda number: number,
            forget=lambda number: None, pending=lambda: [],
        )  # fmt: skip


def ours(kind: Any, data: bytes) -> Any:
    return wire.Decoder(kind, Elsewhere()).decode(data)


# ------------------------------------------------------------------------------------------------ values and messages


@pytest.mark.parametrize("vector", vectors("values"))
def test_values(vector: Any) -> None:
    data = bytes.fromhex(vector["hex"])
    same(independent.read_value(data), vector["tree"])
    value = ours(Any, data)
    same(tree(value), vector["tree"])
    if vector.get("canonical", True):
        assert wire.encode(session_messages.written(value)) == data


@pytest.mark.parametrize("vector", vectors("values", "refused"))
def test_values_that_are_refused(vector: Any) -> None:
    data = bytes.fromhex(vector["hex"]) * vector.get("times", 1)
    with pytest.raises(independent.Refused):
        independent.read_value(data)
    with pytest.raises(ShareTorchError):
        ours(Any, data)


@pytest.mark.parametrize("vector", vectors("messages"))
def test_messages(vector: Any) -> None:
    data = bytes.fromhex(vector["hex"])
    same(independent.read_message(vector["family"], data), vector["tree"])
    value = ours(FAMILIES[vector["family"]], data)
    same(tree(value), vector["tree"])
    if vector.get("canonical", True):
        assert wire.encode(value) == data


@pytest.mark.parametrize("vector", vectors("messages", "refused"))
def test_messages_that_are_refused(vector: Any) -> None:
    data = bytes.fromhex(vector["hex"])
    with pytest.raises(independent.Refused):
        independent.read_message(vector["family"], data)
    with pytest.raises(ShareTorchError):
        ours(FAMILIES[vector["family"]], data)


def test_every_kind_of_message_has_a_vector() -> None:
    found = {(entry.values[0]["family"], entry.values[0]["tree"]["is"]) for entry in vectors("messages")}
    assert found == {(family, name) for family, names in independent.MESSAGES.items() for name in names}
    for family, kinds in FAMILIES.items():
        assert set(independent.MESSAGES[family]) == {kind.__struct_config__.tag for kind in kinds.__args__}


def test_the_decoder_knows_the_fields_of_every_struct() -> None:
    known = {name: fields for family in independent.MESSAGES.values() for name, fields in family.items()}
    kinds = [kind for family in FAMILIES.values() for kind in family.__args__]
    for name, kind in [*((kind.__struct_config__.tag, kind) for kind in kinds), *STRUCTS.items()]:
        schema = independent.STRUCTS[name] if name in STRUCTS else known[name]
        assert [field.split(":")[0] for field in schema.split()] == list(kind.__struct_fields__), name


@pytest.mark.parametrize("vector", vectors("structs"))
def test_structs(vector: Any) -> None:
    data = bytes.fromhex(vector["hex"])
    same(independent.read_struct(vector["struct"], data), vector["tree"])
    value = ours(STRUCTS[vector["struct"]], data)
    same(tree(value), vector["tree"])
    assert wire.encode(value) == data


@pytest.mark.parametrize("vector", vectors("structs", "refused"))
def test_structs_that_are_refused(vector: Any) -> None:
    data = bytes.fromhex(vector["hex"])
    with pytest.raises(independent.Refused):
        independent.read_struct(vector["struct"], data)
    with pytest.raises(ShareTorchError):
        ours(STRUCTS[vector["struct"]], data)


# ---------------------------------------------------------------------------------------------------- control channel


def channel_messages(vector: Any) -> list[bytes]:
    """The messages of a vector, each written as runs: bytes, and how often they stand there."""
    return [b"".join(bytes.fromhex(run) * count for run, count in message) for message in vector["messages"]]


def our_channel(found: list[bytes], limit: int) -> list[tuple[int, int, bytes]]:
    items: list[tuple[int, int, bytes]] = []
    settings = NetworkSettings(max_message_bytes=limit)
    end = control.Control(None, Peer("alice", bytes(32)), settings, lambda *item: None)  # type: ignore[arg-type]
    deliver = end._deliver

    def note(kind: int, number: int, payload: bytes) -> None:
        deliver(kind, number, payload)
        items.append((kind, number, payload))

    end._deliver = note  # type: ignore[method-assign]
    for message in found:
        end._take(message)
    return items


@pytest.mark.parametrize("vector", vectors("control"))
def test_control_items(vector: Any) -> None:
    found = channel_messages(vector)
    same(independent.read_control(found, vector["limit"]), vector["items"])
    items = our_channel(found, vector["limit"])
    same([independent.item(*item) for item in items], vector["items"])
    written = (bytes(part) for item in items for piece in control._items(*item) for part in piece)
    assert b"".join(written) == b"".join(found)


@pytest.mark.parametrize("vector", vectors("control", "refused"))
def test_control_items_that_are_refused(vector: Any) -> None:
    found = channel_messages(vector)
    with pytest.raises(independent.Refused):
        independent.read_control(found, vector["limit"])
    with pytest.raises(ShareTorchError):
        our_channel(found, vector["limit"])


# ------------------------------------------------------------------------------------------------------------- frames


def ring_for(due: Any) -> Ring:
    return ring_of(due["modulus"])


def direction_for(due: Any) -> Direction:
    return Direction(bytes.fromhex(due["key"]), bytes.fromhex(due["session"]), due["sender"], due["receiver"])


def our_frame(data: bytes, due: Any) -> Any:
    sock, ring = Bytes(data), ring_for(due)
    incoming = Incoming(sock, "alice", direction_for(due), ring, Times())  # type: ignore[arg-type]
    incoming._sequence = due["sequence"]
    forms = tuple(Form(kind, tuple(shape)) for kind, shape in due["forms"])
    try:
        received = incoming.receive(due["operation"], due["label"], forms)
    except SessionEndedError as error:
        text = str(error).removeprefix("alice ended the session: ")
        note = {"kind": error.cause, "member": error.member, "operation": error.operation, "text": text}
        return {"kind": "abort", "note": note}
    except ConnectionLostError:
        if len(data) == frames.HEADER_BYTES and data[5] == frames.BEAT and incoming._sequence == due["sequence"] + 1:
            return {"kind": "heartbeat"}
        raise
    values = [
        [int(value) for value in (part.array if isinstance(part, WideElements) else part).reshape(-1)]
        for part in received.fields
    ]
    assert [form_of(part) for part in received.fields] == list(forms)
    return {"kind": "data", "round": received.round, "fields": values}


def payload(kind: int, shape: list[int], values: list[int], ring: Ring) -> Any:
    if kind == RING and isinstance(ring, WideField):
        wide = np.empty(len(values), dtype=object)
        wide[:] = values
        return WideElements(wide.reshape(shape))
    if kind == RING:
        return torch.tensor(values, dtype=torch.int64).reshape(shape)
    return np.array(values, dtype={BYTES: np.uint8, WORDS: np.uint64}[kind]).reshape(shape)


def our_seal(found: Any, due: Any) -> bytes:
    direction, ring = direction_for(due), ring_for(due)
    if found["kind"] == "heartbeat":
        return b"".join(frames.seal(direction, frames.BEAT, due["sequence"]))
    if found["kind"] == "abort":
        note = msgspec.msgpack.encode(Note(**found["note"]))
        return b"".join(frames.seal(direction, frames.ABORT, due["sequence"], note=note))
    work = zip(due["forms"], found["fields"], strict=True)
    parts = [payload(kind, shape, values, ring) for (kind, shape), values in work]
    return b"".join(
        frames.seal(
            direction, frames.DATA, due["sequence"], operation=due["operation"], round=found["round"],
            label=due["label"], fields=parts, ring=ring,
        )
    )  # fmt: skip


@pytest.mark.parametrize("vector", vectors("frames"))
def test_frames(vector: Any) -> None:
    data = bytes.fromhex(vector["hex"])
    same(independent.read_frame(data, vector["due"]), vector["tree"])
    same(our_frame(data, vector["due"]), vector["tree"])
    if vector.get("canonical", True):
        assert our_seal(vector["tree"], vector["due"]) == data


@pytest.mark.parametrize("vector", vectors("frames", "refused"))
def test_frames_that_are_refused(vector: Any) -> None:
    data = bytes.fromhex(vector["hex"])
    with pytest.raises(independent.Refused):
        independent.read_frame(data, vector["due"])
    with pytest.raises(NetworkError) as caught:
        our_frame(data, vector["due"])
    assert not isinstance(caught.value, SessionEndedError)


# -------------------------------------------------------------------------------------------- handshake, key schedule


class Signer:
    """An identity without certificates."""

    def __init__(self, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)

    def sign(self, data: bytes) -> bytes:
        return self._private.sign(data)


def pair_for(vector: Any) -> Pair:
    pair = vector["pair"]
    entries = [
        MemberEntry(pair[f"{side}_id"], bytes.fromhex(pair[f"{side}_public"]), "localhost", 1)
        for side in ("low", "high")
    ]
    return Pair(bytes.fromhex(pair["session"]), pair["low"], pair["high"], *entries)


class Wire:
    """One end of a connection that plays its part from a record."""

    def __init__(self, script: bytes = b"") -> None:
        self.coming, self.sent = script, b""

    def recv(self, count: int) -> bytes:
        found, self.coming = self.coming[:count], self.coming[count:]
        return found

    def sendall(self, data: bytes) -> None:
        self.sent += data


def our_exchange(vector: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, str], dict[str, str]]:
    """What crossed the connections, and the keys, when both sides hear what the vector says."""
    pair, heard = pair_for(vector), {name: bytes.fromhex(text) for name, text in vector["messages"].items()}
    low, high = (Wire(heard["answer"]), Wire(heard["hello"] + heard["last"]))
    _use(monkeypatch, vector["high_secret"])
    hello = handshake.read_hello(high)  # type: ignore[arg-type]
    at_high = handshake.exchange_as_high(high, hello, pair, Signer(bytes.fromhex(vector["high_seed"])))  # type: ignore[arg-type]
    handshake.check_join(handshake.read_hello(Wire(heard["second"])), pair, at_high)  # type: ignore[arg-type]
    _use(monkeypatch, vector["low_secret"])
    at_low = handshake.exchange_as_low(low, pair, Signer(bytes.fromhex(vector["low_seed"])))  # type: ignore[arg-type]
    second = Wire()
    handshake.join_as_low(second, pair, at_low)  # type: ignore[arg-type]
    assert at_low == at_high
    said = {
        "hello": low.sent[:71].hex(), "answer": high.sent.hex(), "last": low.sent[71:].hex(),
        "second": second.sent.hex(),
    }  # fmt: skip
    keys = {
        "secret": at_low.secret.hex(), "low": at_low.frames[pair.low].hex(), "high": at_low.frames[pair.high].hex(),
        "joining": at_low.joining.hex(),
    }  # fmt: skip
    return said, keys


def _use(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    """Let the next ephemeral key be this one."""
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    monkeypatch.setattr(handshake, "X25519PrivateKey", SimpleNamespace(generate=lambda: key))


@pytest.mark.parametrize("vector", vectors("handshake"))
def test_exchanges(vector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = independent.read_exchange(vector["messages"], vector["pair"], bytes.fromhex(vector["low_secret"]))
    same(found, vector["keys"])
    same(our_exchange(vector, monkeypatch), [vector["messages"], vector["keys"]])


@pytest.mark.parametrize("vector", vectors("handshake", "refused"))
def test_exchanges_that_are_refused(vector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(independent.Refused):
        independent.read_exchange(vector["messages"], vector["pair"], bytes.fromhex(vector["low_secret"]))
    with pytest.raises(HandshakeError):
        our_exchange(vector, monkeypatch)


@pytest.mark.parametrize("vector", vectors("handshake", "sessions"))
def test_session_ids(vector: Any) -> None:
    document, fresh = bytes.fromhex(vector["document"]), [bytes.fromhex(part) for part in vector["fresh"]]
    assert independent.session_id(document, fresh).hex() == vector["id"]
    decoded = ours(SessionDocument, document)
    assert decoded.canonical() == document
    assert handshake.session_id(decoded, fresh).hex() == vector["id"]


def integers(values: Any) -> list[int]:
    return [int(value) for value in (values.array if isinstance(values, WideElements) else values).reshape(-1)]


@pytest.mark.parametrize("vector", vectors("streams"))
def test_streams(vector: Any) -> None:
    """Draws follow each other on one stream."""
    secret = bytes.fromhex(vector["secret"])
    block, pair = vector.get("block", 0), PairSecret(secret)
    theirs = independent.Stream(secret, vector["operation"], block)
    mine = (pair.block(block) if block else pair).stream(vector["operation"])
    read: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "bytes": (lambda n: list(theirs.bytes(n)), mine.bytes),
        "words": (lambda n: theirs.uniform(n, 1 << 64), lambda n: mine.words((n,))),
        "uniform": (theirs.uniform, lambda n, q: mine.uniform((n,), ring_of(q))),
        "residues": (theirs.residues, mine.residues),
        "nonzero residues": (lambda n, q: theirs.residues(n, q - 1, 1), mine.nonzero_residues),
        "below": (theirs.residues, lambda n, bound: mine.below(bound, n)),
        "odd ring": (theirs.odd_ring, mine.odd_ring),
        "bits": (theirs.bits, mine.bits),
    }  # fmt: skip
    for what, arguments, values in vector["draws"]:
        assert read[what][0](*arguments) == values, what
        assert integers(read[what][1](*arguments)) == values, what


# ---------------------------------------------------------------------------------------------------------- the files


def test_there_are_enough_vectors() -> None:
    files = [json.loads(path.read_text()) for path in FOLDER.glob("*.json")]
    assert sum(len(entries) for file in files for which, entries in file.items() if which != "refused") >= 60
    assert sum(len(file.get("refused", [])) for file in files) >= 20
    for file in files:
        names = [entry["name"] for entries in file.values() for entry in entries]
        assert len(set(names)) == len(names)


def test_the_page_names_every_field() -> None:
    """The decoder's schemas are those of the documentation, word by word."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "wire-format.md").read_text()
    lines = {" ".join(line.split()) for line in page.splitlines()}
    for schemas in (independent.STRUCTS, *independent.MESSAGES.values()):
        for name, schema in schemas.items():
            shown = schema.replace('{"map":[]}', "{}").replace("null", "nil").replace(":{int}", ":{int:int}")
            assert f"{name} {shown}".strip() in lines, name


def test_the_decoder_imports_nothing_but_the_standard_library() -> None:
    lines = (Path(__file__).parent / "independent_decoder.py").read_text().splitlines()
    found = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert found == {"__future__", "collections", "hashlib", "hmac", "json", "math", "struct", "typing", "zlib"}
