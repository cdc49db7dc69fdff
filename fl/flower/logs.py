"""Flower's own log: who is left out of a round and why, what was combined. Reasons are texts of errors, not values."""

from flwr.supercore.logger import FLOWER_LOGGER


def tell(text: str) -> None:
    """Note what happens."""
    FLOWER_LOGGER.info(text)


def warn(text: str) -> None:
    """Note what goes wrong."""
    FLOWER_LOGGER.warning(text)
