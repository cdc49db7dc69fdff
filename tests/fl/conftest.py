from collections.abc import Callable, Iterator

import pytest
import torch

import sharetorch as st


@pytest.fixture
def worker() -> Iterator[Callable[..., st.VirtualWorker]]:
    """Workers by name, empty at the beginning."""
    used: list[st.VirtualWorker] = []

    def make(name: str, **options: object) -> st.VirtualWorker:
        made = st.VirtualWorker(id=name, **options)  # type: ignore[arg-type]
        made.clear_objects()
        made.datasets.clear()
        used.append(made)
        return made

    yield make
    for each in used:
        each.clear_objects()
        each.datasets.clear()
        each.private = False


@pytest.fixture
def bob(worker: Callable[..., st.VirtualWorker]) -> st.VirtualWorker:
    return worker("bob")


@pytest.fixture
def alice(worker: Callable[..., st.VirtualWorker]) -> st.VirtualWorker:
    return worker("alice")


@pytest.fixture
def james(worker: Callable[..., st.VirtualWorker]) -> st.VirtualWorker:
    return worker("james")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
