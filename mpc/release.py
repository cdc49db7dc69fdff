"""Release of results by policy: what a member knows of every object of a session, and whether it may leave.

Members label what owners share (``source``), let a ``Book`` follow every command, and ``check`` a result's label before
they send their share of it. Nobody needs to be asked: labels come from public information only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sharetorch.mpc import linear
from sharetorch.mpc.following import after
from sharetorch.mpc.labels import Label, Shape, check, mixed, source
from sharetorch.mpc.policy import OPEN, PRIVATE, Policies, Policy, policy_of

__all__ = ["OPEN", "PRIVATE", "Book", "Label", "Policies", "Policy", "after", "check", "policy_of", "source"]


class Book:
    """Labels of all objects of a session at one member, by number.

    As long as no object is restricted, nothing but views is followed.

    Attributes:
        active: whether any object is restricted.
    """

    def __init__(self) -> None:
        self.active = False
        self._labels: dict[int, Label] = {}
        self._views: dict[int, set[int]] = {}

    def enter(self, number: int, label: Label | None) -> None:
        """Say what an object is that came from outside."""
        if label is not None:
            self._labels[number] = label
            self.active = self.active or label.restricted

    def label(self, number: int) -> Label | None:
        """What is known of an object; None if nobody restricts it."""
        return self._labels.get(number)

    def free(self, numbers: Iterable[int]) -> None:
        """Forget objects."""
        for number in numbers:
            self._labels.pop(number, None)
            together = self._views.pop(number, None)
            if together is not None:
                together.discard(number)
        if self.active and not self._labels:
            self.active = False

    def follow(
        self,
        operation: str,
        inputs: Sequence[int],
        shapes: Callable[[], tuple[Sequence[Shape], Sequence[Shape]]],
        outputs: Sequence[int],
        public: Mapping[str, Any],
    ) -> None:
        """Label a command's results. To be called after the command, before any result of it may leave.

        Args:
            operation: name of the command.
            inputs: numbers of its operands.
            shapes: gives the shapes of operands and results; asked only if needed.
            outputs: numbers of its results.
            public: its public arguments.
        """
        if self.active:
            ins, outs = shapes()
            labels = after(operation, [self._labels.get(number) for number in inputs], ins, outs, public)
            if operation in _WRITING:
                labels = tuple(
                    label if place < 0 else self._written(inputs[place], label)
                    for place, label in zip(_targets(public), labels, strict=True)
                )
            for number, label in zip(outputs, labels, strict=True):
                if label is not None:
                    self._labels[number] = label
        if operation in ("write_all", "descend"):
            for place, output in zip(_targets(public), outputs, strict=True):
                if place >= 0:
                    self._see_together(inputs[place], [output])
        elif operation in _SAME_MEMORY or (operation == "local" and public["function"] not in _FRESH):
            self._see_together(inputs[0], outputs)

    def _see_together(self, base: int, outputs: Sequence[int]) -> None:
        together = self._views.get(base)
        if together is None:
            together = self._views[base] = {base}
        for number in outputs:
            together.add(number)
            self._views[number] = together

    def _written(self, target: int, label: Label | None) -> Label | None:
        """Label what was written to, and all that shares its memory: of those nobody knows any more what lies where."""
        together = self._views.get(target, {target})
        for number in together:
            now = label if len(together) == 1 else mixed([self._labels.get(number), label])
            if now is None:
                self._labels.pop(number, None)
            else:
                self._labels[number] = now
        return self._labels.get(target)


def _targets(public: Mapping[str, Any]) -> list[int]:
    """Places of what is written to among the operands, in the order of results: the first one, or those told.

    Below 0 for a result that is a new object.
    """
    if "steps" in public:
        return [int(target) for first, _, _, second in public["steps"] for target in (first, second)]
    return [int(target) for target, _, _ in public["writes"]] if "writes" in public else [0]


_WRITING = frozenset({"write", "write_all", "descend"})


_SAME_MEMORY = frozenset({"write", "check_range", "maximum", "route"})
"""Commands of whose results one may be, or share memory with, the first operand: the latter two for one element."""

_FRESH = (
    linear.FUNCTIONS.keys()
    - linear.VIEWS
    - {"aten._unsafe_view.default", str(linear.GATHER_WINDOWS), str(linear.SCATTER_WINDOWS)}
)
"""Local operations whose results share no memory with their operands."""
