"""Errors of a federation of real clients.

    DeploymentError                  a federation, or one client's part in it, cannot go on
    ├── EnrolmentRefusedError        a member of the group who is not enrolled, or not under this name
    ├── ReplacedError                another connection with the same certificate has taken the place of this one
    ├── TaskRefusedError             a client was asked for more than it allows
    ├── TooFewClientsError           not enough clients are there for a sum
    └── MisbehaviourError            the other end does not keep to the protocol

Errors of a masked sum are those of ``fl/masking/errors.py``, errors of connections those of ``mpc/errors.py``.
"""

from collections.abc import Mapping

from sharetorch.mpc.errors import ShareTorchError


class DeploymentError(ShareTorchError, RuntimeError):
    """A federation, or one client's part in it, cannot go on."""


class EnrolmentRefusedError(DeploymentError, PermissionError):
    """A member of the group is not enrolled, or not under this name."""


class ReplacedError(DeploymentError):
    """Another connection with the same certificate has taken the place of this one."""


class TaskRefusedError(DeploymentError):
    """A client was asked for more than it allows."""


class TooFewClientsError(DeploymentError):
    """Not enough clients are there for a sum."""


class MisbehaviourError(DeploymentError):
    """The other end does not keep to the protocol."""


BY_NAME: Mapping[str, type[DeploymentError]] = {
    kind.__name__: kind for kind in (EnrolmentRefusedError, ReplacedError, TooFewClientsError, MisbehaviourError)
}
"""What a server may tell a client it is refused for."""
