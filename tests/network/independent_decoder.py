"""A second implementation of docs/reference/wire-format.md, made from that page alone.

It imports nothing of ShareTorch and no package beyond the standard library. What it reads it gives as plain trees of
JSON values; what it does not accept raises ``Refused``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any


class Refused(ValueError):
    """The bytes are not of the documented form."""


def require(holds: bool, why: str) -> None:
    if not holds:
        raise Refused(why)


# ------------------------------------------------------------------------------------------------------- MessagePack


class Reader:
    """MessagePack, one value after the other."""

    DEPTH = 200

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def take(self, count: int) -> bytes:
        require(self.place + count <= len(self.data), "truncated")
        self.place += count
        return self.data[self.place - count : self.place]

    def number(self, form: str) -> Any:
        return struct.unpack(">" + form, self.take(struct.calcsize(">" + form)))[0]

    def value(self, depth: int = 0) -> Any:
        require(depth < self.DEPTH, "nested too deep")
        first = self.number("B")
        if first <= 0x7F:
            return first
        if first >= 0xE0:
            return first - 256
        if first <= 0x8F:
            return self.map(first & 15, depth)
        if first <= 0x9F:
            return [self.value(depth + 1) for _ in range(first & 15)]
        if first <= 0xBF:
            return self.text(first & 31)
        return self.long(first, depth)

    def long(self, first: int, depth: int) -> Any:
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        sizes = {0xC4: "B", 0xC5: "H", 0xC6: "I"}
        if first in sizes:
            return {"bytes": self.take(self.number(sizes[first])).hex()}
        numbers = dict(zip(range(0xCA, 0xD4), "fdBHIQbhiq", strict=True))
        if first in numbers:
            return self.number(numbers[first])
        if 0xD4 <= first <= 0xD8:
            return self.extension(1 << (first - 0xD4))
        counted: dict[int, tuple[str, Callable[[int], Any]]] = {
            0xC7: ("B", self.extension), 0xC8: ("H", self.extension), 0xC9: ("I", self.extension),
            0xD9: ("B", self.text), 0xDA: ("H", self.text), 0xDB: ("I", self.text),
            0xDC: ("H", lambda count: [self.value(depth + 1) for _ in range(count)]),
            0xDD: ("I", lambda count: [self.value(depth + 1) for _ in range(count)]),
            0xDE: ("H", lambda count: self.map(count, depth)), 0xDF: ("I", lambda count: self.map(count, depth)),
        }  # fmt: skip
        require(first in counted, "a byte that begins nothing")
        form, read = counted[first]
        return read(self.number(form))

    def text(self, count: int) -> str:
        try:
            return self.take(count).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused("no UTF-8") from error

    def map(self, count: int, depth: int) -> Any:
        return {"map": [[self.value(depth + 1), self.value(depth + 1)] for _ in range(count)]}

    def extension(self, size: int) -> Any:
        number = self.number("B")
        contents = self.take(size)
        require(number in EXTENSIONS, f"extension {number}")
        return EXTENSIONS[number](contents)


def read_value(data: bytes) -> Any:
    """One value that fills the bytes."""
    reader = Reader(data)
    found = reader.value()
    require(reader.place == len(data), "something follows")
    return found


# -------------------------------------------------------------------------------------------------------- extensions

ITEM_BYTES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip
FORMATS = ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
MAPS = {
    "product": False, "matrix product": False, "convolution": True, "input gradient": True, "kernel gradient": True,
}  # fmt: skip


def read_ref(data: bytes) -> Any:
    require(len(data) == 8, "a reference has 8 bytes")
    return {"ref": int.from_bytes(data, "big")}


def read_tensor(data: bytes) -> Any:
    require(len(data) >= 2, "no head")
    head = 2 + int.from_bytes(data[:2], "big")
    found = read_value(data[2:head])
    require(isinstance(found, list) and len(found) == 2, "a head has two fields")
    dtype, shape = matched("str", found[0]), matched("[int]", found[1])
    require(dtype in ITEM_BYTES, "dtype")
    require(len(shape) <= 64 and all(size >= 0 for size in shape), "shape")
    require(len(data) - head == math.prod(shape) * ITEM_BYTES[dtype], "elements")
    return {"tensor": dtype, "shape": shape, "hex": data[head:].hex()}


def read_complex(data: bytes) -> Any:
    require(len(data) == 16, "a complex number has 16 bytes")
    return {"complex": list(struct.unpack("<dd", data))}


def read_slot(data: bytes) -> Any:
    require(len(data) == 1, "a slot has one byte")
    return {"slot": data[0]}


def one_of(kind: str, names: Sequence[str]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        require(data in [name.encode() for name in names], kind)
        return {kind: data.decode()}

    return read


def fields_of(kind: str, check: Callable[[Any], None] = lambda found: None) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        found = struct_of(kind, read_value(data))
        check(found)
        return {kind: found}

    return read


def check_seen(found: Any) -> None:
    require(found["number"] >= 0 and found["form"] in ("t", "view"), "a view")


def check_pointer(found: Any) -> None:
    meta = found["meta"]
    require(meta["dtype"] in ITEM_BYTES and len(meta["shape"]) <= 64, "dtype or shape")
    require(min(*meta["shape"], *meta["strides"], meta["offset"], meta["number"], 0) == 0, "negative")


def check_geometry(found: Any) -> None:
    dims = len(found["image"]) - 2
    sides = [found[name] for name in ("stride", "padding", "dilation")]
    require(dims in (1, 2) and len(found["kernel"]) == dims + 2, "dimensions")
    require(all(len(side) == dims for side in sides), "dimensions")
    sizes = [*found["image"], *found["kernel"], *found["stride"], *found["dilation"], found["groups"]]
    require(min(sizes) >= 1 and max(sizes) < 1 << 32 and min(found["padding"]) >= 0, "sizes")


def check_map(found: Any) -> None:
    require(found["name"] in MAPS, "name")
    require((found["geometry"] is not None) == MAPS[found["name"]], "geometry")
    if found["geometry"] is not None:
        check_geometry(found["geometry"])


def check_fixed(found: Any) -> None:
    encoding = found["encoding"]
    require(isinstance(found["integers"], dict) and found["integers"].get("tensor") == "int64", "integers")
    require(found["dtype"] in ITEM_BYTES, "dtype")
    require(encoding["truncation"] in ("probabilistic", "exact", "local") and 0 <= encoding["scale"] <= 64, "encoding")
    require(encoding["integer"] or encoding["base"] in (2, 10), "base")


EXTENSIONS: dict[int, Callable[[bytes], Any]] = {
    1: read_ref,
    2: read_tensor,
    3: one_of("dtype", list(ITEM_BYTES)),
    4: one_of("memory_format", FORMATS),
    5: one_of("layout", ["strided"]),
    6: one_of("device", ["cpu"]),
    7: read_complex,
    8: fields_of("Seen", check_seen),
    16: fields_of("Pointer", check_pointer),
    17: fields_of("Fixed", check_fixed),
    18: fields_of("SharedHandle"),
    19: fields_of("Plan"),
    20: fields_of("Protocol"),
    21: fields_of("Model"),
    22: fields_of("Config"),
    32: read_slot,
    33: fields_of("BilinearMap", check_map),
    34: fields_of("Geometry", check_geometry),
}

# ----------------------------------------------------------------------------------------------------------- schemas

STRUCTS = {
    "Meta": 'number:int kind:str dtype:str="" shape:[int]=[] strides:[int]=[] offset:int=0 tags:[str]=[] '
    "description:str?=null",
    "Seen": "number:int form:str sizes:[int]",
    "Pointer": "worker:str meta:Meta owned:bool",
    "Encoding": "base:int precision:int scale:int integer:bool explicit:bool truncation:str",
    "Fixed": "integers:any encoding:Encoding dtype:str",
    "SharedHandle": "claim:int session:bytes encoding:Encoding dtype:str shape:[int] bits:bool",
    "Spec": "name:str dtype:str shape:[int]",
    "Node": 'operator:str args:[any] kwargs:{any}={"map":[]}',
    "Graph": "version:int name:str inputs:[Spec] arguments:any state:[Spec] nodes:[Node] output:any",
    "Plan": "graph:Graph state:[any] tags:[str] description:str?",
    "Step": "name:str plan:any=null number:int?=null graph:Graph?=null owned:bool=false",
    "Protocol": "steps:[Step] tags:[str] description:str?",
    "Model": "tensors:[any] trainable:[bool]",
    "Training": 'batch_size:int=32 epochs:int=1 optimizer:str="SGD" optimizer_args:{any}={"map":[]} shuffle:bool=true '
    "max_nr_batches:int=-1",
    "Config": "model:int settings:Training",
    "Geometry": "image:[int] kernel:[int] stride:[int] padding:[int] dilation:[int] groups:int",
    "BilinearMap": "name:str geometry:Geometry?",
    "MemberEntry": "id:str public:bytes host:str port:int",
    "SessionDocument": "version:int members:[MemberEntry] parties:int modulus:bytes suite:str round_seconds:float",
    "Report": "operation:int name:str rank:int rounds:int online:{int} offline:{int} seconds:float waited:float",
    "Policy": "recipients:[str]? outputs:[str]? min_rows:int max_elements:int?",
    "Asked": "number:int object:int user:str reason:str state:str kind:str dtype:str shape:[int] tags:[str]",
    "CheckpointEntry": "counter:int checkpoint:bytes objects:int",
    "Note": "kind:str member:str? operation:str? text:str",
    "Hello": 'version:int id:str lanes:int=1 address:str="" limit:int=0',
}
MESSAGES = {
    "Request": {
        "store": "values:[any] numbers:[int]=[] tags:[str]=[] description:str?=null readers:[str]?=null "
        "owner:str?=null",
        "execute": "operator:str args:[any] kwargs:{any} forget:[int]=[] results:[int]=[]",
        "invoke": "method:str number:int args:[any] kwargs:{any}",
        "call": "number:int args:[any] kwargs:{any} forget:[int]=[]",
        "fetch": "numbers:[int] remove:bool user:str?=null reason:str?=null ask:bool=false",
        "forward": "numbers:[int] worker:str remove:bool user:str?=null",
        "forget": "numbers:[int]",
        "clear": "",
        "search": "query:[str] number:int?=null",
        "inspect": "number:int",
        "listing": "",
        "lend": "number:int to:str",
        "label": "number:int tags:[str]?=null description:str?=null",
        "release": "number:int users:[str]",
        "train": 'config:int dataset:str options:{any}={"map":[]}',
        "evaluate": 'config:int dataset:str options:{any}={"map":[]}',
    },
    "Reply": {
        "made": 'results:[Meta?] form:any="one"',
        "values": "values:[any]",
        "found": "objects:[Meta]",
        "done": "",
        "failed": "kind:str text:str",
    },
    "ToMember": {
        "propose": "document:SessionDocument",
        "open": "document:SessionDocument fresh:[bytes]",
        "command": "session:bytes operation:int name:str inputs:[int] outputs:[int] public:{any} forget:[int]=[]",
        "input": "session:bytes operation:int number:int shape:[int] offset:int size:int contents:bytes",
        "expect": "session:bytes operation:int number:int owner:str shape:[int]",
        "deposit": "session:bytes number:int shape:[int] offset:int size:int contents:bytes policy:bytes frame:[str]",
        "output": "session:bytes number:int",
        "sync": "session:bytes",
        "close": 'session:bytes reason:str=""',
        "save": "session:bytes name:str counter:int checkpoint:bytes numbers:[int] structure:bytes",
        "list checkpoints": "session:bytes name:str",
        "load": "session:bytes name:str checkpoint:bytes numbers:[int]",
        "prune": "session:bytes name:str checkpoints:[bytes]",
        "join": "session:bytes operation:int sessions:[bytes]",
        "all reduce": "session:bytes operation:int inputs:[int] outputs:[int] shapes:[[int]]",
        "broadcast": "session:bytes operation:int numbers:[int] shapes:[[int]]",
        "pass": "session:bytes operation:int source:int target:int numbers:[int] shapes:[[int]]",
        "prepare": "session:bytes block:int limit:int unused:[int]=[]",
        "stand in": "session:bytes run:int numbers:[int] originals:[int]",
        "placeholder": "session:bytes number:int shape:[int]",
        "trace": "session:bytes name:str inputs:[int] outputs:[int] public:{any} forget:[int]=[]",
        "finish": "session:bytes keep:bool",
        "use": "session:bytes block:int run:int unused:[int]=[]",
        "leave": "session:bytes",
        "save prepared": "session:bytes block:int name:str",
        "load prepared": "session:bytes name:str",
    },
    "Answer": {
        "fresh": "fresh:bytes",
        "opened": "",
        "share": "shape:[int] contents:bytes",
        "synced": "",
        "saved": "size:int",
        "checkpoints": "entries:[CheckpointEntry] problems:[str]",
        "loaded": "structure:bytes shapes:[[int]]",
        "dealt": "offline:{int} seconds:float",
        "used": "used:int beside:int left:int reason:str",
        "restored": "block:int",
        "refused": "kind:str text:str",
    },
    "Approval": {"waiting": "decided:bool=false", "decide": "number:int approve:bool"},
    "ApprovalReply": {"listed": "requests:[Asked]", "failed": "kind:str text:str"},
    "Notice": {
        "progress": "session:bytes reports:[Report]",
        "ended": "session:bytes kind:str member:str? operation:int text:str",
    },
}
PLAIN: dict[str, tuple[type, ...]] = {"int": (int,), "bool": (bool,), "str": (str,), "float": (int, float)}


def matched(kind: str, value: Any) -> Any:
    """A value of that type."""
    if kind == "any":
        return value
    if kind.endswith("?"):
        return None if value is None else matched(kind[:-1], value)
    if kind.startswith("["):
        require(isinstance(value, list), kind)
        return [matched(kind[1:-1], part) for part in value]
    if kind.startswith("{"):
        require(isinstance(value, dict) and "map" in value, kind)
        require(all(isinstance(key, int if kind == "{int}" else str) for key, _ in value["map"]), kind)
        return {"map": [[key, matched(kind[1:-1], part)] for key, part in value["map"]]}
    if kind == "bytes":
        require(isinstance(value, dict) and "bytes" in value, kind)
        return value
    if kind in PLAIN:
        require(isinstance(value, PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool)), kind)
        return float(value) if kind == "float" else value
    return struct_of(kind, value)


def struct_of(kind: str, value: Any) -> Any:
    return fields(STRUCTS[kind], value, kind)


def fields(schema: str, value: Any, kind: str) -> Any:
    """An array as the fields of a schema; those with a default may be missing at the end."""
    require(isinstance(value, list), kind)
    names = schema.split()
    require(len(value) <= len(names), f"{kind}: too many fields")
    found = {}
    for place, field in enumerate(names):
        name, _, rest = field.partition(":")
        form, has_default, default = rest.partition("=")
        require(place < len(value) or bool(has_default), f"{kind}: {name} is missing")
        found[name] = matched(form, value[place]) if place < len(value) else json.loads(default)
    return found


def read_message(family: str, data: bytes) -> Any:
    """A message of one of the sets."""
    value = read_value(data)
    require(isinstance(value, list) and bool(value) and isinstance(value[0], str), "no message")
    require(value[0] in MESSAGES[family], f"no kind {value[0]!r}")
    return {"is": value[0], **fields(MESSAGES[family][value[0]], value[1:], value[0])}


def read_struct(kind: str, data: bytes) -> Any:
    """A struct that stands alone."""
    return struct_of(kind, read_value(data))


# --------------------------------------------------------------------------------------------------- control channel


def read_control(messages: Sequence[bytes], limit: int) -> list[Any]:
    """The items of a channel's messages, parts put together."""
    items: list[Any] = []
    whole: list[Any] | None = None  # kind, number, total, bytes so far
    for message in messages:
        require(len(message) > 0, "an empty message")
        place = 0
        while place < len(message):
            require(place + 13 <= len(message), "no head")
            length, kind, number = struct.unpack_from(">IBQ", message, place)
            piece = message[place + 13 : place + 13 + length]
            require(1 <= kind <= 9 and len(piece) == length, "kind or length")
            place += 13 + length
            if kind != 2:
                require(whole is None, "an item between parts")
                items.append(item(kind, number, piece))
                continue
            require(length > 9, "a part without contents")
            inner, total = struct.unpack_from(">BQ", piece)
            if whole is None:
                require(1 <= inner <= 9 and inner != 2 and 4 << 20 < total <= limit, "parts")
                whole = [inner, number, total, b""]
            require(whole[:3] == [inner, number, total], "a part of something else")
            whole[3] += piece[9:]
            require(len(whole[3]) <= total, "more than announced")
            if len(whole[3]) == total:
                items.append(item(inner, number, whole[3]))
                whole = None
    return items


def item(kind: int, number: int, payload: bytes) -> Any:
    require(kind not in (1, 8) or number > 0, "an answer without a number")
    return {"kind": kind, "number": number, "size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}


# ------------------------------------------------------------------------------------------------------------ frames


def read_frame(data: bytes, due: Any) -> Any:
    """One frame that must be the one ``due`` describes."""
    require(len(data) >= 64, "no header")
    key, session = bytes.fromhex(due["key"]), bytes.fromhex(due["session"])
    head = struct.unpack("<4sBBBB8sBBHIQQQ", data[:48])
    magic, version, kind, count, zero, prefix, sender, receiver, round, label, sequence, operation, length = head
    require((magic, version, zero) == (b"STF1", 1, 0), "magic, version or reserved byte")
    require((prefix, sender, receiver) == (session[:8], due["sender"], due["receiver"]), "session or ranks")
    require(sequence == due["sequence"], "sequence number")
    require(len(data) == 64 + length, "length")
    table = b""
    if kind == 1:
        table = b"".join(struct.pack(f"<BB{len(s)}Q", form, len(s), *s) for form, s in due["forms"])
        body = sum(math.prod(shape) * width(form, due["modulus"]) for form, shape in due["forms"])
        found = (operation, label, count, length)
        require(
            found == (due["operation"], zlib.crc32(due["label"].encode()), len(due["forms"]), len(table) + body), "due"
        )
        require(data[64 : 64 + len(table)] == table, "table")
    else:
        require(kind in (2, 3) and (count, round, label, operation) == (0, 0, 0, 0), "kind")
        require(length <= (1024 if kind == 3 else 0), "length")
    tag = hashlib.blake2s(data[:48] + table, key=key, digest_size=16).digest()
    require(hmac.compare_digest(tag, data[48:64]), "tag")
    if kind == 2:
        return {"kind": "heartbeat"}
    if kind == 3:
        return {"kind": "abort", "note": read_struct("Note", data[64:])}
    return {"kind": "data", "round": round, "fields": read_fields(data[64 + len(table) :], due)}


def width(form: int, modulus: int) -> int:
    """Bytes of an element."""
    require(form in (1, 2, 3), "kind of field")
    if form != 1:
        return {2: 1, 3: 8}[form]
    return 8 if modulus <= 1 << 62 or modulus == 1 << 64 else (modulus.bit_length() + 7) // 8


def read_fields(body: bytes, due: Any) -> Any:
    """The elements of each field, in row-major order."""
    out, place = [], 0
    for form, shape in due["forms"]:
        size = width(form, due["modulus"])
        end = place + math.prod(shape) * size
        values = [int.from_bytes(body[i : i + size], "little") for i in range(place, end, size)]
        out.append([element(value, due["modulus"]) for value in values] if form == 1 else values)
        place = end
    return out


def element(value: int, modulus: int) -> int:
    """A ring element in canonical form: signed in the ring of 2^64 elements."""
    value %= modulus
    return value - modulus if modulus == 1 << 64 and value >= 1 << 63 else value


# ------------------------------------------------------------------------------------------ X25519, Ed25519, AES-128

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def x25519(scalar: bytes, point: bytes) -> bytes:
    """RFC 7748, section 5."""
    k = int.from_bytes(scalar, "little") & ~7 & ((1 << 254) - 1) | (1 << 254)
    u = int.from_bytes(point, "little") & ((1 << 255) - 1)
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in range(254, -1, -1):
        swap = k >> bit & 1
        if swap:
            x2, x3, z2, z3 = x3, x2, z3, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, u * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
        if swap:
            x2, x3, z2, z3 = x3, x2, z3, z2
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


Point = tuple[int, int, int, int]
"""X, Y, Z, T with x = X / Z, y = Y / Z, xy = T / Z."""


def add(a: Point, b: Point) -> Point:
    """RFC 8032, section 5.1.4."""
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    c, d = 2 * D * a[3] * b[3] % P, 2 * a[2] * b[2] % P
    e, f, g, h = f - e, d - c, d + c, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(k: int, a: Point) -> Point:
    out = (0, 1, 1, 0)
    while k:
        if k & 1:
            out = add(out, a)
        a, k = add(a, a), k >> 1
    return out


def decompress(data: bytes) -> Point:
    y = int.from_bytes(data, "little") & ((1 << 255) - 1)
    require(y < P, "no point")
    xx = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(xx, (P + 3) // 8, P)
    if (x * x - xx) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    require((x * x - xx) % P == 0, "no point")
    x = x if x & 1 == data[31] >> 7 else P - x
    return x, y, 1, x * y % P


def verify(public: bytes, signature: bytes, data: bytes) -> None:
    """RFC 8032, section 5.1.7."""
    s = int.from_bytes(signature[32:], "little")
    require(len(signature) == 64 and s < ORDER, "signature")
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + data).digest(), "little") % ORDER
    base = decompress(bytes([0x58]) + b"\x66" * 31)
    left, right = times(s, base), add(decompress(signature[:32]), times(k, decompress(public)))
    same = all((left[i] * right[2] - right[i] * left[2]) % P == 0 for i in (0, 1))
    require(same, "signature")


def doubled(a: int) -> int:
    return (a << 1) ^ (0x11B if a & 0x80 else 0)


def sbox_table() -> list[int]:
    logs, powers, a = [0] * 256, [0] * 256, 1
    for i in range(255):
        powers[i], logs[a], a = a, i, a ^ doubled(a)
    out = []
    for value in range(256):
        inverse = powers[(255 - logs[value]) % 255] if value else 0
        word = inverse | inverse << 8
        out.append((word ^ word >> 4 ^ word >> 5 ^ word >> 6 ^ word >> 7) & 255 ^ 0x63)
    return out


SBOX = sbox_table()


def aes128(key: bytes, block: bytes) -> bytes:
    """FIPS 197."""
    words, constant = [list(key[i : i + 4]) for i in range(0, 16, 4)], 1
    for i in range(4, 44):
        last = words[-1]
        if i % 4 == 0:
            last = [SBOX[b] for b in last[1:] + last[:1]]
            last[0] ^= constant
            constant = doubled(constant)
        words.append([a ^ b for a, b in zip(words[i - 4], last, strict=True)])
    keys = [sum(words[i : i + 4], []) for i in range(0, 44, 4)]
    state = [a ^ b for a, b in zip(block, keys[0], strict=True)]
    for turn in range(1, 11):
        state = [SBOX[state[(5 * i) % 16]] for i in range(16)]
        if turn < 10:
            state = sum((mixed(state[i : i + 4]) for i in range(0, 16, 4)), [])
        state = [a ^ b for a, b in zip(state, keys[turn], strict=True)]
    return bytes(state)


def mixed(column: list[int]) -> list[int]:
    both = column[0] ^ column[1] ^ column[2] ^ column[3]
    return [column[i] ^ both ^ doubled(column[i] ^ column[(i + 1) % 4]) for i in range(4)]


# -------------------------------------------------------------------------------------------- handshake, key schedule


def session_id(document: bytes, fresh: Sequence[bytes]) -> bytes:
    written = b"sharetorch/v1/session" + len(document).to_bytes(8, "big") + document
    return hashlib.sha256(written + b"".join(fresh)).digest()


def read_hello(data: bytes) -> Any:
    require(len(data) == 71, "length")
    magic, session, low, high, purpose, key = struct.unpack("<4s32sBBB32s", data)
    require(magic == b"STH1" and low < high and purpose in (0, 1), "magic, ranks or purpose")
    return {"session": session.hex(), "low": low, "high": high, "purpose": purpose, "key": key.hex()}


def read_exchange(messages: Any, pair: Any, secret: bytes) -> Any:
    """The keys of a pair from everything that crossed its two connections and the dialer's ephemeral secret."""
    hello, answer, last, second = (bytes.fromhex(messages[name]) for name in ("hello", "answer", "last", "second"))
    first = read_hello(hello)
    require((first["session"], first["low"], first["high"]) == (pair["session"], pair["low"], pair["high"]), "pair")
    require(first["purpose"] == 0 and len(answer) == 96 and len(last) == 64, "lengths or purpose")
    low_key, high_key = bytes.fromhex(first["key"]), answer[:32]
    session = bytes.fromhex(pair["session"])
    publics = [bytes.fromhex(pair[name]) for name in ("low_public", "high_public")]
    parts = [session, bytes([pair["low"], pair["high"]]), pair["low_id"].encode(), publics[0]]
    parts += [pair["high_id"].encode(), publics[1], low_key, high_key]
    written = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    transcript = hashlib.sha256(b"sharetorch/v1/pair" + written).digest()
    verify(publics[1], answer[32:], b"high" + transcript)
    verify(publics[0], last, b"low" + transcript)
    agreed = x25519(secret, high_key)
    require(agreed != bytes(32), "degenerate key")
    keys = hkdf(session, agreed, b"sharetorch/v1/pair" + transcript, 128)
    found = {"secret": keys[:32], "low": keys[32:64], "high": keys[64:96], "joining": keys[96:]}
    proof = hmac.digest(keys[96:], session, "sha256").hex()
    again = read_hello(second)
    require(again == {**first, "purpose": 1, "key": proof}, "second connection")
    return {name: value.hex() for name, value in found.items()}


def hkdf(salt: bytes, key: bytes, info: bytes, count: int) -> bytes:
    """RFC 5869 with SHA-256."""
    extracted = hmac.digest(salt, key, "sha256")
    block, out = b"", b""
    for number in range(1, 1 + -(-count // 32)):
        block = hmac.digest(extracted, block + info + bytes([number]), "sha256")
        out += block
    return out[:count]


class Stream:
    """The stream of one operation of a pair, or of a step of a block that was prepared."""

    def __init__(self, secret: bytes, operation: int, block: int = 0) -> None:
        if block:
            secret = hmac.digest(secret, b"sharetorch/v2/prepared/%d\x01" % block, "sha256")
        number = operation // 65536
        self.key = hmac.digest(secret, b"sharetorch/v2/operations/%d\x01" % number, "sha256")[:16]
        self.block = operation << 64
        self.rest = b""

    def bytes(self, count: int) -> bytes:
        while len(self.rest) < count:
            self.rest += aes128(self.key, self.block.to_bytes(16, "big"))
            self.block += 1
        found, self.rest = self.rest[:count], self.rest[count:]
        return found

    def words(self, count: int, size: int) -> list[int]:
        raw = self.bytes(count * size)
        return [int.from_bytes(raw[i : i + size], "little") for i in range(0, len(raw), size)]

    def replaced(self, count: int, size: int, mask: int, limit: int) -> list[int]:
        """Words below a limit; those rejected are replaced in place, all of them at once, until none is left."""
        found = [word & mask for word in self.words(count, size)]
        while places := [i for i, word in enumerate(found) if word >= limit]:
            for place, word in zip(places, self.words(len(places), size), strict=True):
                found[place] = word & mask
        return found

    def residues(self, count: int, modulus: int, least: int = 0) -> list[int]:
        words = self.replaced(count, 2, 0xFFFF, 65536 // modulus * modulus)
        return [least + word % modulus for word in words]

    def odd_ring(self, count: int, bits: int) -> list[int]:
        return self.replaced(count, 8, (1 << bits) - 1, (1 << bits) - 1)

    def bits(self, count: int) -> list[int]:
        raw = self.bytes((count + 7) // 8)
        return [raw[i // 8] >> i % 8 & 1 for i in range(count)]

    def uniform(self, count: int, modulus: int) -> list[int]:
        if modulus == 1 << 64:
            return [element(word, modulus) for word in self.words(count, 8)]
        size, mask = (modulus.bit_length() + 7) // 8, (1 << modulus.bit_length()) - 1
        found: list[int] = []
        while len(found) < count:
            found += [word & mask for word in self.words(count - len(found), size) if word & mask < modulus]
        return found
