"""``sy.serde.compression``: bytes are never compressed.

Shares, masks and ciphertexts look random, so nothing is gained, and the length of compressed data tells about its
values.
"""

NO_COMPRESSION = 40

default_compress_scheme = NO_COMPRESSION
"""What ``serialize`` is asked to do; any other scheme is refused."""
