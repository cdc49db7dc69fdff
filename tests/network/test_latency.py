"""Time on a slow network: rounds times delay, and nothing else.

Every message between members takes 60 ms longer, in wires of this process. A program then takes longer by the rounds
that are counted times that delay. A round is the length of a chain of messages: an exchange in which two parties open
something costs one delay, as both are on their way at the same time; a way by the provider costs as many as it has
messages, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.network.faults import LongWire, Net
from tests.network.forked_processes import MEASURED
from tests.network.tools import make_keys

pytestmark = pytest.mark.slow

DELAY = 0.06
SHARE = 0.15
"""What a program may take longer or shorter than it should, as a part of what it should take longer."""
CONSTANT = 0.12
"""Likewise, in seconds: two delays, for corrections on their way when the program begins."""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """Workers far from each other."""
    ids = ("alice", "bob", "crypto_provider")
    keys = make_keys(tmp_path_factory.mktemp("keys"), *ids, "me")
    made = Net(tmp_path_factory.mktemp("latency"), keys, {}, ids, wire=LongWire)
    made.driver.ask("connect")
    yield made
    made.close()


def _measure(net: Net, program: str, delay: float, times: int) -> tuple[float, int]:
    """The shortest time, and the rounds."""
    for wire in net.between.values():
        wire.delay = delay
    found = [net.driver.ask("measure", program=program) for _ in range(times)]
    assert len({run["rounds"] for run in found}) == 1
    return min(run["seconds"] for run in found), found[0]["rounds"]


@pytest.mark.parametrize("program", MEASURED)
def test_time_grows_by_rounds_times_delay(net: Net, program: str) -> None:
    at_once, rounds = _measure(net, program, 0.0, 5)
    later, again = _measure(net, program, DELAY, 3)
    assert rounds == again >= 10
    due = rounds * DELAY
    print(f"{program}: {rounds} rounds, {at_once:.3f} s at once, {later:.3f} s later, due {at_once + due:.3f} s")
    assert abs(later - at_once - due) <= SHARE * due + CONSTANT
