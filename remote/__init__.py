"""Workers: the members of a computation by name, with the objects they hold."""

from sharetorch.remote import (  # noqa: F401  (what they register takes effect)
    execution,
    methods,
    optimizing,
    secret_values,
    serving,
)
from sharetorch.remote.multi import MultiPointerTensor, combine_pointers
from sharetorch.remote.pointer import PointerTensor
from sharetorch.remote.worker import VirtualWorker

__all__ = ["MultiPointerTensor", "PointerTensor", "VirtualWorker", "combine_pointers"]
