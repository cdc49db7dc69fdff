"""``NumpyTensor``: numpy arrays become tensors of torch, and so can be sent, shared and found."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor

from sharetorch.mpc.errors import UnsupportedDtypeError
from sharetorch.remote import labels


def NumpyTensor(  # noqa: N802 - the tutorials' name
    numpy_tensor: Any, tags: Any = None, description: str | None = None, **_: Any
) -> Tensor:
    """A tensor of torch with the elements and the dtype of an array.

    There is no second kind of tensor for numpy: what is made here is a ``torch.Tensor``, and ``get()`` gives one, whose
    ``numpy()`` is an array again.

    Args:
        numpy_tensor: an array, or nested lists; its elements are copied.
        tags: to give the tensor.
        description: to give it.

    Raises:
        UnsupportedDtypeError: elements that torch has no dtype for, such as texts.
    """
    array = numpy.asarray(numpy_tensor)
    try:
        made = torch.from_numpy(numpy.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except TypeError as error:
        raise UnsupportedDtypeError(f"An array of dtype {array.dtype} cannot be a tensor of torch: {error}") from error
    labels.set_tags(made, tags)
    labels.set_description(made, description)
    return made
