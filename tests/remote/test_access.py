"""Who may use, read, change and delete what a worker holds, and what is told to those who may not."""

import pytest
import torch

from sharetorch import VirtualWorker
from sharetorch.mpc.errors import (
    GetNotPermittedError,
    MalformedRequestError,
    ObjectNotFoundError,
    RemoteOperationError,
)
from sharetorch.remote import wire
from sharetorch.remote.messages import (
    Clear,
    Done,
    Execute,
    Failed,
    Fetch,
    Forget,
    Forward,
    Inspect,
    Invoke,
    Label,
    Made,
    Release,
    Reply,
    Search,
    Store,
    Values,
)
from sharetorch.remote.node import error_of
from sharetorch.remote.operators import TELLING, find
from sharetorch.remote.pointer import pointer_to
from sharetorch.remote.whitelist import ALLOWED
from sharetorch.remote.wire import Ref

SECRET = 424242.5


@pytest.fixture
def secret(bob):
    """A value only alice may have, at a worker everybody may compute at."""
    value = torch.tensor([SECRET, 2.0, -3.0])
    assert ask(bob, Store([value], [1], [], None, ["alice"]), "alice").results
    return Ref(1)


@pytest.fixture
def vault():
    made = VirtualWorker(id="vault_for_access", private=True)
    made.clear_objects()
    yield made
    made.clear_objects()


def ask(worker, message, sender="mallory"):
    reply = wire.Decoder(Reply, worker).decode(worker.receive(wire.encode(message), sender))
    if isinstance(reply, Failed):
        raise error_of(reply, worker.id)
    return reply


def run(worker, name, *args, sender="mallory", **kwargs):
    reply = ask(worker, Execute(name, list(args), kwargs), sender)
    refs = [Ref(meta.number) for meta in reply.results if meta is not None]
    return refs[0] if reply.form == "one" else refs


def put(worker, value, sender="mallory", **options):
    return Ref(ask(worker, Store([value], [], **options), sender).results[0].number)


def fetch(worker, ref, sender="mallory", **options):
    return ask(worker, Fetch([ref.number], False, **options), sender).values[0]


def assert_hidden(worker, ref, sender="mallory"):
    with pytest.raises(GetNotPermittedError) as refused:
        fetch(worker, ref, sender)
    assert str(SECRET) not in str(refused.value)


# ------------------------------------------------------------------------------------------ what follows from secrets


@pytest.mark.parametrize(
    "operation",
    [
        lambda bob, x: run(bob, "aten.mul.Scalar", x, 2.0),
        lambda bob, x: run(bob, "aten.sum.default", x),
        lambda bob, x: run(bob, "aten.detach.default", x),
        lambda bob, x: run(bob, "aten.clone.default", x),
        lambda bob, x: run(bob, "aten.view.default", x, [3, 1]),
        lambda bob, x: run(bob, "aten.contiguous.default", x),
        lambda bob, x: run(bob, "aten.max.dim", x, 0)[1],
        lambda bob, x: run(bob, "aten.unbind.int", x)[0],
        lambda bob, x: run(bob, "aten.zeros_like.default", x),
        lambda bob, x: run(bob, "aten.cat.default", [put(bob, torch.ones(2)), x]),
        lambda bob, x: run(
            bob,
            "aten.where.self",
            run(bob, "aten.gt.Scalar", x, 0.0),
            put(bob, torch.ones(3)),
            put(bob, torch.zeros(3)),
        ),
        lambda bob, x: run(bob, "aten.sort.default", x)[1],
        lambda bob, x: run(bob, "aten.t.default", run(bob, "aten.view.default", x, [1, 3])),
        lambda bob, x: Ref(ask(bob, Invoke("fix_precision", x.number, [], {})).results[0].number),
    ],
)
def test_what_is_computed_from_a_secret_is_secret(bob, secret, operation):
    made = operation(bob, secret)
    assert_hidden(bob, made)
    fetch(bob, made, "alice")


def test_readers_of_a_result_may_read_every_operand(bob):
    x = put(bob, torch.ones(2), "alice", readers=["alice", "carol"])
    y = put(bob, torch.ones(2), "alice", readers=["alice", "bob"])
    made = run(bob, "aten.add.Tensor", x, y)
    assert torch.equal(fetch(bob, made, "alice"), torch.full((2,), 2.0))
    for name in ("carol", "bob", "mallory"):
        assert_hidden(bob, made, name)


def test_a_secret_written_into_public_memory_makes_all_its_views_secret(bob, secret):
    base = put(bob, torch.zeros(2, 3))
    before = run(bob, "aten.select.int", base, 0, 1)
    window = run(bob, "aten.select.int", base, 0, 0)
    flat = run(bob, "aten.view.default", base, [6])
    run(bob, "aten.copy_.default", window, secret)
    after = run(bob, "aten.as_strided.default", base, [3], [1], 0)
    for ref in (base, before, window, flat, after, run(bob, "aten.clone.default", flat)):
        assert_hidden(bob, ref)


@pytest.mark.parametrize(
    "write",
    [
        lambda bob, x, s: run(bob, "aten.add_.Tensor", x, s),
        lambda bob, x, s: run(bob, "aten.index_put_.default", x, [put(bob, torch.arange(3))], s),
        lambda bob, x, s: run(bob, "aten.masked_scatter_.default", x, put(bob, torch.ones(3, dtype=torch.bool)), s),
        lambda bob, x, s: run(bob, "aten.maximum.out", s, s, out=x),
        lambda bob, x, s: run(bob, "aten.set_.source_Tensor", x, s),
        lambda bob, x, s: run(
            bob,
            "aten.native_batch_norm.default",
            run(bob, "aten.view.default", s, [1, 3]),
            None,
            None,
            x,
            put(bob, torch.ones(3)),
            True,
            0.1,
            1e-5,
        ),
    ],
)
def test_every_way_to_write_a_secret_into_public_memory(bob, secret, write):
    target = put(bob, torch.zeros(3))
    view = run(bob, "aten.alias.default", target)
    try:
        write(bob, target, secret)
    except RemoteOperationError:
        run(bob, "aten.copy_.default", target, secret)
    assert_hidden(bob, target)
    if torch.equal(bob.objects[view.number].value, bob.objects[target.number].value):
        assert_hidden(bob, view)


def test_after_set_two_objects_share_their_readers(bob, secret):
    x = put(bob, torch.zeros(3))
    public = put(bob, torch.ones(3))
    run(bob, "aten.set_.source_Tensor", x, public)
    assert torch.equal(fetch(bob, x), torch.ones(3))
    run(bob, "aten.copy_.default", public, secret)
    assert_hidden(bob, x)


def test_release_of_one_object_opens_neither_its_base_nor_what_follows(bob, secret):
    total = run(bob, "aten.sum.default", secret, sender="alice")
    part = run(bob, "aten.select.int", secret, 0, 1, sender="alice")
    for ref in (total, part):
        ask(bob, Release(ref.number, ["mallory"]), "alice")
    assert fetch(bob, total).item() == pytest.approx(SECRET - 1)
    assert fetch(bob, part).item() == 2.0
    assert_hidden(bob, secret)
    assert_hidden(bob, run(bob, "aten.mul.Scalar", total, 2.0))
    assert_hidden(bob, run(bob, "aten.as_strided.default", part, [3], [1], 0))


def test_only_the_owner_releases(bob, secret):
    with pytest.raises(GetNotPermittedError):
        ask(bob, Release(secret.number, ["mallory"]))
    made = run(bob, "aten.sum.default", secret)
    with pytest.raises(GetNotPermittedError):
        fetch(bob, made)


def test_what_was_computed_from_anothers_data_is_not_its_makers_to_release(bob):
    bob.private = True
    own = bob.load(torch.tensor([SECRET]), tags=("#own",))
    copy = run(bob, "aten.clone.default", Ref(own.number))
    with pytest.raises(GetNotPermittedError, match="computed from somebody else"):
        ask(bob, Release(copy.number, ["mallory"]))
    with pytest.raises(GetNotPermittedError):
        fetch(bob, copy)
    given = put(bob, torch.tensor([1.0]), "alice", readers=["carol"])
    ask(bob, Release(given.number, ["dave"]), "alice")


# ----------------------------------------------------------------------------------------------------- other channels


def test_errors_do_not_quote_secrets(bob):
    index = put(bob, torch.tensor([0, 424242]), "alice", readers=["alice"])
    table = put(bob, torch.ones(4, 2))
    with pytest.raises(RemoteOperationError) as refused:
        run(bob, "aten.index_select.default", table, 0, index)
    assert "424242" not in str(refused.value)
    with pytest.raises((IndexError, RuntimeError), match="424242|out of range"):
        run(bob, "aten.index_select.default", table, 0, index, sender="alice")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("aten.nonzero.default", []),
        ("aten._unique2.default", []),
        ("aten.unique_consecutive.default", []),
        ("aten.unique_dim.default", [0]),
        ("aten._unique.default", []),
    ],
)
def test_the_number_of_results_tells_nothing(bob, secret, name, args):
    with pytest.raises(GetNotPermittedError):
        run(bob, name, secret, *args)
    run(bob, name, secret, *args, sender="alice")


def test_masks_do_not_tell_how_many_they_hold(bob, secret):
    mask = run(bob, "aten.gt.Scalar", secret, 0.0)
    x = put(bob, torch.arange(3.0))
    for name, args in (
        ("aten.masked_select.default", [x, mask]),
        ("aten.index.Tensor", [x, [mask]]),
        ("aten.index_put_.default", [x, [mask], put(bob, torch.ones(2))]),
        ("aten.index_put.default", [x, [mask], put(bob, torch.ones(2))]),
        ("aten.masked_scatter.default", [x, mask, put(bob, torch.ones(1))]),
    ):
        with pytest.raises(GetNotPermittedError):
            run(bob, name, *args)
    assert_hidden(bob, run(bob, "aten.index_put.default", x, [mask], put(bob, torch.tensor(1.0))))
    assert_hidden(bob, mask)


def test_integers_tell_no_sizes(bob):
    counts = put(bob, torch.tensor([3, 1]), "alice", readers=["alice"])
    number = put(bob, torch.tensor(7), "alice", readers=["alice"])
    for name, args in (
        ("aten.bincount.default", [counts]),
        ("aten.repeat_interleave.Tensor", [counts]),
        ("aten.one_hot.default", [counts]),
    ):
        with pytest.raises(GetNotPermittedError):
            run(bob, name, *args)
    for name, args in (
        ("aten.zeros.default", [[number]]),
        ("aten.full.default", [[2], number]),
        ("aten.arange.default", [number]),
    ):
        with pytest.raises(MalformedRequestError):
            run(bob, name, *args)


def test_operations_that_hand_out_numbers_are_not_on_the_list(bob, secret):
    for name in (
        "aten._local_scalar_dense.default",
        "aten.item.default",
        "aten.equal.default",
        "aten.allclose.default",
        "aten.is_nonzero.default",
    ):
        with pytest.raises(NotImplementedError):
            run(bob, name, secret)


def test_every_listed_operation_whose_shape_torch_cannot_tell_is_marked():
    """Torch marks operations with data-dependent results itself; none is missed."""
    marked = {
        base
        for base in ALLOWED
        for form in getattr(torch.ops.aten, base).overloads()
        if torch.Tag.dynamic_output_shape in getattr(getattr(torch.ops.aten, base), form).tags
    }
    by_arguments = {"index", "masked_scatter", "nonzero_static"}
    assert marked - by_arguments <= TELLING
    assert find("aten.index.Tensor").tells_of is not None


def test_memory_left_by_others_is_not_handed_out(bob):
    left = [torch.full((n,), SECRET) for n in (10, 100, 1000, 5000)]
    del left
    for name, args in (
        ("aten.empty.memory_format", [[1000]]),
        ("aten.empty_strided.default", [[2], [4999]]),
        ("aten.new_empty.default", [put(bob, torch.ones(1)), [100]]),
        ("aten.empty_like.default", [put(bob, torch.ones(10))]),
    ):
        made = run(bob, name, *args)
        storage = bob.objects[made.number].value.untyped_storage()
        assert not any(bytes(storage))


def test_a_view_does_not_reach_beyond_its_own_memory(bob):
    whole = torch.tensor([1.0, SECRET])
    record = bob.load(whole[:1])
    with pytest.raises(RuntimeError):
        run(bob, "aten.as_strided.default", Ref(record.number), [2], [1])
    with pytest.raises(NotImplementedError):
        run(bob, "aten._reshape_alias.default", Ref(record.number), [2], [1])


# ---------------------------------------------------------------------------------------------------- private workers


def test_another_clients_object_looks_like_none(vault):
    theirs = put(vault, torch.ones(2), "alice")
    texts = set()
    for number in (theirs.number, theirs.number + 10_000_000):
        for message in (
            Inspect(number),
            Fetch([number], False),
            Search([], number),
            Label(number, ["x"]),
            Release(number, ["x"]),
            Forward([number], "bob", False),
            Invoke("get", number, [], {}),
            Execute("aten.neg.default", [Ref(number)], {}),
        ):
            with pytest.raises(ObjectNotFoundError) as refused:
                ask(vault, message)
            texts.add(str(refused.value).replace(str(number), "N"))
    assert len(texts) == 1
    assert ask(vault, Search([])).objects == []


def test_others_objects_are_not_deleted(vault):
    theirs, mine = put(vault, torch.ones(2), "alice"), put(vault, torch.ones(2))
    assert isinstance(ask(vault, Forget([theirs.number, mine.number])), Done)
    mine = put(vault, torch.ones(2))
    assert isinstance(ask(vault, Clear()), Done)
    assert set(vault.objects) == {theirs.number}
    assert mine.number not in vault.objects


def test_data_of_the_worker_can_be_computed_with_but_not_read_or_changed(vault):
    data = Ref(vault.load(torch.tensor([SECRET, 1.0]), tags=("#data",)).number)
    assert [meta.number for meta in ask(vault, Search(["#data"])).objects] == [data.number]
    assert_hidden(vault, run(vault, "aten.mean.default", data))
    view = run(vault, "aten.view.default", data, [2, 1])
    for ref in (data, view):
        with pytest.raises(GetNotPermittedError):
            run(vault, "aten.zero_.default", ref)
        with pytest.raises(GetNotPermittedError):
            run(vault, "aten.set_.source_Tensor", ref, put(vault, torch.ones(2)))
    copy = run(vault, "aten.clone.default", data)
    run(vault, "aten.zero_.default", copy)
    assert_hidden(vault, copy)
    assert vault.objects[data.number].value[0] == SECRET
    with pytest.raises(GetNotPermittedError):
        ask(vault, Label(data.number, ["#mine"]))
    with pytest.raises(GetNotPermittedError):
        ask(vault, Store([torch.ones(1)], [], ["#data"], None, None, vault.id))


def test_whoever_asks_may_be_let_in_by_the_owner(vault):
    data = Ref(vault.load(torch.tensor([5.0])).number)
    with pytest.raises(GetNotPermittedError, match="waits"):
        fetch(vault, data, "carol", reason="a study")
    (request,) = vault.requests
    assert (request.user, request.reason, request.object, request.state) == (
        "carol",
        "a study",
        data.number,
        "waiting",
    )
    with pytest.raises(GetNotPermittedError, match="waits"):
        fetch(vault, data, "carol", reason="again")
    assert len(vault.requests) == 1
    request.approve()
    assert fetch(vault, data, "carol").item() == 5.0
    assert vault.requests == []
    assert_hidden(vault, data)


def test_whoever_asks_may_be_turned_away(vault):
    data = Ref(vault.load(torch.tensor([5.0])).number)
    with pytest.raises(GetNotPermittedError):
        fetch(vault, data, "carol", reason="a study")
    vault.requests[0].deny()
    with pytest.raises(GetNotPermittedError, match="denied"):
        fetch(vault, data, "carol", reason="a study")
    assert vault.requests == []


def test_to_name_a_user_gives_nobody_more(bob, secret):
    with pytest.raises(GetNotPermittedError):
        fetch(bob, secret, "mallory", user="alice")
    with pytest.raises(GetNotPermittedError):
        fetch(bob, secret, "alice", user="mallory")
    assert fetch(bob, secret, "alice", user="alice")[0] == SECRET
    assert fetch(bob, secret, "me", user="alice")[0] == SECRET  # the driver of this process speaks for its users


# ---------------------------------------------------------------------------------------------------- between workers


def test_a_secret_does_not_go_to_whoever_may_not_have_it(bob, carol, secret):
    for message in (
        Forward([1], "carol", True),
        Invoke("send", 1, ["carol"], {}),
        Invoke("share", 1, [["carol", "alice"], "bob", {}], {}),
    ):
        with pytest.raises(GetNotPermittedError):
            ask(bob, message)
    assert len(carol.objects) == 0
    assert 1 in bob.objects


def test_a_secret_keeps_its_readers_where_it_goes(bob, carol):
    x = put(bob, torch.tensor([SECRET]), "alice", readers=["alice", "carol"])
    (there,) = ask(bob, Forward([x.number], "carol", False)).results
    assert_hidden(carol, Ref(there.number))
    pointer = ask(bob, Invoke("send", x.number, ["carol"], {})).results[0]
    assert pointer.kind == "pointer"
    for number in carol.objects:
        assert_hidden(carol, Ref(number))
        assert fetch(carol, Ref(number), "alice")[0] == SECRET


def test_a_worker_is_not_made_to_fetch_for_others_what_only_it_may_have(alice, bob):
    """Bob may read alice's object; mallory leaves a pointer to it at bob, and asks him to fetch it."""
    x = put(alice, torch.tensor([SECRET]), "alice", readers=["alice", "bob"])
    found = ask(alice, Inspect(x.number), "bob").objects[0]
    planted = put(bob, pointer_to(found, bob.link("alice"), owned=False))
    for message in (
        Invoke("get", planted.number, [], {}),
        Invoke("share", planted.number, [["alice", "bob"], "carol", {}], {}),
        Invoke("send", planted.number, ["carol"], {}),
    ):
        try:
            reply = ask(bob, message)
        except GetNotPermittedError:
            continue
        value = fetch(bob, Ref(reply.results[0].number))
        assert str(SECRET) not in repr(value)
    assert x.number in alice.objects


# -------------------------------------------------------------------------------------------------------------- audit


def test_every_refusal_is_in_the_audit_without_values(bob, secret):
    before = bob.audit.total
    for message in (
        Fetch([1], False),
        Execute("aten.nonzero.default", [secret], {}),
        Execute("aten.item.default", [secret], {}),
        Inspect(999),
    ):
        with pytest.raises(Exception):  # noqa: B017 - the kinds are told apart below
            ask(bob, message)
    entries = list(bob.audit)[before - bob.audit.total :]
    assert [entry.outcome for entry in entries] == [
        "GetNotPermittedError",
        "GetNotPermittedError",
        "OperationNotAllowedError",
        "ObjectNotFoundError",
    ]
    assert {entry.sender for entry in entries} == {"mallory"}
    assert bob.audit.refused()[-4:] == entries
    assert str(SECRET) not in repr(list(bob.audit))


def test_made_and_values_are_what_they_say(bob):
    assert isinstance(ask(bob, Store([torch.ones(1)], [55])), Made)
    assert isinstance(ask(bob, Fetch([55], True)), Values)
    assert 55 not in bob.objects
