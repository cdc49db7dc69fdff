"""Secure computation on ring tensors.

Each module imports only earlier ones:

errors       every error, in one tree
policy       to whom results are released
kernels      numba kernels of hot loops, with plain references
ring         Z_2^64, small powers of two, fields of any size
odd_ring     Z_{2^64 - 1}, inside comparisons
fixedpoint   real numbers as ring elements
randomness   cryptographic streams, seeds per pair and label
discrete_gaussian  integers from a discrete Gaussian distribution
sealed       encrypted files, written whole or not at all
share        splitting, reconstructing, one member's share
cost         rounds and bytes, declared and counted
channel      messages and in-memory channels
timing       where the time goes while one thread steps all members
party        one member as its protocols see it
provider     correlated randomness
protocols    opening, bilinear, arithmetic, planes, radix_tree, mask_comparison, truncation, scaled_truncation,
             products, private_compare, securenn, securenn_paper, selection, pairs, sorting, tables, fss, functions,
             suite, noise
linear       local operations
operations   the command table
preparing    the provider's part of a program, made ahead
labels       what a policy needs to know of a shared object
following    labels of results from those of operands, for every operation
release      labels of all objects of a session
tape         the commands of a program, to be given again
session      members, and the driver's commands
virtual      the session whose members are objects of this process
network      frames, handshakes and connections between members on different machines
tensor       ``SharedTensor`` and the secure form of every aten operation
paillier     tensors encrypted with Paillier's scheme
testing      recorded sessions and tools for tests of protocols
"""
