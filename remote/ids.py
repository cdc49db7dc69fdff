"""``ID_PROVIDER``: the numbers that tensors get when they are asked for their ``id``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sharetorch.mpc.errors import IdNotUniqueError
from sharetorch.mpc.session import new_id

_LARGEST = 2**63


class IdProvider:
    """Gives numbers no object of this process has: those it was told to give next, else fresh ones.

    Args:
        given_ids: numbers to give, from the end of the list on; the list itself is used up.
    """

    def __init__(self, given_ids: list[int] | None = None) -> None:
        self._next = [] if given_ids is None else given_ids
        self._given: set[int] = set()
        self._recorded: list[int] | None = None

    def pop(self, *args: Any) -> int:
        """A number that was never given before, unless it was set without a check. Arguments change nothing."""
        number = self._next.pop() if self._next else self._fresh()
        self._given.add(number)
        if self._recorded is not None:
            self._recorded.append(number)
        return number

    def _fresh(self) -> int:
        while (number := new_id()) in self._given:
            pass
        return number

    def set_next_ids(self, given_ids: Iterable[int], check_ids: bool = True) -> None:
        """Give these numbers next, the last of them first.

        Args:
            given_ids: from 0 to 2^63 - 1.
            check_ids: whether to refuse numbers that were given before.

        Raises:
            IdNotUniqueError: a number was given before, or stands here twice.
            ValueError: a number out of range.
        """
        numbers = list(given_ids)
        wrong = [number for number in numbers if type(number) is not int or not 0 <= number < _LARGEST]
        if wrong:
            raise ValueError(f"Numbers of objects are integers from 0 to 2^63 - 1; these are not: {wrong}.")
        taken = sorted(self._given.intersection(numbers) | {number for number in numbers if numbers.count(number) > 1})
        if check_ids and taken:
            raise IdNotUniqueError(f"{taken} would name two objects each; leave them out, or pass check_ids=False.")
        self._next.extend(numbers)

    def start_recording_ids(self) -> None:
        """Note the numbers given from now on."""
        self._recorded = []

    def get_recorded_ids(self, continue_recording: bool = False) -> list[int]:
        """The numbers given since ``start_recording_ids``, in order; noting ends unless it is to go on."""
        recorded = self._recorded or []
        self._recorded = recorded if continue_recording else None
        return list(recorded)


ID_PROVIDER = IdProvider()
"""Where ``x.id`` of local tensors comes from. Workers number what is sent to them by themselves."""
