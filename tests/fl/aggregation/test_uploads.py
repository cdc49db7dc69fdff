"""Uploads: shares and seeds, refusals, dropouts, agreement on the received set."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from sharetorch.fl.aggregation import (
    Aggregation,
    AggregationError,
    DuplicateUploadError,
    Inbox,
    Limits,
    Piece,
    Terms,
    TooFewClientsError,
    UploadError,
    UploadSetError,
    uploads,
)
from sharetorch.fl.aggregation.aggregation import CLIENT
from sharetorch.mpc import testing
from sharetorch.mpc.errors import EncodingRangeError, IdNotUniqueError, NotFiniteError, ProtocolError
from tests.fl.aggregation.tools import updates

ROUND = bytes(range(16))
LIMITS = Limits(8.0, 4, weight=100)


def terms(aggregators: int = 2, dimension: int = 5, weighted: bool = False) -> Terms:
    return Terms(ROUND, dimension, aggregators, LIMITS, weighted)


def expanded(*names: Any, count: int) -> np.ndarray:
    out = np.empty(count, np.int64)
    uploads.expand(*names, out)
    return out


def words(piece: Piece, count: int) -> np.ndarray:
    if piece.seeded:
        return expanded(piece.contents, piece.round, piece.upload, piece.rank, count=count)
    return np.frombuffer(piece.contents, "<i8")


@pytest.mark.parametrize("aggregators", [2, 3, 5])
@pytest.mark.parametrize("bulk", [0, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_pieces_add_up_to_the_update(aggregators: int, bulk: int, weighted: bool) -> None:
    agreed, (update,) = terms(aggregators, weighted=weighted), updates(1, 5)
    pieces = agreed.split(update, 7 if weighted else None, bulk=bulk)
    assert [piece.rank for piece in pieces] == list(range(aggregators))
    assert [piece.seeded for piece in pieces] == [rank != bulk for rank in range(aggregators)]
    total = sum(words(piece, agreed.words) for piece in pieces)
    assert total.tolist() == [*(update * 2**16).long().tolist(), *([7] if weighted else [])]


@pytest.mark.parametrize("aggregators", [2, 3, 5])
@pytest.mark.parametrize("dimension", [1, 1000])
def test_a_client_sends_8_bytes_a_coordinate_and_seeds(aggregators: int, dimension: int) -> None:
    agreed = terms(aggregators, dimension)
    sent = sum(len(piece.contents) for piece in agreed.split(torch.zeros(dimension)))
    assert sent == agreed.upload_bytes == 8 * dimension + 32 * (aggregators - 1)


def test_streams_differ_by_round_upload_and_aggregator() -> None:
    seed, ids = bytes(32), [bytes(16), bytes(15) + b"\x01"]
    streams = {expanded(seed, *names, count=4).tobytes() for names in product(ids, ids, (0, 1))}
    assert len(streams) == 8


def test_two_uploads_of_one_update_have_nothing_in_common() -> None:
    first, second = (terms().split(torch.ones(5)) for _ in range(2))
    assert first[0].upload != second[0].upload
    assert not (words(first[0], 5) == words(second[0], 5)).any()


@pytest.mark.parametrize(
    ("update", "error", "message"),
    [
        (torch.tensor([math.nan] * 5), NotFiniteError, "NaN"),
        (torch.tensor([math.inf] * 5), NotFiniteError, "infinity"),
        (torch.tensor([8.5] + [0.0] * 4), EncodingRangeError, "declared 8"),
        (torch.zeros(4), UploadError, "shape"),
        (torch.zeros(1, 5), UploadError, "flatten"),
    ],
)
def test_updates_that_cannot_be_sent(update: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        terms().split(update)


@pytest.mark.parametrize(
    ("weight", "error"),
    [(None, UploadError), (101, EncodingRangeError), (-1, EncodingRangeError), (1.5, EncodingRangeError),
     (math.nan, NotFiniteError), (math.inf, NotFiniteError)],
)  # fmt: skip
def test_weights_that_cannot_be_sent(weight: int | None, error: type[Exception]) -> None:
    with pytest.raises(error):
        terms(weighted=True).split(torch.zeros(5), weight)


def test_a_weight_where_none_is_agreed() -> None:
    with pytest.raises(UploadError, match="takes none"):
        terms().split(torch.zeros(5), 3)


def test_the_same_id_twice_is_refused_and_changes_nothing() -> None:
    made = Aggregation(testing.session(), 5, LIMITS, "sum")
    pieces = made.terms.split(torch.ones(5))
    for piece in pieces:
        made.receive(piece)
    for piece in pieces:
        with pytest.raises(DuplicateUploadError, match=piece.upload.hex()):
            made.receive(piece)
    assert made.close() == 1
    assert made.open().tolist() == [1.0] * 5
    assert issubclass(DuplicateUploadError, IdNotUniqueError)


def changed(piece: Piece, **fields: object) -> Piece:
    return Piece(**{**vars(piece), **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    "fields",
    [
        {"contents": b""},
        {"contents": bytes(33)},
        {"round": bytes(16)},
        {"upload": b"short"},
        {"rank": 2},
        {"rank": -1},
    ],
)
def test_malformed_pieces_leave_no_trace(rank: int, fields: dict[str, object]) -> None:
    made = Aggregation(testing.session(), 5, LIMITS, "sum")
    pieces = made.terms.split(torch.ones(5))
    with pytest.raises(UploadError):
        made.receive(changed(pieces[rank], **fields))
    for piece in pieces:
        made.receive(piece)
    assert made.close() == 1
    assert made.open().tolist() == [1.0] * 5


def test_pieces_for_another_aggregator_are_refused() -> None:
    first, second = terms().split(torch.zeros(5))
    with pytest.raises(UploadError, match="not for aggregator 1"):
        Inbox(terms(), 1).accept(first)
    Inbox(terms(), 1).accept(second)


def test_no_more_clients_than_declared() -> None:
    made = Aggregation(testing.session(), 5, LIMITS, "sum")
    for _ in range(4):
        made.submit(torch.zeros(5))
    with pytest.raises(UploadError, match="4 clients are declared"):
        made.submit(torch.zeros(5))
    assert made.close() == 4


def test_late_pieces_are_refused() -> None:
    made = Aggregation(testing.session(), 5, LIMITS, "sum")
    made.submit(torch.ones(5))
    late = made.terms.split(torch.ones(5))
    made.close()
    with pytest.raises(UploadError, match="next round"):
        made.receive(late[0])
    with pytest.raises(AggregationError, match="closed already"):
        made.close()
    assert made.open().tolist() == [1.0] * 5


def test_results_come_after_the_agreement() -> None:
    made = Aggregation(testing.session(), 5, LIMITS, "sum")
    made.submit(torch.zeros(5))
    with pytest.raises(AggregationError, match="close"):
        made.open()


def test_a_round_without_clients_is_an_error() -> None:
    with pytest.raises(TooFewClientsError):
        Aggregation(testing.session(), 5, LIMITS, "sum").close()


@pytest.mark.parametrize("aggregators", [2, 3])
@pytest.mark.parametrize("dropped", range(6))
def test_any_clients_may_vanish_at_any_moment(aggregators: int, dropped: int) -> None:
    """Those that vanish have reached no aggregator, or some of them, in different orders."""
    n = 6
    x = updates(n, 7)
    limits = Limits(8.0, n)
    for start in range(n):
        made = Aggregation(testing.session(aggregators), 7, limits, "sum")
        gone = {(start + step) % n for step in range(dropped)}
        pieces = [made.terms.split(update) for update in x]
        for rank in range(aggregators):
            order = range(n) if rank == 0 else range(n - 1, -1, -1)
            for client in order:
                if client not in gone or (client + start + rank) % (aggregators + 1) == 0:
                    made.receive(pieces[client][rank])
        assert made.close() == n - dropped
        survivors = [client for client in range(n) if client not in gone]
        assert (made.open() * 2**16).tolist() == (x[survivors].sum(0) * 2**16).tolist()


@pytest.mark.parametrize("n", [31, 32, 33, 100])
def test_there_is_room_for_all_declared_clients(n: int) -> None:
    x = updates(n, 3)
    made = Aggregation(testing.session(), 3, Limits(8.0, n), "sum")
    for update in x:
        made.submit(update)
    assert made.close() == n
    assert torch.equal(made.open(), x.sum(0))


def inboxes(count: int = 2) -> list[Inbox]:
    made = [Inbox(terms(), rank) for rank in range(2)]
    for _ in range(count):
        for piece in terms().split(torch.zeros(5)):
            made[piece.rank].accept(piece)
    return made


def test_aggregators_agree_by_a_hash() -> None:
    first, second = inboxes()
    announced = [first.announce(), second.announce()]
    digests = [first.settle(announced), second.settle(announced)]
    assert digests[0] == digests[1]
    first.confirm(digests)
    assert first.shares().updates.shape == (2, 5)
    with pytest.raises(UploadSetError, match="once"):
        first.shares()


def test_no_shares_before_the_agreement() -> None:
    first, second = inboxes()
    with pytest.raises(UploadSetError):
        first.shares()
    announced = [first.announce(), second.announce()]
    first.settle(announced)
    with pytest.raises(UploadSetError):
        first.shares()


def test_a_carrier_that_tells_different_things_is_noticed() -> None:
    first, second = inboxes(3)
    ids = first.announce()
    digests = [first.settle([ids, ids[:2]]), second.settle([ids, ids])]
    for inbox in (first, second):
        with pytest.raises(UploadSetError, match="another set"):
            inbox.confirm(digests)
        with pytest.raises(UploadSetError):
            inbox.shares()


def test_a_carrier_that_changes_the_order_is_noticed() -> None:
    first, second = inboxes(3)
    ids = first.announce()
    digests = [first.settle([ids, ids]), second.settle([ids[::-1], ids])]
    with pytest.raises(UploadSetError, match="another set"):
        second.confirm(digests)


def test_an_aggregator_wants_to_hear_its_own_announcement() -> None:
    first, _ = inboxes()
    with pytest.raises(UploadSetError, match="own among them"):
        first.settle([(), first.announce()])
    with pytest.raises(UploadSetError):
        first.settle([first.announce()])
    assert issubclass(UploadSetError, ProtocolError)


def test_an_upload_announced_twice_is_noticed() -> None:
    _, second = inboxes()
    ids = second.announce()
    with pytest.raises(UploadSetError, match="twice"):
        second.settle([(*ids, ids[0]), ids])


def test_what_is_sent_is_counted() -> None:
    made = Aggregation(testing.session(3), 5, LIMITS, "sum")
    for _ in range(4):
        made.submit(torch.zeros(5))
    made.close()
    received = {pair: size for pair, size in made.traffic.online.items() if pair[0] == CLIENT}
    assert received == {(CLIENT, 0): 4 * 40, (CLIENT, 1): 4 * 32, (CLIENT, 2): 4 * 32}
    assert sum(received.values()) == 4 * made.terms.upload_bytes
    assert [made.traffic.sent_by(rank) for rank in range(3)] == [2 * (4 * 16 + 32)] * 3
    assert made.traffic.rounds == 2


@pytest.mark.parametrize("text", [repr, str, "{}".format])
def test_what_is_printed_holds_no_secret(text: object) -> None:
    pieces = terms().split(torch.tensor([1.25] * 5))
    made = inboxes()[0]
    for thing in (*pieces, made, Aggregation(testing.session(), 5, LIMITS)):
        printed = text(thing)  # type: ignore[operator]
        assert "1.25" not in printed and "81920" not in printed and "\\x" not in printed
        assert not any(piece.contents.hex() in printed for piece in pieces)


# ------------------------------------------------------------------------------------------------- sums without rows


@pytest.mark.parametrize("name", ["sum", "mean"])
@pytest.mark.parametrize("aggregators", [2, 3])
def test_a_sum_is_that_of_the_rows(name: str, aggregators: int) -> None:
    session = testing.session(aggregators, "tables")
    made, x = Aggregation(session, 70_001, Limits(8.0, 4), name), updates(4, 70_001)
    for update in x:
        made.submit(update)
    assert made.close() == 4
    wanted = x.sum(0) / (4 if name == "mean" else 1)
    held = [len(member.store) for member in session.parties]
    with session.costs.listen() as heard:
        assert torch.equal(made.open(), wanted), "by the sums that aggregators take"
    assert heard.total().rounds == made.cost(opened=True).rounds == 1
    assert [len(member.store) for member in session.parties] == [count + 1 for count in held], "no rows are written out"
    assert torch.equal(made.updates.get().double(), x)
    assert torch.equal(made.open(), wanted), "by the rows"
    assert float((made.result().get() - wanted).abs().max()) <= 2**-15


def test_sums_and_rows_are_given_after_the_agreement_only() -> None:
    session = testing.session(2, "tables")
    made = Aggregation(session, 5, Limits(8.0, 4), "mean")
    for update in updates(2, 5):
        made.submit(update)
    for look in (made.open, made.result, lambda: made.updates, lambda: made.weights):
        with pytest.raises(AggregationError, match="close"):
            look()
    inbox = made._inboxes[0]
    for hand_out in (inbox.total, inbox.shares):
        with pytest.raises(UploadSetError, match="after the set is agreed"):
            hand_out()
    made.close()
    inbox.shares()
    for hand_out in (inbox.total, inbox.shares):
        with pytest.raises(UploadSetError, match="once"):
            hand_out()
