"""Torch modules on shared data.

support    which layers run on shared tensors
sharing    ``model.share()``, ``get()``, ``fix_precision()`` and the like: parameters swapped in place
"""

from sharetorch.nn import sharing, support

__all__ = ["sharing", "support"]
