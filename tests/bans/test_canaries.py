"""No secret, share or key in what objects print or errors say: planted canary values must not show up."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sharetorch.mpc import testing
from sharetorch.mpc.channel import Message
from sharetorch.mpc.errors import ProtocolError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.arithmetic import multiply
from sharetorch.mpc.provider import OneTime
from sharetorch.mpc.randomness import SECRET_BYTES, PairSecret, Stream
from sharetorch.mpc.ring import WideElements
from sharetorch.mpc.share import ArithmeticShare, MaskedOperand

CANARY = 8_675_309
CANARY_KEY = b"canary-canary-ca"
TENSOR = torch.tensor([CANARY, -CANARY])

OBJECTS: dict[str, Callable[[], object]] = {
    "ArithmeticShare": lambda: ArithmeticShare(TENSOR),
    "MaskedOperand": lambda: MaskedOperand(0, TENSOR, TENSOR),
    "WideElements": lambda: WideElements([CANARY]),
    "OneTime": lambda: OneTime("triple", TENSOR),
    "Stream": lambda: Stream(CANARY_KEY),
    "PairSecret": lambda: PairSecret(CANARY_KEY * (SECRET_BYTES // len(CANARY_KEY))),
    "Message": lambda: Message(0, 1, 7, "opened", (TENSOR, np.array([CANARY])), 1, 16),
    "Session": lambda: testing.session(seed=CANARY),
    "Party": lambda: testing.session(seed=CANARY)._ranks[0],
    "Root": lambda: ArithmeticShare(TENSOR).root,
}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("text", [repr, str, "{}".format])
def test_what_is_printed_holds_no_secret(name: str, text: Callable[[object], str]) -> None:
    printed = text(OBJECTS[name]())
    assert str(CANARY) not in printed
    assert "canary" not in printed
    assert CANARY_KEY.hex() not in printed


def test_an_error_of_a_protocol_holds_no_share() -> None:
    async def out_of_step(party: Party, x: ArithmeticShare) -> None:
        if party.rank == 0:
            party.send(1, "first", x.data)
        if party.rank == 1:
            await party.receive(0, "second")

    session = testing.session()
    x = testing.put(session, TENSOR, TENSOR)
    with pytest.raises(ProtocolError) as caught:
        testing.run(session, out_of_step, x)
    assert str(CANARY) not in str(caught.value)


def test_a_recorded_transcript_prints_no_share() -> None:
    session = testing.session()
    x = testing.put(session, TENSOR, TENSOR)
    with session.record() as transcript:
        testing.run(session, multiply, x, x)
    contents = {str(int(word)) for message in transcript for field in message.fields for word in field.reshape(-1)}
    assert contents
    assert not any(word in repr(transcript) for word in contents if len(word) > 6)
