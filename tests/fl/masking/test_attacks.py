"""A server or a client that does not keep to the protocol learns nothing more, and is told so."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import combinations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sharetorch.fl.masking import (
    Client,
    FileLedger,
    ForgedMessageError,
    Limits,
    OutOfTurnError,
    Parameters,
    RequestRefusedError,
    RoundReusedError,
    Server,
    TooFewSurvivorsError,
    Trust,
    convene,
)
from sharetorch.fl.masking.bounds import required
from sharetorch.fl.masking.client import listed
from sharetorch.fl.masking.enrolment import KEYS, OPENING, SURVIVORS, Enrolment, statement
from sharetorch.fl.masking.graph import Graph
from sharetorch.fl.masking.messages import (
    SHARE_BYTES,
    Document,
    Included,
    Keys,
    Opened,
    Opening,
    Sealed,
    Signed,
    Survivors,
    Unmask,
    decode,
    encode,
    largest,
    packed,
)
from sharetorch.fl.masking.rounds import Round, Step
from sharetorch.mpc.errors import ConfigurationError, LimitExceededError, MalformedRequestError
from sharetorch.mpc.network.identity import Peer
from tests.fl.masking.federations import ALONE, INTEGERS, Run, begun, federation, replayed, updates_of

SPARSE = Parameters(6, 5, 2)
VICTIM = "client02"
changed = msgspec.structs.replace


def require_over(client: Client) -> None:
    """It has forgotten its keys and shares."""
    assert client.step is Step.OVER
    kept = vars(client)
    assert not kept["_received"] and not kept["_advertised"]
    assert not {"_seed", "_mask_pair", "_share_pair"} & kept.keys()


# --------------------------------------------------------------------------------------------------- what is unmasked


@pytest.fixture
def asked() -> Run:
    """A round in which client04 has dropped out, at its last step."""
    return begun(5).advertise().share().mask(without=["client04"]).agree()


@pytest.mark.parametrize(
    ("survivors", "dropped"),
    [
        ([0, 1, 3], [1, 4]),
        ([0, 1, 3, 4], [4]),
        ([0, 1, 3, 4], []),
        ([0, 1], [3, 4]),
        ([], [0, 1, 3, 4]),
        ([0, 0, 1, 3], [4]),
        ([0, 1, 3], [4, 4]),
        ([0, 1, 2, 3], [4]),
        ([0, 1, 3], [2, 4]),
        ([0, 1, 3, 9], [4]),
    ],
    ids=str,
)
def test_lists_that_overlap_or_do_not_hold_are_not_answered(
    asked: Run, survivors: list[int], dropped: list[int]
) -> None:
    message = asked.requests[VICTIM]
    assert (message.survivors, message.dropped) == ([0, 1, 3], [4])
    with pytest.raises(RequestRefusedError, match="Both would show its update alone"):
        asked.clients[VICTIM].reveal(changed(message, survivors=survivors, dropped=dropped))
    require_over(asked.clients[VICTIM])


def test_a_client_answers_once(asked: Run) -> None:
    asked.clients[VICTIM].reveal(asked.requests[VICTIM])
    require_over(asked.clients[VICTIM])
    with pytest.raises(OutOfTurnError, match="A step is done once"):
        asked.clients[VICTIM].reveal(asked.requests[VICTIM])


@pytest.mark.parametrize("step", ["share", "mask", "agree"])
def test_a_step_asked_for_twice_ends_the_round_for_the_client(step: str) -> None:
    run = begun(4).advertise().share().mask()
    again: dict[str, Callable[[Client], object]] = {
        "share": lambda client: client.share(run.keys[VICTIM]),
        "mask": lambda client: client.mask(run.deliveries[VICTIM], *run.updates[VICTIM]),
        "agree": lambda client: (client.agree(run.survivors[VICTIM]), client.agree(run.survivors[VICTIM])),
    }
    with pytest.raises(OutOfTurnError):
        again[step](run.clients[VICTIM])
    require_over(run.clients[VICTIM])


def test_fewer_signatures_than_the_threshold_open_nothing(asked: Run) -> None:
    message = asked.requests[VICTIM]
    with pytest.raises(TooFewSurvivorsError, match="Signatures came from 1 neighbours, and 2 are needed"):
        asked.clients[VICTIM].reveal(changed(message, signatures=message.signatures[:1]))


def test_one_signature_does_not_count_twice(asked: Run) -> None:
    message = asked.requests[VICTIM]
    with pytest.raises(RequestRefusedError, match="came twice from one member"):
        asked.clients[VICTIM].reveal(changed(message, signatures=[message.signatures[0]] * 3))


def test_a_signature_over_another_list_opens_nothing(asked: Run) -> None:
    message = asked.requests[VICTIM]
    content = listed(packed([True] * 5))
    data = statement(SURVIVORS, asked.round.digest, 0, content)
    other = Signed(0, asked.federation.identities["client00"].sign(data))
    with pytest.raises(ForgedMessageError, match="client00 over the survivors"):
        asked.clients[VICTIM].reveal(changed(message, signatures=[other, *message.signatures[1:]]))


def test_a_client_signs_no_second_list() -> None:
    run = begun(5).advertise().share().mask()
    run.clients[VICTIM].agree(run.survivors[VICTIM])
    fewer = shortened(run, run.survivors[VICTIM], without=[4])
    with pytest.raises(OutOfTurnError):
        run.clients[VICTIM].agree(fewer)
    require_over(run.clients[VICTIM])


def shortened(run: Run, message: Survivors, without: Iterable[int]) -> Survivors:
    """The list as if others had dropped out."""
    left = [number not in {*without} for number in range(len(run.round.ids))]
    return Survivors(message.round, packed(left), [each for each in message.statements if left[each.member]])


def test_a_list_without_the_client_itself_is_not_signed() -> None:
    run = begun(5).advertise().share().mask()
    with pytest.raises(RequestRefusedError, match="leaves this client out"):
        run.clients[VICTIM].agree(shortened(run, run.survivors[VICTIM], without=[2]))


def test_a_list_below_the_threshold_is_not_signed() -> None:
    run = begun(5).advertise().share().mask()
    with pytest.raises(TooFewSurvivorsError, match="Their sum could show a part"):
        run.clients[VICTIM].agree(shortened(run, run.survivors[VICTIM], without=[0, 1, 3]))


def test_a_list_that_cuts_the_circle_is_not_signed() -> None:
    """All neighbours on one side of the victim are said to have dropped out."""
    run = begun(14, parameters=Parameters(8, 4, 2), trust=Trust(0, 0, server="curious")).advertise().share().mask()
    order = run.round.graph.order
    place = order.index(2)
    behind = [order[(place + step) % 14] for step in (1, 2, 3)]
    with pytest.raises(TooFewSurvivorsError, match="unevenly placed"):
        run.clients[VICTIM].agree(shortened(run, run.survivors[VICTIM], without=behind))


def test_a_survivor_whose_shares_never_came_is_not_signed() -> None:
    run = begun(5).advertise().share(without=["client04"]).mask()
    message = run.survivors[VICTIM]
    with pytest.raises(RequestRefusedError, match="names a neighbour whose shares never came"):
        run.clients[VICTIM].agree(changed(message, present=packed([True] * 5)))


def test_a_survivor_without_all_its_masks_is_not_signed() -> None:
    """The server gave client00 the shares of two neighbours only, whose masks it can take off."""
    run = begun(6).advertise().share()
    few = changed(run.deliveries["client00"], boxes=run.deliveries["client00"].boxes[-3:])
    poor = run.clients["client00"].mask(few, *run.updates["client00"])
    for id in run.updates.keys() - {"client00"}:
        run.server.on_masked(id, run.clients[id].mask(run.deliveries[id], *run.updates[id]))
    with pytest.raises(ForgedMessageError, match="did not use exactly the masks"):
        run.server.on_masked("client00", poor)
    message = run.server.survivors()[VICTIM]
    forged = Survivors(
        message.round,
        packed([True] * 6),
        [Included(0, poor.included, poor.signature), *message.statements],
    )
    with pytest.raises(RequestRefusedError, match="lacks the mask in common with another survivor"):
        run.clients[VICTIM].agree(forged)


@pytest.mark.parametrize("chosen", [[0, 1, 3], [], [0, 1, 3, 4, 4], [0, 0, 1, 3]], ids=str)
def test_a_list_without_the_statement_of_each_survivor_is_not_signed(chosen: list[int]) -> None:
    run = begun(5).advertise().share().mask()
    message = run.survivors[VICTIM]
    statements = {each.member: each for each in message.statements}
    with pytest.raises(RequestRefusedError, match="not one of each surviving neighbour"):
        run.clients[VICTIM].agree(changed(message, statements=[statements[number] for number in chosen]))


def test_a_statement_that_was_changed_is_not_signed() -> None:
    run = begun(6).advertise().share().mask()
    message = run.survivors[VICTIM]
    first = changed(message.statements[0], included=packed([True, False, True, True, True]))
    with pytest.raises(ForgedMessageError, match="over its masks does not hold"):
        run.clients[VICTIM].agree(changed(message, statements=[first, *message.statements[1:]]))


@pytest.mark.parametrize("present", [b"\xff", b"\x1f\x00", b"", b"\x3f"])
def test_a_list_of_another_length_is_not_read(present: bytes) -> None:
    run = begun(5).advertise().share().mask()
    with pytest.raises(MalformedRequestError):
        run.clients[VICTIM].agree(changed(run.survivors[VICTIM], present=present))
    require_over(run.clients[VICTIM])


# ------------------------------------------------------------------------------------------------------- two lists


def both_given(graph: Graph, signs: list[int], lists: tuple[frozenset[int], frozenset[int]]) -> bool:
    """Whether shares enough of both secrets of a member are given, if each member signs one of two lists."""
    threshold = graph.parameters.threshold
    signers = [{one for one, which in enumerate(signs) if which == w and one in lists[w]} for w in (0, 1)]
    answers = [
        {one for one in signers[w] if len(signers[w] & {*graph.neighbours(one)}) >= threshold} for w in (0, 1)
    ]
    for member in range(graph.members):
        near = {*graph.neighbours(member)}
        seeds = sum(len(answers[w] & near) for w in (0, 1) if member in lists[w])
        secrets = sum(len(answers[w] & near) for w in (0, 1) if member not in lists[w])
        if min(seeds, secrets) >= threshold:
            return True
    return False


def both_in_some_way(graph: Graph) -> bool:
    members = range(graph.members)
    everyone = frozenset(members)
    for gone in combinations(members, 2):
        lists = everyone - {gone[0]}, everyone - {gone[1]}
        for bits in range(1 << graph.members):
            if both_given(graph, [bits >> place & 1 for place in members], lists):
                return True
    return False


@pytest.mark.parametrize(("members", "degree"), [(4, 3), (5, 4), (6, 5), (7, 6), (7, 4), (8, 6)])
def test_no_two_lists_open_both_secrets_of_a_client(members: int, degree: int) -> None:
    """Every way to tell each member one of two lists; the least thresholds that are safe."""
    least = required(members, degree, ALONE)
    assert not both_in_some_way(Graph(members, b"", least))


def test_a_lower_threshold_would_open_both_secrets() -> None:
    assert both_in_some_way(Graph(6, b"", Parameters(5, 2, 0)))


@pytest.mark.parametrize(("members", "degree", "window"), [(11, 4, 1), (12, 6, 1), (12, 8, 2)])
def test_every_sound_list_leaves_the_survivors_connected(members: int, degree: int, window: int) -> None:
    """All lists; any ``window`` - 1 corrupt members in a window leave the honest survivors connected."""
    graph = Graph(members, b"", Parameters(degree, 1, window))
    sound = 0
    for bits in range(1 << members):
        left = {member for member in range(members) if bits >> member & 1}
        if not graph.sound(left):
            continue
        sound += 1
        reached, front = set(), [min(left)]
        while front:
            member = front.pop()
            reached.add(member)
            front += [other for other in graph.neighbours(member) if other in left - reached]
        assert reached == left
    assert 1 < sound < 1 << members


# ------------------------------------------------------------------------------------------------ keys and documents


def test_a_swapped_key_is_not_used() -> None:
    run = begun(5).advertise()
    message = run.keys[VICTIM]
    swapped = changed(message.entries[0], mask_key=message.entries[1].mask_key)
    with pytest.raises(ForgedMessageError, match="The signature of client00 over its keys does not hold"):
        run.clients[VICTIM].share(changed(message, entries=[swapped, *message.entries[1:]]))
    require_over(run.clients[VICTIM])


def test_a_key_signed_by_another_client_is_not_used() -> None:
    run = begun(5).advertise()
    message = run.keys[VICTIM]
    own = changed(message.entries[1], member=0)
    with pytest.raises(ForgedMessageError):
        run.clients[VICTIM].share(changed(message, entries=[own, *message.entries[1:]]))


def test_keys_of_another_round_are_not_used() -> None:
    run = begun(5)
    other = Run(run.federation, run.federation.convene(3, INTEGERS), run.updates).advertise()
    run.advertise()
    with pytest.raises(RequestRefusedError, match="A message of another round"):
        run.clients[VICTIM].share(changed(run.keys[VICTIM], entries=other.keys[VICTIM].entries))
    with pytest.raises(RequestRefusedError, match="A message of another round"):
        run.clients["client01"].share(other.keys["client01"])


def test_a_degenerate_key_is_not_used() -> None:
    """A client that works with the server signs the key of low order."""
    run = begun(5).advertise()
    message = run.keys[VICTIM]
    entry = changed(message.entries[0], share_key=bytes(32))
    content = entry.mask_key + entry.share_key + entry.commitment
    signature = run.federation.identities["client00"].sign(statement(KEYS, run.round.digest, 0, content))
    with pytest.raises(ForgedMessageError, match="degenerate"):
        run.clients[VICTIM].share(changed(message, entries=[changed(entry, signature=signature), *message.entries[1:]]))


def test_forged_neighbours_are_refused() -> None:
    run = begun(9, parameters=SPARSE).advertise()
    near = run.round.graph.neighbours(2)
    far = next(number for number in range(9) if number not in (*near, 2))
    stranger = run.advertised[run.round.ids[far]]
    entries = run.keys[VICTIM].entries
    for first in ([stranger], [entries[1]], [run.advertised[VICTIM]], [entries[0], stranger]):
        wrong = [*first, *entries[1:]]
        client = Client(run.federation.identities[VICTIM], run.federation.enrolment, _Fresh(), ALONE, replayed(7))
        client.advertise(run.opening)
        with pytest.raises(RequestRefusedError, match="than the neighbours that the graph of the round gives"):
            client.share(Keys(run.round.digest, wrong))


class _Fresh:
    """A ledger that has forgotten everything."""

    def begin(self, round: bytes) -> None:
        pass


def test_fewer_neighbours_than_the_threshold_get_no_shares() -> None:
    run = begun(9, parameters=SPARSE).advertise()
    message = run.keys[VICTIM]
    with pytest.raises(TooFewSurvivorsError, match="Keys came from 4 neighbours, and 5 are needed"):
        run.clients[VICTIM].share(changed(message, entries=message.entries[:4]))


def resigned(run: Run, **changes: object) -> Opening:
    """The round's document with changes, signed by the convener."""
    document = encode(changed(run.round.document, **changes))
    digest = Round(Opening(document, bytes(64))).digest
    return Opening(document, run.federation.convener.sign(statement(OPENING, digest, 0)))


def test_a_document_that_was_changed_is_refused() -> None:
    """Another beacon would give the server a graph of its choice."""
    run = begun(9, parameters=SPARSE)
    document = encode(changed(run.round.document, beacon=bytes(32)))
    with pytest.raises(ForgedMessageError, match="convener over a new round"):
        run.clients[VICTIM].advertise(Opening(document, run.opening.signature))
    require_over(run.clients[VICTIM])


def test_a_convener_that_is_not_enrolled_is_refused() -> None:
    run = begun(4)
    own = convene(run.federation.identities["client00"], run.federation.enrolment.clients, 3, INTEGERS, trust=ALONE)
    with pytest.raises(ForgedMessageError):
        run.clients[VICTIM].advertise(own)


def test_members_that_are_not_enrolled_are_refused() -> None:
    """Clients made up by the server would leave the victim alone among them."""
    run = begun(4)
    members = list(run.round.document.members)
    invented = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    for wrong in (changed(members[0], public=invented), changed(members[0], id="client99")):
        client = run.federation.clients()[VICTIM]
        with pytest.raises(RequestRefusedError, match="are not enrolled, or with other identity keys"):
            client.advertise(resigned(run, members=[wrong, *members[1:]]))
    with pytest.raises(RequestRefusedError, match="names 4 different members in 5 places"):
        resigned(run, members=[*members, members[0]])
    with pytest.raises(RequestRefusedError, match="does not name 'client02'"):
        run.clients[VICTIM].advertise(resigned(run, members=[one for one in members if one.id != VICTIM], degree=2))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"threshold": 1}, "needs 2 and 0"),
        ({"version": 2}, "version 2"),
    ],
    ids=str,
)
def test_a_round_that_is_not_safe_is_refused(changes: dict[str, object], match: str) -> None:
    run = begun(5)
    with pytest.raises(RequestRefusedError, match=match):
        run.clients[VICTIM].advertise(resigned(run, **changes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"threshold": 5}, "do not fit"),
        ({"threshold": 0}, "do not fit"),
        ({"window": 1}, "do not fit"),
        ({"degree": 3}, "cannot have 3 neighbours"),
        ({"degree": 0}, "cannot have 0 neighbours"),
        ({"weight": 1 << 62}, "wrap around"),
        ({"largest": 1 << 62}, "wrap around"),
    ],
    ids=str,
)
def test_a_document_whose_numbers_do_not_fit_is_refused(changes: dict[str, object], match: str) -> None:
    run = begun(5)
    with pytest.raises(ConfigurationError, match=match):
        run.clients[VICTIM].advertise(resigned(run, **changes))


def test_a_round_of_too_few_members_is_refused() -> None:
    run = begun(4)
    run.federation.trust = replace(ALONE, fewest=5)
    with pytest.raises(RequestRefusedError, match="has 4 members, and this client takes part among 5"):
        run.federation.clients()[VICTIM].advertise(run.opening)


def test_an_identity_other_than_the_enrolled_one_does_not_take_part() -> None:
    run = begun(4)
    stranger = federation(4, seed=9).identities[VICTIM]
    client = Client(stranger, run.federation.enrolment, _Fresh(), ALONE)
    with pytest.raises(ConfigurationError, match="enrolled with another key than it signs with"):
        client.advertise(run.opening)


def test_one_key_cannot_be_enrolled_twice() -> None:
    with pytest.raises(ConfigurationError, match="one identity key"):
        Enrolment({"a": bytes(32), "b": bytes(32)}, Peer("c", bytes(range(32))))


# ---------------------------------------------------------------------------------------------------------- replays


def test_a_round_runs_once() -> None:
    run = begun(4)
    run.clients[VICTIM].advertise(run.opening)
    again = run.federation.clients()[VICTIM]
    with pytest.raises(RoundReusedError, match="has begun at this client before"):
        again.advertise(run.opening)
    require_over(again)


def test_a_round_id_is_not_used_in_another_document() -> None:
    run = begun(4)
    run.clients[VICTIM].advertise(run.opening)
    with pytest.raises(RoundReusedError):
        run.federation.clients()[VICTIM].advertise(resigned(run, beacon=bytes(32)))


def test_a_client_that_starts_again_takes_no_part_in_the_round_it_left(tmp_path) -> None:  # type: ignore[no-untyped-def]
    run = begun(4)
    identity, enrolment = run.federation.identities[VICTIM], run.federation.enrolment
    Client(identity, enrolment, FileLedger(tmp_path / "rounds"), ALONE).advertise(run.opening)
    again = Client(identity, enrolment, FileLedger(tmp_path / "rounds"), ALONE)
    with pytest.raises(RoundReusedError):
        again.advertise(run.opening)


def test_a_document_that_is_refused_is_not_written_down() -> None:
    run = begun(4)
    with pytest.raises(ForgedMessageError):
        run.clients[VICTIM].advertise(changed(run.opening, signature=bytes(64)))
    run.federation.clients()[VICTIM].advertise(run.opening)


# ------------------------------------------------------------------------------------------------------ ciphertexts


@pytest.mark.parametrize("place", [0, 40, 81])
def test_a_tampered_ciphertext_is_noticed(place: int) -> None:
    run = begun(5).advertise().share()
    message = run.deliveries[VICTIM]
    box = bytearray(message.boxes[0].box)
    box[place] ^= 1
    with pytest.raises(ForgedMessageError, match="The shares from client00 were changed"):
        wrong = [Sealed(0, bytes(box)), *message.boxes[1:]]
        run.clients[VICTIM].mask(changed(message, boxes=wrong), *run.updates[VICTIM])
    require_over(run.clients[VICTIM])


def test_a_box_of_another_sender_receiver_or_direction_is_noticed() -> None:
    run = begun(5).advertise().share()
    message = run.deliveries[VICTIM]
    sent = {box.member: box.box for box in run.shares[VICTIM].boxes}
    for wrong in (message.boxes[1].box, run.deliveries["client01"].boxes[0].box, sent[0]):
        client = Client(run.federation.identities[VICTIM], run.federation.enrolment, _Fresh(), ALONE)
        vars(client).update({name: value for name, value in vars(run.clients[VICTIM]).items()})
        with pytest.raises(ForgedMessageError):
            client.mask(changed(message, boxes=[Sealed(0, wrong), *message.boxes[1:]]), *run.updates[VICTIM])


# ---------------------------------------------------------------------------------------------------- bytes of a wire


def sent_messages() -> list[object]:
    run = begun(5).advertise().share().mask(without=["client04"]).agree()
    run.reveal()
    names = ("advertised", "keys", "shares", "deliveries", "masked", "survivors", "agreements", "requests", "reveals")
    return [run.opening, *(vars(run)[name][VICTIM] for name in names)]


def test_truncated_and_lengthened_messages_are_not_read() -> None:
    for message in sent_messages():
        kind, data = type(message), encode(message)  # type: ignore[arg-type]
        assert decode(data, kind, len(data)) == message
        for end in range(0, len(data), max(1, len(data) // 60)):
            with pytest.raises(MalformedRequestError):
                decode(data[:end], kind, len(data))
        with pytest.raises(MalformedRequestError):
            decode(data + b"\x00", kind, len(data) + 1)


def test_oversized_messages_are_not_read() -> None:
    for message in sent_messages():
        kind = type(message)
        limit = largest(kind, 5, 4, 4)  # type: ignore[arg-type]
        assert len(encode(message)) <= limit  # type: ignore[arg-type]
        with pytest.raises(LimitExceededError, match="is not read"):
            decode(bytes(limit + 1), kind, limit)


def test_messages_of_another_kind_or_with_more_fields_are_not_read() -> None:
    messages = sent_messages()
    for message in messages:
        fields = [type(message).__struct_config__.tag, *msgspec.structs.astuple(message)]  # type: ignore[attr-defined]
        with pytest.raises(MalformedRequestError):
            decode(msgspec.msgpack.encode([*fields, 0]), type(message), 1 << 20)
        for other in messages:
            if type(other) is not type(message):
                with pytest.raises(MalformedRequestError):
                    decode(encode(message), type(other), 1 << 20)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        Unmask(bytes(31), [], [], []),
        Unmask(bytes(32), [-1], [], []),
        Unmask(bytes(32), [1 << 16], [], []),
        Unmask(bytes(32), [], [], [Signed(0, bytes(63))]),
    ],
    ids=["short hash", "negative", "large", "short signature"],
)
def test_fields_out_of_range_are_not_read(wrong: Unmask) -> None:
    with pytest.raises(MalformedRequestError):
        decode(encode(wrong), Unmask, 1 << 10)


def test_a_document_of_garbage_is_refused() -> None:
    run = begun(4)
    with pytest.raises(MalformedRequestError):
        run.clients[VICTIM].advertise(Opening(b"garbage", bytes(64)))
    with pytest.raises(MalformedRequestError):
        decode(encode(changed(run.round.document, members=[])), Document, 1 << 10)


# ---------------------------------------------------------------------------------------------------- clients' messages


def test_the_server_counts_a_message_once_and_in_its_step() -> None:
    run = begun(4).advertise()
    message = run.clients[VICTIM].share(run.keys[VICTIM])
    run.server.on_shares(VICTIM, message)
    for peer in (VICTIM, "nobody"):
        with pytest.raises(OutOfTurnError, match="does not count"):
            run.server.on_shares(peer, message)
    with pytest.raises(OutOfTurnError):
        run.server.on_advertise("client01", run.advertised["client01"])
    with pytest.raises(OutOfTurnError):
        run.server.survivors()


def test_the_server_takes_keys_from_their_owner_only() -> None:
    run = begun(4)
    message = run.clients[VICTIM].advertise(run.opening)
    with pytest.raises(ForgedMessageError, match="sent keys for member 2, and is member 1"):
        run.server.on_advertise("client01", message)
    with pytest.raises(ForgedMessageError):
        run.server.on_advertise(VICTIM, changed(message, commitment=bytes(32)))
    with pytest.raises(ForgedMessageError, match="another round"):
        run.server.on_advertise(VICTIM, changed(message, round=bytes(32)))
    run.server.on_advertise(VICTIM, message)


def test_the_server_refuses_shares_for_others_than_the_neighbours() -> None:
    run = begun(4).advertise()
    message = run.clients[VICTIM].share(run.keys[VICTIM])
    for boxes in (message.boxes[1:], [message.boxes[0]] * 3, [*message.boxes, message.boxes[0]]):
        with pytest.raises(ForgedMessageError):
            run.server.on_shares(VICTIM, changed(message, boxes=boxes))


@pytest.mark.parametrize("extra", [-8, -1, 1, 8])
def test_the_server_refuses_a_vector_of_another_length(extra: int) -> None:
    run = begun(4).advertise().share()
    message = run.clients[VICTIM].mask(run.deliveries[VICTIM], *run.updates[VICTIM])
    with pytest.raises(MalformedRequestError, match="where 4 words of 8 bytes are due"):
        run.server.on_masked(VICTIM, changed(message, words=(message.words + bytes(8))[: 32 + extra]))
    with pytest.raises(ForgedMessageError):
        run.server.on_masked(VICTIM, changed(message, signature=bytes(64)))


def test_a_wrong_share_is_noticed() -> None:
    """Nobody can say whose it is, but a wrong sum never comes out."""
    for kind in ("seeds", "keys"):
        run = begun(5).advertise().share().mask(without=["client04"]).agree()
        answers = {id: client.reveal(run.requests[id]) for id, client in run.clients.items() if id in run.requests}
        opened = list(vars_of(answers["client00"], kind))
        share = int.from_bytes(opened[0].share, "big")
        opened[0] = Opened(opened[0].member, (share ^ 1).to_bytes(SHARE_BYTES, "big"))
        answers["client00"] = changed(answers["client00"], **{kind: opened})
        for id, answer in answers.items():
            run.server.on_reveal(id, answer)
        with pytest.raises(ForgedMessageError, match="do not give back what it committed to"):
            run.server.result()
        assert not run.server._total.any()


def vars_of(message: object, name: str) -> list[Opened]:
    found: list[Opened] = msgspec.structs.asdict(message)[name]  # type: ignore[arg-type]
    return found


def test_the_server_takes_exactly_the_shares_it_asked_for() -> None:
    run = begun(5).advertise().share().mask().agree()
    answer = run.clients[VICTIM].reveal(run.requests[VICTIM])
    with pytest.raises(ForgedMessageError, match="other shares than those it was asked for"):
        run.server.on_reveal(VICTIM, changed(answer, seeds=answer.seeds[1:]))


def test_a_sum_beyond_the_limits_is_not_given_out() -> None:
    """A client that adds to its masked vector spoils the sum, which is noticed where it leaves the range."""
    run = begun(4).advertise().share()
    for id, client in run.clients.items():
        message = client.mask(run.deliveries[id], *run.updates[id])
        if id == VICTIM:
            message = changed(message, words=message.words[:7] + bytes([message.words[7] ^ 0x40]) + message.words[8:])
        run.server.on_masked(id, message)
    run.survivors = run.server.survivors()
    with pytest.raises(ForgedMessageError, match="beyond what clients within the limits can send"):
        run.agree().reveal()


def test_an_update_of_another_length_is_not_sent() -> None:
    run = begun(4).advertise().share()
    with pytest.raises(RequestRefusedError, match="has 2 coordinates, but 3 were agreed on"):
        run.clients[VICTIM].mask(run.deliveries[VICTIM], updates_of(["a"], 2)["a"][0])


def test_a_server_without_the_enrolled_convener_does_not_begin() -> None:
    run = begun(4)
    other = Enrolment(run.federation.enrolment.clients, Peer("convener", bytes(range(32))))
    with pytest.raises(ForgedMessageError):
        Server(run.opening, other)


def test_assumptions_that_are_none_are_refused() -> None:
    for wrong in ({"dropout": 1.0}, {"corrupt": -0.1}, {"sigma": 0}, {"server": "kind"}):
        with pytest.raises(ConfigurationError):
            replace(Trust(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="are no limits"):
        Limits(0.0).require_room(3)
