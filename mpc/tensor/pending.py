"""Commands that wait: products a ReLU takes over, a ReLU a maximum goes before, gradients an optimizer takes over.

The truncation of a product and the comparison of a ReLU share one opening, and maxima taken before ReLU leave it a
fraction of its comparisons: relu(max(x)) = max(relu(x)). Both show only when the second operation comes. So the first
one waits until any other command of its session, a look at its results, or a look at the session's costs; a ReLU that
was passed over waits on, until somebody asks for it after all or something is written, and so does a gradient. The
user sees no difference.
"""

from __future__ import annotations

import copy
import weakref
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from sharetorch.mpc.errors import ShareTorchError
from sharetorch.mpc.fixedpoint import INTEGERS, Encoding
from sharetorch.mpc.protocols.bilinear import BilinearMap
from sharetorch.mpc.session import Session, Waiting
from sharetorch.mpc.tensor.shared import Handle, LateHandle, SharedTensor


class PendingHandle(LateHandle):
    """A claim on one result of a command that may still wait."""

    __slots__ = ("__weakref__", "pending")

    def __init__(self, pending: Pending, encoding: Encoding) -> None:
        super().__init__(pending.session, encoding)
        self.pending: Pending | None = pending
        pending.handles.append(weakref.ref(self))

    def _make(self) -> None:
        assert self.pending is not None
        self.pending.settle()

    def arrive(self, number: int) -> None:
        """Take the number of the result."""
        self._number, self.pending = number, None


class Pending(Waiting):
    """A command that waits; it is never given if nobody holds its results any more.

    Attributes:
        session: whose command it is.
        handles: of its results, in order.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.handles: list[weakref.ref[PendingHandle]] = []
        self._error: ShareTorchError | None = None
        self._given = False
        self._asked = session.costs.asked()
        session.wait(self)

    def settle(self) -> None:
        """Give the command, once.

        Raises:
            ShareTorchError: what it raises, every time it is asked for its results.
        """
        self.session.forget(self)
        if self._error is not None:
            raise copy.copy(self._error)
        if self._given:
            return
        with self.session.costs.on_behalf(self._asked), self.remembering():
            numbers = self.give()
        self.arrive(numbers)

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Give the command in the block; keep its error for later, but not the traceback, which holds operands."""
        self._given = True
        try:
            yield
        except ShareTorchError as error:
            self._error = copy.copy(error)
            raise

    def arrive(self, numbers: tuple[int, ...]) -> None:
        """Hand out the numbers of the results; those that nobody wants are freed."""
        for made, number in zip(self.handles, numbers, strict=True):
            handle = made()
            if handle is None:
                self.session.free(number)
            else:
                handle.arrive(number)

    def taken_over(self, numbers: tuple[int, ...]) -> None:
        """Another command has made the results."""
        self.session.forget(self)
        self._given = True
        self.arrive(numbers)

    @abstractmethod
    def give(self) -> tuple[int, ...]:
        """Give the command. Returns the numbers of its results."""


def waiting(x: Any, kind: type[Pending]) -> Any:
    """The command of that kind that would make ``x``, if it still waits; else None."""
    handle = x.handle
    pending = handle.pending if isinstance(handle, PendingHandle) else None
    return pending if isinstance(pending, kind) else None


class Product(Pending):
    """function(x, y) / divisor, and a bias added: the operands in this order."""

    def __init__(self, function: BilinearMap, operands: tuple[SharedTensor, ...], divisor: int, method: str) -> None:
        super().__init__(operands[0].session)
        self._operands = operands
        self._public: dict[str, Any] = {"function": function, "divisor": divisor, "method": method}

    def give(self) -> tuple[int, ...]:
        """The product alone."""
        return self._command("bilinear", 1, **self._public)

    @property
    def fits_relu(self) -> bool:
        """Whether truncation and ReLU can share an opening."""
        divisor = self._public["divisor"]
        return self.session.suite.truncates_with_relu and divisor & (divisor - 1) == 0

    def give_rectified(self) -> tuple[int, ...]:
        """Product and ReLU together: numbers of ReLU and bit. The product's own result arrives, too."""
        self.session.forget(self)
        public = {key: self._public[key] for key in ("function", "divisor")}
        with self.remembering():
            value, bit, product = self._command("rectified_product", 3, **public)
        self.arrive((product,))
        return value, bit

    def _command(self, name: str, outputs: int, **public: Any) -> tuple[int, ...]:
        operands, self._operands = self._operands, ()
        return self.session.command(name, *(operand.handle.number for operand in operands), outputs=outputs, **public)


class Gradient(Pending):
    """function(x, y) / divisor that nothing needs for now: the gradient of weights.

    Most optimizers add it to something and truncate the sum, so that the product itself need not be truncated. All that
    still wait when one is asked for are computed in the same rounds, and before anything else that waits: that came
    later, and may need them.

    Attributes:
        operands: x and y.
        function: the bilinear map.
        divisor: public.
    """

    patient = True

    def __init__(self, function: BilinearMap, operands: tuple[SharedTensor, SharedTensor], divisor: int) -> None:
        super().__init__(operands[0].session)
        self.operands: tuple[SharedTensor, ...] = operands
        self.function = function
        self.divisor = divisor

    def give(self) -> tuple[int, ...]:
        """With the others."""
        others = [made for made in self.session.all_waiting(Gradient) if made is not self]
        every = [self, *others]
        operands = [operand for made in every for operand in made.operands]
        terms = tuple((made.function, 2 * i, 2 * i + 1, made.divisor) for i, made in enumerate(every))
        with ExitStack() as remembering:
            for made in others:
                self.session.forget(made)
                remembering.enter_context(made.remembering())
            remembering.enter_context(self.session.without())
            numbers = self.session.command(
                "products",
                *(operand.handle.number for operand in operands),
                outputs=len(terms),
                terms=terms,
                method="probabilistic",
            )
        for made, number in zip(others, numbers[1:], strict=True):
            made.arrive((number,))
            made.operands = ()
        self.operands = ()
        return numbers[:1]

    def taken_over(self, numbers: tuple[int, ...]) -> None:
        """As of any command; the operands are let go."""
        super().taken_over(numbers)
        self.operands = ()

    def pass_over(self) -> None:
        """A command did without the truncated product: it waits on, until somebody asks for it after all."""
        self.patient, self.passed_over, self.lasting = False, True, True

    @property
    def digits(self) -> int:
        """By how many digits the product is truncated."""
        return self.divisor.bit_length() - 1


class Relu(Pending):
    """ReLU of ``x`` and its bit."""

    def __init__(self, x: SharedTensor) -> None:
        super().__init__(x.session)
        self.x: SharedTensor | None = x

    def give(self) -> tuple[int, ...]:
        """With the product that makes x, if that waits as well."""
        assert self.x is not None
        x, self.x = self.x, None
        product = waiting(x, Product)
        if product is not None and product.fits_relu:
            return product.give_rectified()  # type: ignore[no-any-return]
        return self.session.command("relu", x.handle.number, outputs=2)

    def pass_over(self) -> SharedTensor:
        """What ReLU is to be taken of, for an operation that goes first; it waits on."""
        assert self.x is not None
        self.passed_over = True
        return self.x


class Rectified(NamedTuple):
    """ReLU and its bit."""

    value: Handle
    bit: Handle


def rectified(x: SharedTensor) -> Rectified:
    """Claims on ReLU of x and its bit, to be computed when something else is."""
    pending = Relu(x)
    return Rectified(PendingHandle(pending, x.encoding), PendingHandle(pending, INTEGERS))
