"""``TranslationTarget``: forms in which a plan's listing can be had."""

from __future__ import annotations

from enum import Enum


class TranslationTarget(Enum):
    """A form of a plan."""

    PYTORCH = "default"
    PYTORCH_TS = "torchscript"
    TENSORFLOW_JS = "tfjs"
