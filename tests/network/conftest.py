"""Keys and worker processes for all tests of workers on different machines; a process takes seconds to start."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.network.tools import WorkerProcess, make_keys, names_free, start_group, start_worker

MEMBERS = ("alice", "bob", "carol", "james", "crypto_provider", "me", "mallory")


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys of several members."""
    return make_keys(tmp_path_factory.mktemp("keys"), *MEMBERS)


@pytest.fixture(scope="session")
def group(keys: Path) -> Iterator[dict[str, WorkerProcess]]:
    """Private workers alice, bob and carol, who know each other."""
    made = start_group(("alice", "bob", "carol"), keys, data=[([6.0, 7.0], ["#numbers", "#own"])])
    yield made
    for worker in made.values():
        worker.stop()


@pytest.fixture
def names() -> Iterator[None]:
    """Names that workers of other tests have in this process are free meanwhile."""
    with names_free(*(name for name in MEMBERS if name != "me")):
        yield


@pytest.fixture
def workers(group: dict[str, WorkerProcess], names: None) -> Iterator[list[Any]]:
    """Connections to alice, bob and carol, as st.connect gives them; their stores of ours are empty."""
    made = [worker.connect() for worker in group.values()]
    for worker in made:
        worker.clear_objects()
    yield made
    for worker in made:
        worker.close()


@pytest.fixture
def alice(workers: list[Any]) -> Any:
    return workers[0]


@pytest.fixture
def bob(workers: list[Any]) -> Any:
    return workers[1]


@pytest.fixture
def carol(workers: list[Any]) -> Any:
    return workers[2]


@pytest.fixture(scope="module")
def start(keys: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts further worker processes, which end with the module."""
    started: list[WorkerProcess] = []

    def run(id: str, **options: Any) -> WorkerProcess:
        started.append(start_worker(id, keys, **options))
        return started[-1]

    yield run
    for worker in started:
        worker.stop()


