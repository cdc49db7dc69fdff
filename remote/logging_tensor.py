"""``LoggingTensor``: a layer that says which functions pass through it. An example of a tensor type of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from sharetorch.remote.custom import AbstractTensor
from sharetorch.remote.overload import overloaded


class LoggingTensor(AbstractTensor):
    """Logs names of functions, never values.

    ``add`` and ``manual_add`` show the two ways to overload a method, ``torch.add`` and ``torch.nn.functional.relu``
    how to overload functions. Other functions are logged by ``on_function_call``; other methods pass in silence.

    Attributes:
        write: what takes a line; set another on the class to send the log elsewhere than to the screen.
    """

    write: ClassVar[Callable[[str], None]] = staticmethod(print)

    @overloaded.method
    def add(self, _self: Any, *args: Any, **kwargs: Any) -> Any:
        """``x.add(y)`` and ``x + y``: the decorator takes the layer off and puts it on again."""
        LoggingTensor.write("Log method add")
        return _self.add(*args, **kwargs)

    def manual_add(self, other: Any) -> Any:
        """``x.manual_add(y)``: the same by hand, for this layer on both sides or on one."""
        LoggingTensor.write("Log method manual_add")
        inner = other.child if isinstance(other, LoggingTensor) else other
        return self.on(self.child.add(inner))

    @overloaded.module
    def torch(module: Any) -> None:
        """Functions of ``torch``."""

        @overloaded.function
        def add(*args: Any, **kwargs: Any) -> Any:
            LoggingTensor.write("Log function torch.add")
            first, *rest = args
            return first.add(*rest, **kwargs)

        @overloaded.module
        def nn(module: Any) -> None:
            @overloaded.module
            def functional(module: Any) -> None:
                @overloaded.function
                def relu(x: Any, inplace: bool = False) -> Any:
                    LoggingTensor.write("Log function torch.nn.functional.relu")
                    return x.relu_() if inplace else x.relu()

                module.relu = relu

            module.functional = functional

        module.add = add
        module.nn = nn

    @classmethod
    def on_function_call(cls, command: Any) -> None:
        """Log a function without an overload."""
        LoggingTensor.write(f"Default log {command[0]}")
