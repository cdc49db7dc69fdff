"""The messages between a driver and a worker, and between workers: all there are.

A message is a MessagePack array: the name of its kind, then its fields in order (``remote/wire.py`` says how values
are written). Requests are answered by one reply. Whoever sends another kind, a field of another type, or one field too
many or too few is answered by ``Failed``.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages."""


class Meta(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is public about an object.

    Attributes:
        number: of the object at the worker.
        kind: "tensor", "fixed", "shared", "pointer", "plan", "protocol", "model", "dataset" or "config".
        dtype: name of the element type; empty for objects that are no tensors.
        shape: sizes.
        strides: of the tensor in its storage.
        offset: of the first element in its storage.
        tags: by which ``search`` finds it.
        description: text of its owner.
    """

    number: int
    kind: str
    dtype: str = ""
    shape: list[int] = []
    strides: list[int] = []
    offset: int = 0
    tags: list[str] = []
    description: str | None = None


class Store(Message, frozen=True, tag="store"):
    """Keep values. Reply: ``Made``.

    Attributes:
        values: what to keep.
        numbers: of the objects, in order; empty lets the worker choose.
        tags: of each object.
        description: of each object.
        readers: ids of those who may have the values back; None sets no limit beyond the worker's own policy.
        owner: on whose behalf they are sent, if not the sender's own.
    """

    values: list[Any]
    numbers: list[int] = []
    tags: list[str] = []
    description: str | None = None
    readers: list[str] | None = None
    owner: str | None = None


class Execute(Message, frozen=True, tag="execute"):
    """Run one operation of the worker's list. Reply: ``Made``.

    Attributes:
        operator: such as "aten.mul.Tensor".
        args: its arguments, objects as ``Ref``.
        kwargs: its keyword arguments.
        forget: numbers of objects to delete first, as by ``Forget``.
        results: numbers of the objects that come to be, free ones, in order; empty lets the worker choose.
    """

    operator: str
    args: list[Any]
    kwargs: dict[str, Any]
    forget: list[int] = []
    results: list[int] = []


class Invoke(Message, frozen=True, tag="invoke"):
    """Run a method of ShareTorch's own on one object, such as "fix_precision". Reply: ``Made``."""

    method: str
    number: int
    args: list[Any]
    kwargs: dict[str, Any]


class Call(Message, frozen=True, tag="call"):
    """Run a plan or protocol the worker holds. Reply: ``Made``, with the form of the results.

    Attributes:
        number: of the plan.
        args: numbers, and objects as ``Ref``.
        kwargs: likewise.
        forget: numbers of objects to delete first, as by ``Forget``.
    """

    number: int
    args: list[Any]
    kwargs: dict[str, Any]
    forget: list[int] = []


class Fetch(Message, frozen=True, tag="fetch"):
    """Hand out values. Reply: ``Values``.

    Attributes:
        numbers: of the objects.
        remove: whether the worker forgets them.
        user: on whose behalf.
        reason: for the owner, who decides when the policy does not allow it.
        ask: only whether it would be allowed; no value is handed out.
    """

    numbers: list[int]
    remove: bool
    user: str | None = None
    reason: str | None = None
    ask: bool = False


class Forward(Message, frozen=True, tag="forward"):
    """Send objects straight to another worker. Reply: ``Made``, with their numbers there.

    Attributes:
        numbers: of the objects.
        worker: id of the other worker.
        remove: whether this one forgets them.
        user: on whose behalf.
    """

    numbers: list[int]
    worker: str
    remove: bool
    user: str | None = None


class Forget(Message, frozen=True, tag="forget"):
    """Delete objects. Reply: ``Done``; unknown numbers are passed over."""

    numbers: list[int]


class Clear(Message, frozen=True, tag="clear"):
    """Delete all objects the caller may delete. Reply: ``Done``."""


class Search(Message, frozen=True, tag="search"):
    """Find objects. Reply: ``Found``.

    Attributes:
        query: tags an object must all have; empty finds everything that is tagged.
        number: an object's number, instead of tags.
    """

    query: list[str]
    number: int | None = None


class Inspect(Message, frozen=True, tag="inspect"):
    """What is public about one object. Reply: ``Found``."""

    number: int


class Listing(Message, frozen=True, tag="listing"):
    """What is public about all objects of the caller's own. Reply: ``Found``."""


class Lend(Message, frozen=True, tag="lend"):
    """Let somebody else use an object of the caller's, as a pointer to it goes there. Reply: ``Found``.

    The one object found is the other's own to use and to delete, another name for the same memory; or the object itself
    where it needs none.

    Attributes:
        number: of the object.
        to: id of whoever gets the pointer.
    """

    number: int
    to: str


class Label(Message, frozen=True, tag="label"):
    """Tag and describe an object. Reply: ``Done``. None leaves as it is."""

    number: int
    tags: list[str] | None = None
    description: str | None = None


class Release(Message, frozen=True, tag="release"):
    """Let users have an object's value, by its owner. Reply: ``Done``."""

    number: int
    users: list[str]


class Train(Message, frozen=True, tag="train"):
    """Train a model the worker holds on one of its data sets. Reply: ``Values``.

    The reply holds the last loss, or None if the caller may not have it, and an empty list; or None and the forms of
    batches for which graphs are missing, with nothing done.

    Attributes:
        config: number of the training settings.
        dataset: key of the data set.
        options: "steps": graphs for forms that were missing; "user": on whose behalf.
    """

    config: int
    dataset: str
    options: dict[str, Any] = {}


class Evaluate(Message, frozen=True, tag="evaluate"):
    """Evaluate a model on one of the worker's data sets. Reply: ``Values``.

    The reply holds the figures and an empty list; or as for ``Train``.

    Attributes:
        config: number of the training settings.
        dataset: key of the data set.
        options: as for ``Train``; "wanted": which figures.
    """

    config: int
    dataset: str
    options: dict[str, Any] = {}


class Made(Message, frozen=True, tag="made"):
    """Objects that came to be.

    Attributes:
        results: one entry for each result, None where an operation gave none.
        form: "one"; "several"; "written" where the one result is the first argument, changed in place; or for plans a
            form of ``plans/forms.py`` whose leaves are places in ``results``.
    """

    results: list[Meta | None]
    form: Any = "one"


class Values(Message, frozen=True, tag="values"):
    """Values that were asked for."""

    values: list[Any]


class Found(Message, frozen=True, tag="found"):
    """Objects that were found."""

    objects: list[Meta]


class Done(Message, frozen=True, tag="done"):
    """It is done."""


class Failed(Message, frozen=True, tag="failed"):
    """It was not done.

    Attributes:
        kind: name of the error's class.
        text: its message.
    """

    kind: str
    text: str


Request = (
    Store | Execute | Invoke | Call | Fetch | Forward | Forget | Clear | Search | Inspect | Listing | Lend | Label
    | Release | Train | Evaluate
)  # fmt: skip
Reply = Made | Values | Found | Done | Failed
