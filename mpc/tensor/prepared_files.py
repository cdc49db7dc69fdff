"""What was prepared, kept in encrypted files until it is used.

A file holds the provider's corrections and masks, sealed as ``mpc.sealed`` says under "STPM". Its key, the parties'
secrets and the description of the commands stay in the session, which remembers what may still be loaded: each file
once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharetorch.mpc import sealed
from sharetorch.mpc.channel import Form, Payload, form_of
from sharetorch.mpc.errors import CorrelationReusedError, PreparationError
from sharetorch.mpc.network import frames
from sharetorch.mpc.preparing import Block
from sharetorch.mpc.randomness import SECRET_BYTES, system_entropy
from sharetorch.mpc.ring import Ring
from sharetorch.mpc.sealed import Contents, Files, Kind
from sharetorch.mpc.session import Session

_NUMBER_BYTES = 8
_PUBLIC_BYTES = 32

KIND = Kind(
    magic=b"STPM",
    info=b"sharetorch/v1/prepared/file",
    error=PreparationError,
    noun="prepared file",
    reader="this version",
    smaller="Prepare fewer runs at a time.",
    otherwise="prepare anew.",
    larger="name a place on a larger disk",
    permission="See that this folder is there and can be written to",
    kept="What was prepared can still be used.",
)
"""Prepared files, and what is said of them."""


class Vault:
    """What a session has saved.

    Args:
        ring: where shares live.
    """

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._files = Files(KIND, system_entropy(SECRET_BYTES), system_entropy(_PUBLIC_BYTES), _foreign)
        self._blocks: dict[int, Block] = {}
        self._count = 0

    def __repr__(self) -> str:
        return f"Vault({len(self._blocks)} files)"

    def save(self, block: Block, path: Path) -> int:
        """Move what takes memory in a block to a file; gives the size of the file.

        Raises:
            PreparationError: it cannot be written; then nothing has changed.
        """
        header = (self._count + 1).to_bytes(_NUMBER_BYTES, "big")
        size = self._files.write(path, header, [frames.encode_field(part, self._ring) for part in block.payloads()])
        self._count += 1
        self._blocks[self._count] = block
        block.replace(iter([form_of(part) for part in block.payloads()]))
        return size

    def load(self, path: Path, room: int | None = None) -> Block:
        """What a file holds, which is deleted.

        Args:
            path: of the file.
            room: bytes the block may take; None if it does not matter.

        Raises:
            CorrelationReusedError: the file was loaded before.
            PreparationError: it is missing, damaged, another session's, too large, or cannot be deleted.
        """
        with self._files.open(path) as (header, contents):
            number = int.from_bytes(header, "big")
            block: Block | None = self._blocks.get(number)
            if block is None:
                raise CorrelationReusedError(
                    f"{path} was loaded before. A second use would reveal differences of secrets; prepare anew."
                )
            if room is not None and block.size > room:
                raise PreparationError(f"{path} takes {block.size} bytes, {room} are left. Use other runs up first.")
            payloads = list(_read(block, contents, self._ring))
        if contents.size:
            raise KIND.damaged(path)
        sealed.remove(path, KIND)
        block.replace(iter(payloads))
        del self._blocks[number]
        return block


def _foreign(path: Path, public: bytes) -> str:
    return (
        f"{path} was prepared by another session, or by one that is over: only the session that prepares has the key. "
        "Prepare anew."
    )


def vault_of(session: Session) -> Any:
    """Where a session keeps what it saves; has ``save`` and ``load`` of ``Vault``."""
    session.vault = session.vault or Vault(session.ring)
    return session.vault


def _read(block: Block, contents: Contents, ring: Ring) -> Iterator[Payload]:
    for form in block.payloads():
        assert isinstance(form, Form)
        memory = frames.empty_field(form, ring)
        contents.read_into(memory)
        yield frames.decode_field(form, memory, ring)
