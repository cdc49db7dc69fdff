"""Every error of ShareTorch, in one tree.

    ShareTorchError
    ├── EncodingError              a number cannot be written in fixed point or in the ring
    │   ├── NotFiniteError         NaN or infinity
    │   ├── EncodingRangeError     too large for the encoding
    │   └── UnsupportedDtypeError  complex numbers and other types without an encoding
    ├── ModulusError               a modulus below 2, or one the operation cannot work with
    ├── DivisionByZeroError        division by the public number 0
    ├── ShapeError                 shapes that do not fit, or a mask that does not cover its secret
    ├── MembersError               too few parties, a party twice, the provider among the parties
    ├── MismatchError              operands that do not belong together
    │   ├── PartiesMismatchError   different parties or providers
    │   ├── PrecisionMismatchError different base or precision
    │   └── SessionMismatchError   different sessions
    ├── ObjectGoneError            the object behind a handle no longer exists
    ├── CorrelationReusedError     a triple, mask or stream would be used twice
    ├── PreparationError           a program cannot be prepared, or what was prepared cannot be kept or used
    ├── UnsupportedOperationError  an operation with no secure form here
    │   ├── RevealError            an operation that would open a secret by the way (bool(x), x.item(), ...)
    │   └── UnsupportedLayersError layers of a model that cannot be shared, all of them
    ├── ProtocolError              members got out of step: a defect, or a peer that misbehaves
    ├── RangeCheckError            debug mode found a value outside its range
    ├── RemoteError                a request to a worker failed or was refused
    │   ├── TensorsNotCollocatedException  operands at different places (also a MismatchError)
    │   ├── ObjectNotFoundError    no such object at the worker (also an ObjectGoneError)
    │   ├── GetNotPermittedError   the object's policy does not let the caller have it
    │   │   └── ReleaseRefusedError a policy does not release a result (also a GetNotPermittedError)
    │   ├── InvalidTensorForRemoteGet  remote_get without a pointer to a pointer
    │   ├── WorkerNotFoundException    no worker of that name is known
    │   ├── MalformedRequestError  bytes that are no message, or a message with wrong contents
    │   ├── OperationNotAllowedError   an operation outside the worker's list
    │   ├── LimitExceededError     larger than the worker allows
    │   ├── RemoteOperationError   the operation failed at the worker for a reason it keeps to itself
    │   └── PlanError              a plan that is not built, or cannot be
    │       └── PlanShapeError     a call of a plan with other shapes (also a ShapeError)
    ├── NetworkError               parties on different machines
    │   ├── WorkerUnreachableError nobody answers at the address (also a ConnectionRefusedError)
    │   ├── HandshakeError         a certificate, an identity or a session document is refused
    │   ├── ConnectionLostError    the other end closed, reset or went silent (also a ConnectionError)
    │   ├── DeadlineExceededError  no complete answer in time (also a TimeoutError)
    │   ├── FrameError             a frame is malformed, repeated or not the one due (also a ProtocolError)
    │   └── SessionEndedError      a session is over: which member, which operation, why, what to do
    ├── ConfigurationError         settings of a worker or a group that are wrong or incomplete
    ├── DataSourceError            a worker's data file is missing, broken or of another form than declared
    ├── CheckpointError            a checkpoint cannot be written, or is missing, damaged or of another session
    ├── IdNotUniqueError           a number for a second object
    ├── LabelError                 tags or a description that are none
    ├── SandboxError               create_sandbox() without torch in the names it was given
    ├── own tensor types
    │   ├── UnknownOverloadError   an overload of a function torch does not have
    │   ├── LayerMismatchError     two types of one's own in one operation (a MismatchError)
    │   ├── EmptyLayerError        a layer without a child
    │   ├── NotATensorError        a layer on something that is no tensor
    │   └── LostGradientError      a way on which the gradient would be lost
    ├── Paillier
    │   ├── KeySizeError           a key that is too short or has the wrong form
    │   ├── WrongKeyError          a key, or two operands, do not belong together (a MismatchError)
    │   ├── CiphertextError        bytes or numbers that are no ciphertexts
    │   ├── PlaintextRangeError    a result could leave the range of the key (an EncodingRangeError)
    │   └── CiphertextProductError two encrypted operands multiplied (an UnsupportedOperationError)
    └── data and statistics
        ├── FederatedDataError     a data set that cannot be made, split or found as asked
        ├── TrainingError          training settings that are wrong or incomplete
        ├── RegressionDataError    the data of the owners do not fit together
        │   └── DegreesOfFreedomError  not more observations than coefficients
        ├── SingularDesignError    columns that depend on each other
        └── NotFittedError         a result asked for before fit()

A message says what happened with the actual values, why it matters, and what to do.
"""


class ShareTorchError(Exception):
    """Base of all errors raised by ShareTorch."""


class EncodingError(ShareTorchError, ValueError):
    """A number cannot be encoded."""


class NotFiniteError(EncodingError):
    """A tensor to be encoded holds NaN or infinity."""


class EncodingRangeError(EncodingError):
    """A value lies outside the range of its encoding."""


class UnsupportedDtypeError(EncodingError, TypeError):
    """A dtype has no encoding in the ring."""


class ModulusError(ShareTorchError, ValueError):
    """A modulus is wrong in itself or for the operation asked for."""


class DivisionByZeroError(ShareTorchError, ZeroDivisionError):
    """A shared tensor would be divided by the public number 0."""


class ShapeError(ShareTorchError, ValueError):
    """Shapes do not fit together."""


class MembersError(ShareTorchError, ValueError):
    """The members named for a session cannot form one."""


class MismatchError(ShareTorchError, ValueError):
    """Operands do not belong together."""


class PartiesMismatchError(MismatchError):
    """Operands are held by different parties or providers."""


class PrecisionMismatchError(MismatchError):
    """Operands are encoded with different base or precision."""


class SessionMismatchError(MismatchError):
    """Operands belong to different sessions."""


class ObjectGoneError(ShareTorchError, LookupError):
    """The object behind a handle no longer exists at its holders."""


class CorrelationReusedError(ShareTorchError):
    """Correlated randomness or a stream would be used a second time."""


class PreparationError(ShareTorchError, RuntimeError):
    """A program cannot be prepared, or what was prepared cannot be kept or used."""


class UnsupportedOperationError(ShareTorchError, NotImplementedError):
    """An operation has no secure form in ShareTorch."""


class RevealError(UnsupportedOperationError, TypeError, ValueError):
    """An operation would need the value of a secret in the clear."""


class UnsupportedLayersError(UnsupportedOperationError):
    """A model holds layers that cannot be shared; the message lists all of them."""


class ProtocolError(ShareTorchError, RuntimeError):
    """Members of a session got out of step."""


class RangeCheckError(ShareTorchError, ArithmeticError):
    """Debug mode found a value outside the range in which protocols are exact."""


class RemoteError(ShareTorchError):
    """A request to a worker failed or was refused."""


class TensorsNotCollocatedException(RemoteError, MismatchError):
    """Operands of one operation are at different workers."""


class ObjectNotFoundError(RemoteError, ObjectGoneError):
    """The worker has no object of that number that the caller may use."""


class GetNotPermittedError(RemoteError, PermissionError):
    """The object's policy does not let the caller have its value."""


class InvalidTensorForRemoteGet(RemoteError, TypeError):
    """``remote_get`` needs a pointer to a pointer."""


class WorkerNotFoundException(RemoteError, LookupError):
    """No worker of that name is known."""


class MalformedRequestError(RemoteError, ValueError):
    """Bytes that are no message of the documented set, or a message with wrong contents."""


class OperationNotAllowedError(RemoteError, UnsupportedOperationError):
    """The operation is not on the worker's list."""


class LimitExceededError(RemoteError, MemoryError):
    """A message, a result or a store would become larger than the worker allows."""


class RemoteOperationError(RemoteError, RuntimeError):
    """An operation failed at the worker."""


class PlanError(RemoteError, RuntimeError):
    """A plan is not built, or cannot be built or run."""


class KeySizeError(ShareTorchError, ValueError):
    """A key has too few bits, too many, or not the form of a Paillier key."""


class WrongKeyError(MismatchError):
    """A key does not belong to a tensor, or two tensors are encrypted under different keys."""


class PlaintextRangeError(EncodingRangeError, OverflowError):
    """The integers behind a result might leave the range of the key and wrap around."""


class CiphertextError(ShareTorchError, ValueError):
    """Something is not a ciphertext, or not one under this key."""


class CiphertextProductError(UnsupportedOperationError):
    """Two encrypted operands would have to be multiplied."""


class FederatedDataError(ShareTorchError, ValueError):
    """A data set that cannot be made, split or found as asked."""


class TrainingError(ShareTorchError, ValueError):
    """Training settings that are wrong or incomplete."""


class RegressionDataError(ShareTorchError, ValueError):
    """The data of the owners do not fit together."""


class DegreesOfFreedomError(RegressionDataError):
    """There are not more observations than coefficients."""


class SingularDesignError(ShareTorchError, ArithmeticError):
    """The columns are linearly dependent, or too close to it for the working precision."""


class NotFittedError(ShareTorchError, RuntimeError):
    """A result was asked for before ``fit``."""


class PlanShapeError(PlanError, ShapeError):
    """Arguments do not have the number, form, shapes or dtypes the plan was built for."""


class IdNotUniqueError(ShareTorchError, ValueError):
    """A number was to be given to a second object."""


class UnknownOverloadError(ShareTorchError, AttributeError):
    """A function was overloaded that torch does not have, so the overload would never be called."""


class LayerMismatchError(MismatchError):
    """Tensors of different types of the user's own meet, and neither is laid around the other.

    No TypeError: inside ``x + y`` Python takes one for "try y + x", and the message would be lost.
    """


class EmptyLayerError(ShareTorchError, ValueError):
    """A layer was used before it was laid around a tensor."""


class NotATensorError(ShareTorchError, TypeError):
    """A layer was to be laid around something that is no tensor."""


class LostGradientError(ShareTorchError, RuntimeError):
    """An operation below PyTorch's autograd would lose the gradient of a layer's child."""


class SandboxError(ShareTorchError, NameError):
    """The namespace given to a sandbox is none, or has no torch in it."""


class LabelError(ShareTorchError, TypeError):
    """Tags, descriptions and users are texts."""


class ReleaseRefusedError(GetNotPermittedError):
    """A policy does not release a result."""


class NetworkError(ShareTorchError):
    """Parties on different machines cannot work together.

    Attributes:
        member: id of the member at fault, if known.
        operation: what was under way, with the user's line, if known.
        cause: name of the error behind this one, if there is one.
    """

    member: str | None = None
    operation: str | None = None
    cause: str | None = None


class WorkerUnreachableError(NetworkError, ConnectionRefusedError):
    """Nobody answers at a worker's address."""


class HandshakeError(NetworkError, PermissionError):
    """A certificate, an identity or a session document is refused."""


class ConnectionLostError(NetworkError, ConnectionError):
    """The other end closed the connection, reset it or went silent."""


class DeadlineExceededError(NetworkError, TimeoutError):
    """No complete answer came in time."""


class FrameError(NetworkError, ProtocolError):
    """A frame is malformed, repeated or not the one that is due."""


class SessionEndedError(NetworkError):
    """A session is over before its work was done."""


class ConfigurationError(ShareTorchError, ValueError):
    """Settings of a worker or a group are wrong or incomplete."""


class DataSourceError(ShareTorchError, ValueError):
    """A worker's data file is missing, broken or of another form than declared."""


class CheckpointError(ShareTorchError, RuntimeError):
    """A checkpoint cannot be written, or is missing, damaged or of another group."""
