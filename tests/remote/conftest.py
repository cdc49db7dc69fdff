"""Workers of their own for each test of remote execution, whatever other tests hold under the same names."""

from collections.abc import Iterator

import pytest

import sharetorch as st

NAMES = ("alice", "bob", "carol", "james")


@pytest.fixture
def workers() -> Iterator[list[st.VirtualWorker]]:
    others = [st.VirtualWorker(id=name) for name in NAMES]
    for worker in others:
        worker.remove_worker_from_local_worker_registry()
    made = [st.VirtualWorker(id=name) for name in NAMES]
    yield made
    for worker in made:
        worker.remove_worker_from_local_worker_registry()
    for worker in others:
        worker.enter_local_worker_registry()


@pytest.fixture
def alice(workers: list[st.VirtualWorker]) -> st.VirtualWorker:
    return workers[0]


@pytest.fixture
def bob(workers: list[st.VirtualWorker]) -> st.VirtualWorker:
    return workers[1]


@pytest.fixture
def carol(workers: list[st.VirtualWorker]) -> st.VirtualWorker:
    return workers[2]


@pytest.fixture
def james(workers: list[st.VirtualWorker]) -> st.VirtualWorker:
    return workers[3]
