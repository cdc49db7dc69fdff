"""Masked sums over a Grid: exact, whoever drops out; what the ServerApp sees hides the updates."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedMedian, FedProx

from sharetorch.fl.aggregation import RuleError
from sharetorch.fl.flower import FlowerError, Limits, PlainRequestError, secure_mod, simulated_mod
from sharetorch.fl.flower.errors import LostRoundError
from sharetorch.fl.flower.mod import STATE
from sharetorch.fl.flower.records import RECORD, Order, carried, order_in, write
from sharetorch.fl.masking import RequestRefusedError, RoundReusedError, TooFewSurvivorsError, messages
from sharetorch.fl.masking import client as masking_client
from sharetorch.fl.masking.encoding import encode
from sharetorch.fl.masking.messages import Masked
from sharetorch.mpc.errors import ConfigurationError, EncodingRangeError, ShareTorchError
from tests.fl.flower.federations import SECRET, LocalGrid, client_app, examples, flat, model, updates
from tests.fl.flower.tools import moved, simulated, stacked, strategy, weighted_mean
from tests.network.tools import make_keys

UNIT = 2.0**-23  # of float32, in which the model is; masks add 2^-25


# ---------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("weighted-mean", weighted_mean(range(4))),
        ("mean", stacked(range(4)).mean(0)),
        ("sum", stacked(range(4)).sum(0)),
    ],
)
def test_the_model_moves_by_the_rule(rule: str, expected: Any) -> None:
    assert np.abs(moved(strategy(rule=rule), simulated(4)) - expected).max() <= 4 * UNIT


def test_figures_are_means_and_those_not_asked_for_stay_at_the_clients() -> None:
    made = strategy(train_metrics={"loss": 10.0}, evaluate_metrics={"accuracy": 1.0})
    result = made.start(simulated(3), model(), num_rounds=2)
    weights = np.array([examples(i) for i in range(3)], np.float64)
    assert set(result.train_metrics_clientapp[2]) == {"loss"}
    assert abs(result.train_metrics_clientapp[2]["loss"] - weights @ [0.5, 1.5, 2.5] / weights.sum()) < 1e-6
    assert abs(result.evaluate_metrics_clientapp[1]["accuracy"] - weights @ [0.0, 0.1, 0.2] / weights.sum()) < 1e-6


def test_without_figures_to_ask_for_nobody_evaluates() -> None:
    grid = simulated(3)
    strategy().start(grid, model(), num_rounds=1)
    assert {message.metadata.message_type for message in grid.orders} == {"train"}


def test_dtypes_and_integers_stay_as_they_are() -> None:
    result = strategy().start(simulated(3), model(), num_rounds=2)
    assert [array.dtype for array in result.arrays.values()] == ["float32", "int64", "float32"]
    assert int(result.arrays["steps"].numpy()) == 7


@pytest.mark.parametrize("plain", [FedAvg, FedAvgM, FedAdam, FedProx], ids=lambda kind: kind.__name__)
def test_a_wrapped_strategy_steps_as_it_does_with_plain_updates(plain: Callable[..., FedAvg]) -> None:
    arguments: dict[str, Any] = {"proximal_mu": 0.1} if plain is FedProx else {}
    floats = ArrayRecord({name: array for name, array in model().items() if name != "steps"})
    configs = [{"partition-id": i, "num-partitions": 4} for i in range(4)]
    expected = plain(fraction_evaluate=0.0, **arguments).start(
        LocalGrid(client_app(), configs), copy.deepcopy(floats), num_rounds=2
    )
    made = strategy(plain=plain(**arguments)).start(simulated(4), copy.deepcopy(floats), num_rounds=2)
    assert np.abs(flat(made.arrays) - flat(expected.arrays)).max() < 1e-4


# --------------------------------------------------------------------------------------------------------- dropouts


@pytest.mark.parametrize("step", range(1, 7))
def test_who_drops_out_at_any_step_is_in_the_sum_or_not(step: int) -> None:
    """Steps 1 to 4 are hello, advertise, share, mask; whoever is lost later is in the sum."""
    found = moved(strategy(), simulated(5, lost=lambda here, node: node == 2 and here >= step))
    present = [i for i in range(5) if i != 1 or step > 4]
    assert np.abs(found - weighted_mean(present)).max() <= 4 * UNIT


def test_too_few_raise_and_say_why_or_leave_the_model_as_it_is() -> None:
    def lost(step: int, node: int) -> bool:
        return node != 2 and step >= 4

    with pytest.raises(TooFewSurvivorsError) as caught:
        moved(strategy(), simulated(4, lost=lost))
    assert any("no answer in time" in note for note in caught.value.__notes__)
    assert np.abs(flat(model()) - flat(strategy(skip_lost=True).start(
        simulated(4, lost=lost), model(), num_rounds=1).arrays or model())).max() == 0  # fmt: skip


def test_a_client_beyond_the_limit_leaves_the_round_or_is_clamped() -> None:
    limits = Limits(0.5, 1000, 24)
    grid = simulated(3)
    with pytest.raises(TooFewSurvivorsError):
        moved(strategy(limits=limits), grid)
    assert any(isinstance(error, EncodingRangeError) for error in grid.errors)
    weights = np.array([examples(i) for i in range(3)], np.float64)
    expected = weights @ stacked(range(3)).clip(-0.5, 0.5) / weights.sum()
    assert np.abs(moved(strategy(limits=limits, clamp=True), simulated(3)) - expected).max() <= 4 * UNIT


# --------------------------------------------------------------------------------------------- what the server sees

SIZE = 256


def words_seen(grid: LocalGrid, node: int) -> Any:
    """The masked vectors of a node, one row each round, as the ServerApp got them."""
    found = []
    for data in grid.seen[node]:
        try:
            found.append(np.frombuffer(messages.decode(data, Masked, 1 << 20).words, "<u8"))
        except ShareTorchError:
            continue
    return np.array(found)


def leaks(grid: LocalGrid, nodes: int, size: int = SIZE) -> list[str]:
    """What the recorded replies show of updates; nothing if they hide them."""
    found = []
    for node in range(1, nodes + 1):
        data, step = b"".join(grid.seen[node]), updates(node - 1, 1, size)
        clear = [step.astype("<f8")[:4], step.astype("<f4")[:4], (flat(model(size)) + step).astype("<f4")[:4]]
        clear += [encode(step, weight, 24, 1 << 40, 1 << 40)[:4] for weight in (1, examples(node - 1))]
        if any(part.tobytes() in data for part in clear):
            found.append(f"the update of {node} in the clear")
        if any(text in data for text in (repr(SECRET).encode(), np.float64(SECRET).tobytes())):
            found.append(f"a figure of {node} in the clear")
    words = np.array([words_seen(grid, node) for node in range(1, nodes + 1)])
    if words.size == 0:
        return [*found, "no masked vector"]
    differences = [words[0] - words[1], words[:, 0] - words[:, -1], words.sum(0)]
    for name, part in zip(("a word", "clients", "rounds", "all"), [words, *differences], strict=True):
        counts = np.bincount(np.frombuffer(np.ascontiguousarray(part).tobytes(), np.uint8), minlength=256)
        expected = counts.sum() / 256
        if ((counts - expected) ** 2 / expected).sum() > 255 + 8 * np.sqrt(2 * 255):  # one false alarm in 10^10
            found.append(f"bytes of {name} are not uniform")
    return found


def run_and_look(mod: Any = simulated_mod) -> list[str]:
    grid = simulated(4, SIZE)
    grid.app = client_app(mod, update=lambda i, r: updates(i, r, SIZE))
    strategy(train_metrics={"loss": 10.0}).start(grid, model(SIZE), num_rounds=2)
    return leaks(grid, 4)


def test_the_server_sees_nothing_of_an_update(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    assert run_and_look() == []
    assert str(SECRET) not in caplog.text and f"{updates(0, 1, SIZE)[0]:.4f}"[:7] not in caplog.text


def test_the_text_of_an_apps_error_stays_at_the_node() -> None:
    def update(partition: int, round: int) -> Any:
        raise ValueError(f"A row of data: {SECRET}")

    grid = simulated(3)
    grid.app = client_app(simulated_mod, update=update)
    with pytest.raises(TooFewSurvivorsError) as caught:
        strategy().start(grid, model(), num_rounds=1)
    notes = "".join(caught.value.__notes__)
    assert "The app raised ValueError" in notes and str(SECRET) not in notes


def passing(kind: type[Any]) -> Any:
    """A mod that lets records of a kind through beside the masked answer."""

    def mod(message: Message, context: Context, call_next: Any) -> Message:
        kept: dict[str, Any] = {}

        def watched(inner: Message, here: Context) -> Message:
            done = call_next(inner, here)
            kept.update({name: record for name, record in done.content.items() if isinstance(record, kind)})
            return done

        answer = simulated_mod(message, context, watched)
        for name, record in kept.items():
            answer.content[name] = record
        return answer

    return mod


@pytest.mark.parametrize("kind", [ArrayRecord, MetricRecord])
def test_records_in_the_clear_are_noticed(kind: type[Any]) -> None:
    assert any("in the clear" in leak for leak in run_and_look(mod=passing(kind)))


def test_a_vector_without_masks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("add_mask", "subtract_mask"):
        monkeypatch.setattr(masking_client.keys, name, lambda words, source: None)
    found = run_and_look()
    assert any("not uniform" in leak for leak in found)


def test_one_mask_for_all_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.frombuffer(os.urandom(8 * (SIZE + 1)), "<u8")
    monkeypatch.setattr(masking_client.keys, "add_mask", lambda words, source: np.add(words, mask, out=words))
    monkeypatch.setattr(masking_client.keys, "subtract_mask", lambda words, source: None)
    monkeypatch.setattr("sharetorch.fl.flower.masked.MaskedRound.finish", lambda self, replies: _ended())
    grid = simulated(4, SIZE)
    strategy(skip_lost=True).start(grid, model(SIZE), num_rounds=2)
    assert "bytes of rounds are not uniform" in leaks(grid, 4)


def _ended() -> Any:
    raise LostRoundError("The planted round ends here.")


# ----------------------------------------------------------------------------------------------- nodes with keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_keys(tmp_path / "keys", "server", *(f"clinic_{i}" for i in range(4)))


def real(folder: Path, count: int = 4, **further: Any) -> LocalGrid:
    """Nodes with keys of their own."""
    configs = [
        {"partition-id": i, "sharetorch-keys": str(folder), "sharetorch-id": f"clinic_{i}", **further}
        for i in range(count)
    ]
    return LocalGrid(client_app(secure_mod), configs)


def test_nodes_with_keys_of_their_own(folder: Path) -> None:
    grid = real(folder)
    found = moved(strategy(keys=folder), grid, rounds=2)
    assert np.abs(found - weighted_mean(range(4)) - weighted_mean(range(4), 2)).max() <= 8 * UNIT
    assert grid.errors == []
    assert len((folder / "clinic_0.rounds").read_text().splitlines()) == 2 * 5  # each step of each round, once


def test_no_secret_stays_in_a_context(folder: Path) -> None:
    grid = real(folder)
    moved(strategy(keys=folder), grid)
    assert all(context.state[STATE]["state"] == b"" for context in grid.contexts.values())


@pytest.mark.parametrize("again", ["share", "mask", "agree", "reveal"])
def test_a_step_is_done_once_even_with_an_old_context(folder: Path, again: str) -> None:
    """Shares of one list of survivors, and then of another, would show an update."""
    grid = real(folder)
    before: dict[str, Context] = {}
    push = grid.push_messages

    def pushed(sent: Any) -> list[str]:
        given = list(sent)
        for message in given:
            order = order_in(message)
            if message.metadata.dst_node_id == 1 and order is not None:
                before[order.step] = copy.deepcopy(grid.contexts[1])
        return push(given)

    grid.push_messages = pushed  # type: ignore[method-assign]
    moved(strategy(keys=folder), grid)
    message = next(each for each in grid.orders if each.metadata.dst_node_id == 1 and order_of(each) == again)
    with pytest.raises(RoundReusedError):
        grid.app(copy.deepcopy(message), before[again])


def order_of(message: Message) -> str:
    order = order_in(message)
    return "" if order is None else order.step


def test_a_plain_request_is_refused(folder: Path) -> None:
    grid = real(folder)
    plain = FedAvg(fraction_evaluate=0.0)
    for message in plain.configure_train(1, model(), ConfigRecord(), grid):
        with pytest.raises(PlainRequestError, match="SecureStrategy"):
            grid.app(message, grid.contexts[message.metadata.dst_node_id])
    for message in plain._construct_messages(RecordDict(), [1], "evaluate"):
        with pytest.raises(PlainRequestError):
            grid.app(message, grid.contexts[1])


def test_a_plain_strategy_gets_nothing_of_nodes_with_the_mod(folder: Path) -> None:
    grid = real(folder)
    result = FedAvg(fraction_evaluate=0.0).start(grid, model(), num_rounds=1)
    assert not result.train_metrics_clientapp and all(not seen for seen in grid.seen.values())


def asked(folder: Path, step: str, data: bytes = b"") -> Any:
    grid = real(folder)
    message = Message(RecordDict({RECORD: carried(write(Order(step, data)))}), dst_node_id=1, message_type="train")
    return grid.app(message, grid.contexts[1])


def test_all_pieces_at_once_are_refused(folder: Path) -> None:
    with pytest.raises(RequestRefusedError, match="simulations"):
        asked(folder, "pieces")


def test_an_unknown_step_is_refused(folder: Path) -> None:
    with pytest.raises(RequestRefusedError, match="knows no step"):
        asked(folder, "give me everything")


def test_a_step_out_of_turn_is_refused(folder: Path) -> None:
    with pytest.raises(ShareTorchError, match="is in no round"):
        asked(folder, "reveal")


def test_garbage_is_refused(folder: Path) -> None:
    grid = real(folder)
    message = Message(RecordDict({RECORD: carried(b"\xff\xff")}), dst_node_id=1, message_type="train")
    with pytest.raises(ShareTorchError, match="no Order"):
        grid.app(message, grid.contexts[1])


def test_the_server_is_no_member_of_a_round(folder: Path) -> None:
    """It knows its own update, so a sum of two would show the other."""
    from sharetorch.fl.flower.members import KeyFolder
    from sharetorch.fl.masking import Parameters, convene

    keys = KeyFolder(folder)
    publics = keys.enrolment(["server", "clinic_0", "clinic_1"], "server").clients
    opening = convene(keys.identity("server"), publics, 3, Limits(1.0), parameters=Parameters(2, 1, 0))
    with pytest.raises(RequestRefusedError, match="no clients"):
        asked(folder, "advertise", messages.encode(opening))


def test_a_round_of_few_is_refused(folder: Path) -> None:
    grid = real(folder, 2)
    with pytest.raises(TooFewSurvivorsError):
        moved(strategy(keys=folder), grid)
    assert any("takes part among 3 at least" in str(error) for error in grid.errors)
    assert np.abs(moved(strategy(keys=folder), real(folder, 2, **{"sharetorch-fewest": 2}))).max() > 0


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({}, "names no keys"),
        ({"sharetorch-keys": "x"}, "names no keys"),
        ({"sharetorch-keys": "x", "sharetorch-id": "a", "sharetorch-kees": 1}, "unknown keys"),
        ({"sharetorch-keys": "x", "sharetorch-id": "a", "sharetorch-corrupt": "much"}, "write a number"),
        ({"sharetorch-keys": "x", "sharetorch-id": "a", "sharetorch-aggregators": "bob"}, "host:port"),
        ({"sharetorch-keys": "x", "sharetorch-id": "a", "sharetorch-rules": "mean,middle"}, "middle"),
    ],
)
def test_bad_configurations_of_nodes(config: dict[str, Any], match: str) -> None:
    grid = LocalGrid(client_app(secure_mod), [config])
    message = Message(RecordDict({RECORD: carried(write(Order("hello")))}), dst_node_id=1, message_type="train")
    with pytest.raises(ConfigurationError, match=match):
        grid.app(message, grid.contexts[1])


def test_the_simulated_mod_is_refused_on_a_node_with_keys(folder: Path) -> None:
    grid = real(folder)
    grid.app = client_app(simulated_mod)
    message = Message(RecordDict({RECORD: carried(write(Order("hello")))}), dst_node_id=1, message_type="train")
    with pytest.raises(ConfigurationError, match="secure_mod"):
        grid.app(message, grid.contexts[1])


def test_two_nodes_of_one_name(folder: Path) -> None:
    grid = real(folder)
    grid.contexts[2] = copy.deepcopy(grid.contexts[1])
    with pytest.raises(ConfigurationError, match="clinic_0"):
        moved(strategy(keys=folder), grid)


def test_clients_without_the_mod_are_named() -> None:
    configs = [{"partition-id": i, "num-partitions": 3} for i in range(3)]
    with pytest.raises(ShareTorchError) as caught:
        moved(strategy(), LocalGrid(client_app(), configs))
    assert "0 of the nodes" in str(caught.value)


# ------------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"plain": FedMedian()}, FlowerError, "FedMedian"),
        ({"rule": "median"}, RuleError, "Aggregators"),
        ({"rule": "middle"}, RuleError, "no rule"),
        ({"sparse": True}, ConfigurationError, "convener"),
        ({"clip": 1.0}, RuleError, "aggregators"),
        ({"train_metrics": {"loss": 0.0}}, ConfigurationError, "positive"),
        ({"keys": "/nowhere"}, ConfigurationError, "keygen"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        strategy(**options)


def test_a_figure_that_clients_do_not_give() -> None:
    grid = simulated(3)
    with pytest.raises(TooFewSurvivorsError):
        moved(strategy(train_metrics={"lost": 1.0}), grid)
    assert any("no number 'lost'" in str(error) for error in grid.errors)
