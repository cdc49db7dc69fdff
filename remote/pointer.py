"""``PointerTensor``: a tensor that is elsewhere.

It is a ``torch.Tensor`` without data: shape, strides and dtype of an object of some worker. PyTorch's own autograd
engine records on the pointer's side; every aten operation it comes to is one request to the worker, and gives pointers
again.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import torch
from torch import Tensor

from sharetorch.mpc.errors import (
    GetNotPermittedError,
    InvalidTensorForRemoteGet,
    MalformedRequestError,
    RemoteOperationError,
    RevealError,
    UnsupportedOperationError,
)
from sharetorch.mpc.tensor.location import user_line
from sharetorch.nn.exchange import become
from sharetorch.remote import operators, wire
from sharetorch.remote.claimed import Claimed
from sharetorch.remote.messages import Execute, Fetch, Forward, Invoke, Made, Meta, Release
from sharetorch.remote.moving import Move
from sharetorch.remote.node import Link
from sharetorch.remote.objects import KINDS
from sharetorch.remote.requests import Handle, Operands, View, metadata_of
from sharetorch.remote.wire import DTYPES, Ref


class PointerTensor(Claimed, torch.Tensor):
    """A tensor at a worker.

    Made by ``x.send(worker)``, by operations on pointers, by ``worker.search`` and ``worker.remote.torch``.

    Attributes:
        handle: the claim on the object.
    """

    handle: Handle | View

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let the worker run the operation."""
        if func is _detach:
            return args[0]._again()
        if func is _t or func is _view:
            view = args[0]._transposed() if func is _t else args[0]._viewed(args[1])
            if view is not None:
                return view
        if func is _item:
            raise RemoteOperationError(
                f"The value of a pointer is needed here{user_line()}, and it is at a worker. "
                "Fetch it with .get() first."
            )
        known = operators.known_as(func)
        if known.reshapes:
            args[0]._separate()
        operands = Operands(known, PointerTensor, args, kwargs)
        link = operands.link
        if link is None:
            raise UnsupportedOperationError(f"{func} has no operand at a worker{user_line()}.")
        reply: Made = link.operate(known.name, operands)
        form = reply.form
        if known.reshapes:
            with torch.utils._mode_utils.no_dispatch():
                func(*args, **(kwargs or {}))
        if form == "written":
            return args[0]
        if known.several:
            torch.autograd.graph.increment_version(args[0])  # torch counts writes to single tensors only
        results = [operands.result(meta, pointer_to) for meta in reply.results]
        return results[0] if form == "one" else results

    def _again(self) -> PointerTensor:
        """A second tensor with the same claim: what ``detach()`` gives, without a message."""
        again: PointerTensor = torch.Tensor._make_wrapper_subclass(
            PointerTensor, self.shape, strides=self.stride(), storage_offset=self.storage_offset(), dtype=self.dtype
        )
        again.handle = self.handle
        self.handle.shared = True
        return again

    def _transposed(self) -> PointerTensor | None:
        """Its transpose, without a message; None if it is no matrix."""
        shape, strides, handle = self.shape, self.stride(), self.handle
        if len(shape) != 2:
            return None
        view: PointerTensor = torch.Tensor._make_wrapper_subclass(
            PointerTensor,
            (shape[1], shape[0]),
            strides=(strides[1], strides[0]),
            storage_offset=self.storage_offset(),
            dtype=self.dtype,
        )
        if isinstance(handle, View):
            twice = handle.form == "t"
            view.handle = handle.base if twice else View(handle.claim(), "t", [shape[1], shape[0]])
        else:
            view.handle = View(handle, "t", [shape[1], shape[0]])
        return view

    def _viewed(self, sizes: Any) -> PointerTensor | None:
        """Itself in another shape, without a message; None if that cannot be told here."""
        count, handle = self.numel(), self.handle
        shape = _filled(sizes, count)
        if math.prod(shape) != count or min(shape, default=1) < 1 or not self.is_contiguous():
            return None
        view: PointerTensor = torch.Tensor._make_wrapper_subclass(
            PointerTensor, shape, strides=_contiguous(shape), storage_offset=self.storage_offset(), dtype=self.dtype
        )
        view.handle = View(handle.claim() if isinstance(handle, View) else handle, "view", shape)
        return view

    def _separate(self) -> None:
        """Let this tensor have an object of its own, a view of the same memory, before its shape changes."""
        handle = self.handle
        if isinstance(handle, View):
            self.handle = handle = handle.claim()
        if handle.shared:
            reply: Made = handle.link.request(Execute("aten.alias.default", [Ref(handle.number)], {}))
            (meta,) = reply.results
            assert meta is not None
            self.handle = Handle(handle.link, meta)

    @property
    def child(self) -> PointerTensor:
        """The pointer itself: there are no layers of wrappers, but the tutorials look below them."""
        return self

    def get(self, user: str | None = None, reason: str | None = None, **_: Any) -> Tensor:
        """Fetch the tensor, and its gradient if it has one; the worker forgets it.

        Args:
            user: on whose behalf, where the worker's policy asks.
            reason: for the owner, who decides if the policy does not allow it.

        Raises:
            GetNotPermittedError: the policy does not allow it.
            ObjectNotFoundError: the worker no longer has it.
        """
        value = self._value(True, user, reason)
        if value.dtype.is_floating_point and self.is_leaf:
            value.requires_grad_(self.requires_grad)
            if isinstance(self.grad, PointerTensor):
                value.grad = self.grad.get(user, reason)
        return value

    def _value(self, remove: bool, user: str | None, reason: str | None) -> Tensor:
        handle = self.handle
        remove = remove and not handle.shared
        value: Tensor = handle.link.request(Fetch([handle.number], remove, user, reason)).values[0]
        if remove:
            handle.drop()
        return value

    def get_(self, user: str | None = None, reason: str | None = None) -> Tensor:
        """Fetch the tensor in place: the pointer becomes the tensor."""
        needs_grad, grad = self.requires_grad and self.is_leaf, self.grad
        become(self, self._value(False, user, reason).requires_grad_(needs_grad))
        self.grad = grad.get(user, reason) if isinstance(grad, PointerTensor) else None
        return self

    def fetched(self, user: str | None = None, reason: str | None = None) -> Tensor:
        """The tensor's value; the worker keeps it until the last pointer goes."""
        return self._value(False, user, reason)

    def move(self, worker: Any, requires_grad: bool = False, user: str | None = None) -> Any:
        """Let the tensor go straight to another worker; this pointer follows it.

        Args:
            worker: the destination; the local worker gives the tensor itself.
            requires_grad: whether gradients flow back to where it came from; so do those of results of operations.
            user: on whose behalf, where the worker's policy asks.

        Returns:
            This pointer; a new one if gradients flow back; a tensor if the destination is the local worker.

        Raises:
            GetNotPermittedError: the policy does not let the destination have it.
        """
        if requires_grad or (self.requires_grad and not self.is_leaf and torch.is_grad_enabled()):
            return Move.apply(self, worker, user)  # type: ignore[no-untyped-call]
        return self.move_(worker, user)

    def move_(self, worker: Any, user: str | None = None) -> Any:
        """Let the tensor go to another worker, in place; its gradient goes with it."""
        if worker is self.location:
            return self
        if worker is self.owner:
            return self.get(user)
        grad = self.grad
        become(self, self.forwarded(worker, remove=False, user=user).requires_grad_(self.requires_grad))
        if isinstance(grad, PointerTensor):
            self.grad = grad.move_(worker, user)
        return self

    def forwarded(self, worker: Any, remove: bool, user: str | None = None) -> Any:
        """Let the worker send its tensor straight to another one.

        Args:
            worker: the other one; the local worker gives the tensor itself.
            remove: whether this worker forgets it.
            user: on whose behalf.
        """
        handle = self.handle
        if worker is self.owner:
            return handle.link.request(Fetch([handle.number], remove, user)).values[0]
        there = handle.link.owner.link(worker.id)
        (meta,) = handle.link.request(Forward([handle.number], worker.id, remove, user)).results
        if remove:
            handle.drop()
        return pointer_to(meta, there)

    def remote_get(self) -> PointerTensor:
        """Let the worker fetch what its pointer points to; this pointer then points to the value. In place.

        Raises:
            InvalidTensorForRemoteGet: the object is no pointer.
        """
        if self.handle.kind != "pointer":
            raise InvalidTensorForRemoteGet(
                f"remote_get() needs a pointer to a pointer; object {self.handle.number} at {self.location.id} is a "
                f"{self.handle.kind}. Use get()."
            )
        become(self, self.invoke("get"))
        return self

    mid_get = remote_get

    def remote_send(self, worker: Any) -> PointerTensor:
        """Let the worker send its tensor on and keep a pointer to it, to which this one then points. In place."""
        become(self, self.invoke("send", worker.id))
        return self

    def copy(self) -> PointerTensor:
        """A second object with the same values, at the same worker; gradients flow through, as with ``clone()``."""
        return self.clone()  # type: ignore[return-value]

    def invoke(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Let the worker run a method of ShareTorch's own on the tensor; gives a pointer to the result."""
        handle = self.handle
        reply: Made = handle.link.request(Invoke(method, handle.number, list(args), kwargs))
        return pointer_to(reply.results[0], handle.link)  # type: ignore[arg-type]

    def fix_precision(
        self, precision_fractional: int | None = None, base: int = 10, *, truncation: str = "probabilistic", **_: Any
    ) -> PointerTensor:
        """Let the worker write its tensor in fixed point; gives a new pointer."""
        return self.invoke("fix_precision", precision_fractional, base, truncation)  # type: ignore[no-any-return]

    fix_prec = fix_precision

    def float_precision(self) -> PointerTensor:
        """Let the worker decode its fixed-precision tensor; gives a new pointer."""
        return self.invoke("float_precision")  # type: ignore[no-any-return]

    float_prec = float_precision

    def refresh(self) -> PointerTensor:
        """Let the worker refresh the shares of its shared tensor; gives a new pointer."""
        return self.invoke("refresh")  # type: ignore[no-any-return]

    def share(self, *workers: Any, crypto_provider: Any = None, **options: Any) -> PointerTensor:
        """Let the worker split its tensor into shares, which go from it straight to the parties.

        Returns:
            A pointer to the handle of the shared tensor; ``get()`` fetches the handle.

        Raises:
            GetNotPermittedError: the caller may not read the tensor; whoever holds a handle can open it.
        """
        contribute = getattr(self.handle.link.worker, "contribute", None)
        if contribute is not None:
            return contribute(self, workers, crypto_provider=crypto_provider, **options)  # type: ignore[no-any-return]
        provider = None if crypto_provider is None else crypto_provider.id
        return self.invoke("share", [worker.id for worker in workers], provider, options)  # type: ignore[no-any-return]

    def allow(self, user: str | None = None) -> bool:
        """Whether the worker's policy lets this user have the tensor."""
        try:
            self.handle.link.request(Fetch([self.handle.number], False, user, None, True))
        except GetNotPermittedError:
            return False
        return True

    def release(self, *users: str) -> PointerTensor:
        """Let further users have the tensor; only its owner may."""
        self.handle.link.request(Release(self.handle.number, list(users)))
        return self

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return describe(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RevealError("A pointer cannot be pickled or saved: its data is at a worker. Save x.get() instead.")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied: Any = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        elif self.is_leaf:
            copied.requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return copied


KINDS[PointerTensor] = "pointer"

_item = torch.ops.aten._local_scalar_dense.default
_detach = torch.ops.aten.detach.default
_t, _view = torch.ops.aten.t.default, torch.ops.aten.view.default


def _filled(sizes: Any, count: int) -> list[int]:
    """Sizes with -1 replaced by what is left; what does not fit is left to the worker's torch."""
    if -1 not in sizes:
        return list(sizes)
    known = math.prod(size for size in sizes if size != -1)
    return [count // known if size == -1 and known > 0 else size for size in sizes]


def _contiguous(sizes: list[int]) -> list[int]:
    strides, step = [], 1
    for size in reversed(sizes):
        strides.append(step)
        step *= size
    return strides[::-1]


def pointer_to(meta: Meta, link: Link, owned: bool = True, requires_grad: bool = False) -> PointerTensor:
    """A pointer to an object of a worker."""
    pointer: PointerTensor = torch.Tensor._make_wrapper_subclass(
        PointerTensor,
        meta.shape,
        strides=meta.strides,
        storage_offset=meta.offset,
        dtype=DTYPES[meta.dtype],
        requires_grad=requires_grad,
    )
    pointer.handle = Handle(link, meta, owned)
    return pointer


def describe(x: PointerTensor) -> str:
    """Text of a pointer: where from, where to, tags, shape and description."""
    chain = "Parameter>" if isinstance(x, torch.nn.Parameter) else ""
    chain += "AutogradTensor>" if x.requires_grad else ""
    lines = [f"{chain}[PointerTensor | {x.owner.id}:{x.id} -> {x.location.id}:{x.id_at_location}]"]
    if x.handle.tags:
        lines.append("\tTags: " + "".join(f"{tag} " for tag in x.handle.tags))
    if x.handle.tags or x.handle.description:
        lines.append(f"\tShape: {x.shape}")
    if x.handle.description:
        lines.append(f"\tDescription: {x.handle.description.strip().splitlines()[0]}...")
    return "\n".join(lines)


def _pack(x: PointerTensor) -> bytes:
    """The claim on the object travels with the pointer, unless the receiver gets one of its own."""
    handle, meta = x.handle, metadata_of(x)
    number, owned = handle.link.lend(handle.number), handle.owned
    if number == handle.number:
        handle.drop()
    else:
        meta, owned = msgspec.structs.replace(meta, number=number), True
    return wire.encode([handle.link.worker.id, meta, owned])


def _unpack(data: bytes, node: Any) -> PointerTensor:
    location, meta, owned = wire.Decoder(tuple[str, Meta, bool], node).decode(data)
    numbers = [*meta.shape, *meta.strides, meta.offset, meta.number]
    if meta.dtype not in DTYPES or len(meta.shape) > 64 or any(number < 0 for number in numbers):
        raise MalformedRequestError("A pointer with wrong shape or dtype.")
    return pointer_to(meta, node.link(location), owned)


wire.register(16, PointerTensor, _pack, _unpack)
