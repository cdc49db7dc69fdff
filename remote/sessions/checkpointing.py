"""Saving and resuming encrypted training: ``st.save_checkpoint`` and ``st.load_checkpoint``.

Every member writes its own shares; the driver keeps nothing. A state counts once all members have it, so a crash
between two members' writes leaves the state before, never a mixture. States that are no longer needed are deleted after
that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sharetorch.mpc.errors import CheckpointError, ShareTorchError
from sharetorch.mpc.randomness import system_entropy
from sharetorch.mpc.session import Member, Session, new_id
from sharetorch.mpc.tensor.shared import Handle, SharedTensor
from sharetorch.mpc.tensor.sharing import session_for
from sharetorch.nn.exchange import exchange
from sharetorch.remote.sessions.checkpoint_state import Entry, Packer, unpack
from sharetorch.remote.sessions.checkpoints import ID_BYTES, check_name
from sharetorch.remote.sessions.driver import NetworkedSession
from sharetorch.remote.sessions.messages import (
    Checkpoints,
    ListCheckpoints,
    Load,
    Loaded,
    Prune,
    Save,
    Saved,
    Synced,
)

KEPT = 2
"""States of a checkpoint that are kept if nothing is said."""


def save_checkpoint(
    name: str, model: nn.Module | None = None, optimizer: Optimizer | None = None, *, keep: int = KEPT, **extra: Any
) -> str:
    """Let every member of a session write its shares to its own disk, sealed; nothing is opened.

    Shared tensors are kept as shares. Numbers and texts (learning rates, counts of steps) are kept beside them, where
    every member can read them.

    Args:
        name: under which the state is found again.
        model: its parameters and buffers.
        optimizer: its state and settings.
        keep: states of this name that are kept, this one included; older ones are deleted.
        extra: shared tensors, numbers, texts, and dictionaries and lists of them, given back by ``load_checkpoint``.

    Returns:
        What identifies this state among those of its name.

    Raises:
        CheckpointError: a member could not write; what was saved before is still there, and the session goes on. Or
            something cannot be saved: nothing is shared, or a plain tensor has more than one element.
        NetworkError: a member was lost.

    Cost: 3 exchanges between the driver and the members; no messages between members.
    """
    check_name(name)
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise CheckpointError(f"keep={keep!r}: at least the state that is saved now must be kept. Use 1 or more.")
    packer = Packer()
    structure = packer.pack({"model": _model_state(model), "optimizer": _optimizer_state(optimizer), "extra": extra})
    session = _session_of(packer.tensors)
    session.sync()
    known = _known(session, name, strict=False)
    counter, id = 1 + max((counter for counter, _ in known), default=0), system_entropy(ID_BYTES)
    numbers = [tensor.handle.number for tensor in packer.tensors]
    try:
        session.ask_all(Save(session.id, name, counter, id, numbers, structure), Saved)
    except CheckpointError:
        with suppress(ShareTorchError):
            _prune(session, name, [id])
        raise
    whole = [id for (_, id), holders in sorted(known.items()) if len(holders) == len(session.names()) - 1]
    kept = whole[-(keep - 1) :] if keep > 1 else []
    _prune(session, name, [id for _, id in known if id not in kept])
    return _written(counter, id)


def load_checkpoint(
    name: str,
    model: nn.Module | None,
    optimizer: Optimizer | None,
    *parties: Member,
    crypto_provider: Member,
    field: int | None = None,
    protocol: str | None = None,
    state: str | None = None,
) -> dict[str, Any]:
    """Resume from the newest state that all members have: shares come from their disks, under new numbers.

    Parameters are exchanged in place, so an optimizer made before goes on with them; gradients are dropped. The model
    may be plain, or shared in a session that has ended. If anything is refused, model and optimizer stay as they are.

    Args:
        name: as saved.
        model: of the same form as saved; None leaves it out.
        optimizer: over the model's parameters, of the same kind as saved; None leaves it out.
        parties: as when saving, in the same order.
        crypto_provider: as when saving.
        field: as for ``share``.
        protocol: as for ``share``.
        state: one that ``save_checkpoint`` returned, instead of the newest.

    Returns:
        What was saved as ``extra``.

    Raises:
        CheckpointError: there is none that this driver saved with these members, a file is damaged, or the model or
            the optimizer does not fit.
        NetworkError: a member was lost.
    """
    check_name(name)
    session = session_for(parties, crypto_provider, field, protocol)
    if not isinstance(session, NetworkedSession):
        raise _not_networked(session)
    session.sync()
    id, count = _chosen(session, name, state)
    numbers = [new_id() for _ in range(count)]
    session.adopt(numbers)
    try:
        loaded: list[Loaded] = session.ask_all(Load(session.id, name, id, numbers), Loaded)
        found = _restored(session, numbers, loaded)
        change = _model_change(model, found["model"])
        _check_optimizer(optimizer, found["optimizer"])
    except BaseException:
        for number in numbers:
            session.free(number)
        raise
    change()
    if optimizer is not None:
        optimizer.load_state_dict(found["optimizer"])
    extra: dict[str, Any] = found["extra"]
    return extra


# --------------------------------------------------------------------------------------------------------- which states


def _known(session: NetworkedSession, name: str, strict: bool) -> dict[tuple[int, bytes], dict[int, int]]:
    """States of a name by counter and id: how many objects the file of each member holds, by rank.

    Raises:
        CheckpointError: a member has a file that cannot be read, and ``strict`` is set.
    """
    answers: list[Checkpoints] = session.ask_all(ListCheckpoints(session.id, name), Checkpoints)
    known: dict[tuple[int, bytes], dict[int, int]] = {}
    for rank, reply in enumerate(answers):
        if reply.problems and strict:
            raise CheckpointError(f"At {session.names()[rank]}: {reply.problems[0]}")
        for entry in reply.entries:
            known.setdefault((entry.counter, entry.checkpoint), {})[rank] = entry.objects
    return known


def _chosen(session: NetworkedSession, name: str, state: str | None) -> tuple[bytes, int]:
    """Id and number of objects of the state to load."""
    members = len(session.names()) - 1
    known = _known(session, name, strict=True)
    whole = {key: holders for key, holders in known.items() if len(holders) == members}
    if state is not None:
        whole = {key: holders for key, holders in whole.items() if _written(*key) == state}
    if not whole:
        names = [session.names()[rank] for rank in range(members)]
        partly = {names[rank] for holders in known.values() for rank in holders}
        which = f"{name!r}" if state is None else f"{name!r} in the state {state!r}"
        only = f" Only {', '.join(sorted(partly))} have parts of one." if partly else ""
        raise CheckpointError(
            f"There is no checkpoint {which} that you saved and that all of {', '.join(names)} have, in this order and "
            f"this ring.{only} Name the same members as when saving, and see that their state folders are the same."
        )
    (_, id), holders = max(whole.items())
    if len(set(holders.values())) != 1:
        raise CheckpointError(f"The members hold different numbers of objects under one state of {name!r}.")
    return id, next(iter(holders.values()))


def _written(counter: int, id: bytes) -> str:
    return f"{counter}-{id.hex()}"


def _prune(session: NetworkedSession, name: str, ids: Sequence[bytes]) -> None:
    if ids:
        session.ask_all(Prune(session.id, name, list(ids)), Synced)


# ------------------------------------------------------------------------------------------------- what is saved


def _model_state(model: nn.Module | None) -> dict[str, Any] | None:
    if model is None:
        return None
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"model.{name} is no tensor but a {type(value).__name__}; pass such things as extra.")
    return dict(state)


def _optimizer_state(optimizer: Optimizer | None) -> dict[str, Any] | None:
    return None if optimizer is None else dict(optimizer.state_dict())


def _session_of(tensors: Sequence[SharedTensor]) -> NetworkedSession:
    """The one session of all tensors."""
    sessions: dict[int, Session] = {id(tensor.session): tensor.session for tensor in tensors}
    if not sessions:
        raise CheckpointError(
            "There is nothing shared in what is to be saved. Share the model first, or keep it with torch.save."
        )
    if len(sessions) > 1:
        raise CheckpointError(
            f"What is to be saved is shared in {len(sessions)} sessions: {', '.join(map(repr, sessions.values()))}. "
            "Save what each of them holds under a name of its own."
        )
    session = sessions.popitem()[1]
    if not isinstance(session, NetworkedSession):
        raise _not_networked(session)
    return session


def _not_networked(session: Session) -> CheckpointError:
    return CheckpointError(
        f"{session!r} has all its members in this process, where they keep no files. Use workers of st.connect, or "
        "open the model with model.get() and keep it with torch.save."
    )


# ----------------------------------------------------------------------------------------------- what is restored


def _restored(session: NetworkedSession, numbers: Sequence[int], loaded: Sequence[Loaded]) -> dict[str, Any]:
    """What was saved, with tensors shared in the new session.

    Raises:
        CheckpointError: the members do not hold the same.
    """
    if any(other != loaded[0] for other in loaded) or len(loaded[0].shapes) != len(numbers):
        raise CheckpointError(
            "The members hold different things under one state of a checkpoint: a file was exchanged. Move this "
            "state away at all members; the one before is taken then."
        )
    shapes = loaded[0].shapes
    handles: dict[int, Handle] = {}

    def tensor(entry: Entry) -> SharedTensor:
        if entry.place >= len(shapes) or list(entry.shape) != shapes[entry.place]:
            raise ValueError("a wrong shape")
        handle = handles.get(entry.place) or Handle(session, numbers[entry.place], entry.encoding)
        handles[entry.place] = handle
        made = SharedTensor(handle, torch.empty(entry.shape, dtype=entry.dtype, device="meta"), entry.requires_grad)
        made.bits = entry.bits
        return made

    found: dict[str, Any] = unpack(loaded[0].structure, tensor)
    if not isinstance(found, dict) or found.keys() != {"model", "optimizer", "extra"}:
        raise CheckpointError("This checkpoint is of another form than this version of sharetorch writes.")
    return found


def _model_change(model: nn.Module | None, state: Any) -> Callable[[], Any]:
    """What changes the model, after everything that may be wrong was checked.

    Raises:
        CheckpointError: the state is not that of such a model.
    """
    if model is None:
        return lambda: None
    if not isinstance(state, Mapping):
        raise CheckpointError("This checkpoint holds no model. Load it with model=None.")
    olds = model.state_dict(keep_vars=True)
    missing, unknown = sorted(olds.keys() - state.keys()), sorted(state.keys() - olds.keys())
    if missing or unknown:
        raise CheckpointError(
            f"The model is another one than was saved. It has {', '.join(missing) or 'nothing'} that the checkpoint "
            f"lacks, and lacks {', '.join(unknown) or 'nothing'} that it holds."
        )
    for name, old in olds.items():
        if old.shape != state[name].shape:
            raise CheckpointError(
                f"{name} has shape {tuple(old.shape)} in the model and {tuple(state[name].shape)} in the checkpoint. "
                "Make the model as it was."
            )
    news = {id(old): state[name] for name, old in olds.items()}
    tensors = list({id(old): old for old in olds.values()}.values())
    return lambda: exchange(model, tensors, lambda old: news[id(old)])


def _check_optimizer(optimizer: Optimizer | None, state: Any) -> None:
    if optimizer is None:
        return
    if not isinstance(state, Mapping):
        raise CheckpointError("This checkpoint holds no optimizer. Load it with optimizer=None.")
    own = [len(group["params"]) for group in optimizer.param_groups]
    saved = [len(group["params"]) for group in state["param_groups"]]
    if own != saved:
        raise CheckpointError(
            f"The optimizer has groups of {own} parameters, and {saved} were saved. Make it as it was, over the "
            "parameters of the same model."
        )
