"""Files of checkpoints that only the member who wrote them can read.

They are sealed as ``mpc.sealed`` says, under "STCK" and the member's identity key. The member's secret is an Ed25519
signature, which is deterministic, over a text that is signed for nothing else (everything else that is signed is a hash
of 32 bytes).
"""

from __future__ import annotations

from pathlib import Path

from sharetorch.mpc import sealed
from sharetorch.mpc.errors import CheckpointError, ShareTorchError
from sharetorch.mpc.network.identity import Identity
from sharetorch.mpc.sealed import CHUNK_BYTES, PART, TAG_BYTES, VERSION, Contents, Kind, remove_rests

_LABEL = b"sharetorch/v1/checkpoint: the secret of files at rest, signed for nobody"

KIND = Kind(
    magic=b"STCK",
    info=b"sharetorch/v1/checkpoint/file",
    error=CheckpointError,
    noun="checkpoint",
    reader="this worker",
    smaller="Save fewer tensors at a time.",
    otherwise="move it away; the checkpoint before it is taken then.",
    larger="move the state folder to a larger disk",
    permission="See that this folder is there and that the worker may write to it",
    kept="Earlier checkpoints are as they were.",
)
"""Checkpoints, and what is said of them."""


class Files(sealed.Files):
    """A member's checkpoint files.

    Args:
        identity: of the member.
    """

    __slots__ = ("_identity",)

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

        def foreign(path: Path, public: bytes) -> str:
            return (
                f"{path} was written with the identity key {public.hex()[:16]}..., and {identity.id} has "
                f"{identity.public.hex()[:16]}...: it is another member's file, or {identity.id} has new keys. Put the "
                "file where it belongs, or the old keys back; only they open it."
            )

        super().__init__(KIND, identity.sign(_LABEL), identity.public, foreign)


def damaged(path: Path) -> ShareTorchError:
    """The error for a file that was changed or cut off."""
    return KIND.damaged(path)


def remove(path: Path) -> None:
    """Delete a checkpoint, if it is there.

    Raises:
        CheckpointError: it cannot be deleted.
    """
    sealed.remove(path, KIND)


__all__ = ["CHUNK_BYTES", "PART", "TAG_BYTES", "VERSION", "Contents", "Files", "damaged", "remove", "remove_rests"]
