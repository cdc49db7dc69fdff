"""Compiled local computation: numpy arrays in, numpy arrays out, no messages and no randomness.

* ``matmul``: exact matrix products modulo 2^64, and the matrix form of the Beaver combination.
* ``backends``: which of ``portable``, ``amx`` and torch computes a product; ``limbs``: the products of other devices.
* ``convolution``: convolutions and their gradients as products of gathered windows.
* ``combine``: the elementwise Beaver and truncation combinations, each in one pass.
* ``residues``: uniform residues from uniform words, by rejection.
* ``private_compare``: the local work of SecureNN's comparison on bits shared modulo 67.
* ``keystream``: AES in counter mode, written or added to words; ``fixed_key``: a hash by AES under a public key.
* ``bits``: eight bits to a byte, for the wire.
* ``bit_planes``: comparison by tables on words that hold one bit of 64 elements each (use its functions by its name).
* ``reference``: all of it in plain torch for any number of bits; what the tests compare with (import it by name).
* ``_aes``: the processor's AES instructions, for both.
* ``_numba``, ``_vectors``, ``_threads``, ``_memory``: how kernels are compiled, what numba's loops do not reach, how
  kernels run on several threads, and get memory.

Torch tensors come in by ``.numpy()`` and go out by ``torch.from_numpy`` without copies. Inputs are not modified, unless
a function says so.
Kernels are compiled for the processor at hand at their first call, within a second or two each, and kept on disk.
"""

from sharetorch.mpc.kernels import bit_planes as bit_planes
from sharetorch.mpc.kernels._memory import keep_freed_memory as keep_freed_memory
from sharetorch.mpc.kernels._threads import set_thread_count as set_thread_count
from sharetorch.mpc.kernels._threads import thread_count as thread_count
from sharetorch.mpc.kernels.bits import pack_bits as pack_bits
from sharetorch.mpc.kernels.bits import unpack_bits as unpack_bits
from sharetorch.mpc.kernels.combine import add_weighted as add_weighted
from sharetorch.mpc.kernels.combine import beaver_combine as beaver_combine
from sharetorch.mpc.kernels.combine import scaled_truncation as scaled_truncation
from sharetorch.mpc.kernels.combine import scaled_truncation_mask as scaled_truncation_mask
from sharetorch.mpc.kernels.combine import truncation_combine as truncation_combine
from sharetorch.mpc.kernels.combine import truncation_mask as truncation_mask
from sharetorch.mpc.kernels.matmul import batched_matmul as batched_matmul
from sharetorch.mpc.kernels.matmul import batched_matmul_add as batched_matmul_add
from sharetorch.mpc.kernels.matmul import matmul as matmul
from sharetorch.mpc.kernels.matmul import matmul_add as matmul_add
from sharetorch.mpc.kernels.private_compare import find_zero as find_zero
from sharetorch.mpc.kernels.private_compare import mask_symbols as mask_symbols
from sharetorch.mpc.kernels.private_compare import share_bits as share_bits
from sharetorch.mpc.kernels.residues import reduce_words as reduce_words

__all__ = [
    "add_weighted",
    "batched_matmul",
    "batched_matmul_add",
    "beaver_combine",
    "bit_planes",
    "find_zero",
    "keep_freed_memory",
    "mask_symbols",
    "matmul",
    "matmul_add",
    "pack_bits",
    "reduce_words",
    "scaled_truncation",
    "scaled_truncation_mask",
    "set_thread_count",
    "share_bits",
    "thread_count",
    "truncation_combine",
    "truncation_mask",
    "unpack_bits",
]
