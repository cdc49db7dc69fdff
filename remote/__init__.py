"""Workers: the members of a computation by name, with the objects they hold."""

from sharetorch.remote.worker import VirtualWorker

__all__ = ["VirtualWorker"]
