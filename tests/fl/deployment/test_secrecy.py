"""What a server sees of a client: no update, no loss, no number of items; and logs hold none of it either."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sharetorch.fl.deployment import hall, joining, training
from sharetorch.fl.deployment.messages import Left
from sharetorch.fl.deployment.training import Result, Trainee
from sharetorch.fl.masking import Client, Server, TooFewSurvivorsError, keys
from sharetorch.fl.masking.encoding import encode
from sharetorch.fl.masking.messages import Masked
from tests.fl.deployment.federations import LEARNING, Place, expected, federated, same, serving

Make = Callable[..., Place]


class Watch:
    """Everything clients send, and what of it must not be seen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.received: list[bytes] = []
        self.kinds: dict[str, set[int]] = defaultdict(set)
        self.results: list[Result] = []
        read, train = hall.read_from_client, Trainee.train

        def noted(data: bytes) -> Any:
            message = read(data)
            self.received.append(data)
            self.kinds[type(message).__name__].add(len(data))
            return message

        def trained(trainee: Trainee, order: Any) -> Result:
            self.results.append(train(trainee, order))
            return self.results[-1]

        monkeypatch.setattr(hall, "read_from_client", noted)
        monkeypatch.setattr(training.Trainee, "train", trained)

    def secrets(self) -> set[bytes]:
        """Every coordinate and loss in every form that it has on its way."""
        found: set[bytes] = set()
        limits = LEARNING.limits
        for vector, weight in self.results:
            wide = vector.numpy()
            words = encode(vector, weight, limits.fraction_bits, limits.largest, limits.weight)[:-1]
            large = np.abs(words.view(np.int64)) > 1 << 16  # smaller ones are found in anything
            found |= {word.tobytes() for word in words[large]}
            found |= {value.tobytes() for value in wide[wide != 0]}
            found |= {value.tobytes() for value in wide[wide != 0].astype(np.float32)}
            found |= {repr(float(value)).encode() for value in wide if abs(value) > 1e-3}
        return found

    def require_nothing_seen(self, here: Place) -> None:
        """No secret is in what the server got, or in anybody's log; lengths say nothing about who sent them."""
        sent, told = b"".join(self.received), repr(here.events).encode()
        secrets = self.secrets()
        assert len(self.results) >= 3 and len(secrets) > 100
        assert not [secret for secret in secrets if secret in sent or secret in told]
        for id in ("server", *here.ids):
            private = (here.keys / f"{id}.identity").read_bytes().split(b"\n")[1]
            assert private not in sent and private not in told
        assert all(len(sizes) == 1 for kind, sizes in self.kinds.items() if kind != "Hello"), self.kinds


def test_the_server_sees_no_update(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here, watch = place(), Watch(monkeypatch)
    served, _ = federated(here)
    assert same(served.model, expected(served.reports))
    watch.require_nothing_seen(here)
    assert {"Masked", "Reveal", "Trained"} <= set(watch.kinds) and len({result.weight for result in watch.results}) > 1


def no_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "add_mask", lambda words, source: None)
    monkeypatch.setattr(keys, "subtract_mask", lambda words, source: None)


def a_loss_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = joining._Stay._answer

    def leaking(self: Any, message: Any) -> None:
        answer(self, message)
        if isinstance(message, Masked):
            self._line.send(Left(self._now[0], 0, str(float(self._result.vector[-1]))))

    monkeypatch.setattr(joining._Stay, "_answer", leaking)


def a_loss_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = joining._Stay._answer

    def leaking(self: Any, message: Any) -> None:
        answer(self, message)
        if isinstance(message, Masked):
            self._tell("debug", "sent", loss=float(self._result.vector[-1]))

    monkeypatch.setattr(joining._Stay, "_answer", leaking)


def a_length_by_items(monkeypatch: pytest.MonkeyPatch) -> None:
    train = joining._Stay._train

    async def leaking(self: Any, order: Any) -> None:
        await train(self, order)
        self._line.send(Left(self._now[0], 0, "x" * self._result.weight))

    monkeypatch.setattr(joining._Stay, "_train", leaking)


@pytest.mark.parametrize("leak", [no_masks, a_loss_in_a_message, a_loss_in_a_log, a_length_by_items])
def test_a_planted_leak_is_caught(place: Make, leak: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here, watch = place(), Watch(monkeypatch)
    leak(monkeypatch)
    served, _ = federated(here)
    assert same(served.model, expected(served.reports))
    with pytest.raises(AssertionError):
        watch.require_nothing_seen(here)


def test_a_repeated_round_has_other_masks(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here, sent, lost = place(), defaultdict(list), list[None]()
    mask, result = Client.mask, Server.result

    def noted(self: Client, message: Any, update: Any, weight: int = 1) -> Masked:
        found = mask(self, message, update, weight)
        sent[self._identity.id].append((update, np.frombuffer(found.words, "<u8")))
        return found

    def fails_once(self: Server) -> Any:
        found = result(self)
        if not lost:
            lost.append(None)
            raise TooFewSurvivorsError("As if.")
        return found

    monkeypatch.setattr(Client, "mask", noted)
    monkeypatch.setattr(Server, "result", fails_once)
    served, _ = federated(here, settings=serving(1))
    assert same(served.model, expected(served.reports))
    for (update, words), (again, other) in sent.values():
        assert update.equal(again) and not (words == other).any()
    assert len(sent) == 3
