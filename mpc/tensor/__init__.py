"""The tensor users hold, and the secure operation behind every aten operation.

shared           ``SharedTensor``, its handle, the two tables of operations
nested           tuples, lists and dictionaries of tensors
location         the user's line for messages
encodings        bringing operands to one session, encoding and scale
constants        public constants that are shared when something needs their shares
pending          commands that wait for the next one
structural       local operations and views
writing          in-place forms
assembling       joining, writing at public places, padding, choosing, constants
arithmetic       sums and products
updating         in-place sums and products with a factor
products         matrix products and convolutions
division         powers, division, roots
comparison       comparisons, ReLU and maxima with what their gradients need
logic            logic on bits
choosing         functions that choose by a comparison, without derivatives
prepared_files   what was prepared, kept in encrypted files
traced           programs whose commands are given again without their Python
preparing        programs whose provider goes first
fixed_precision  ``FixedPrecisionTensor``, local numbers in fixed point
sharing          ``x.share(...)`` and the sessions of this process
"""
