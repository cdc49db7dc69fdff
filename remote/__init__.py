"""Workers: the members of a computation by name, with the objects they hold."""

from sharetorch.remote import execution, methods, secret_values, serving  # noqa: F401  (their handlers enter the table)
from sharetorch.remote import optimizing  # noqa: F401  (hooks into torch's optimizers)
from sharetorch.remote.multi import MultiPointerTensor, combine_pointers
from sharetorch.remote.pointer import PointerTensor
from sharetorch.remote.worker import VirtualWorker

__all__ = ["MultiPointerTensor", "PointerTensor", "VirtualWorker", "combine_pointers"]
