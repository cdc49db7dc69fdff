"""Bounds, graphs, encoding, sharing, keys, ledgers, cost."""

import os
import re
from datetime import timedelta
from fractions import Fraction
from itertools import combinations
from math import comb
from pathlib import Path

import gmpy2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharetorch.fl.masking import (
    Enrolment,
    FileLedger,
    ForgedMessageError,
    Limits,
    MemoryLedger,
    Parameters,
    RoundReusedError,
    Trust,
    choose,
)
from sharetorch.fl.masking import encoding as masking_encoding
from sharetorch.fl.masking.bounds import most, required
from sharetorch.fl.masking.cost import Bytes, Course, client_cost, everybody, server_cost
from sharetorch.fl.masking.graph import Graph
from sharetorch.fl.masking.keys import Context, KeyPair
from sharetorch.fl.masking.messages import SHARE_BYTES, encode, packed, payload, unpacked
from sharetorch.fl.masking.rounds import Round, Step
from sharetorch.fl.masking.sharing import PRIME, join, split
from sharetorch.fl.masking.simulation import aggregate
from sharetorch.mpc.errors import (
    ConfigurationError,
    EncodingRangeError,
    MalformedRequestError,
    NotFiniteError,
    ShapeError,
    UnsupportedDtypeError,
)
from sharetorch.mpc.network import certificates
from sharetorch.mpc.network.identity import Identity
from sharetorch.mpc.randomness import Stream, fresh_stream
from tests.fl.masking.federations import INTEGERS, begun, federation, updates_of

# ----------------------------------------------------------------------------------------------------------- bounds


def beyond(population: int, marked: int, drawn: int, count: int) -> Fraction:
    """Pr[Hyp > count], exactly."""
    ways = sum(comb(marked, each) * comb(population - marked, drawn - each) for each in range(count + 1, drawn + 1))
    return Fraction(ways, comb(population, drawn))


@pytest.mark.parametrize(
    ("population", "marked", "drawn", "bits", "places"),
    [(99, 10, 20, 20, 100), (999, 100, 60, 41, 1000), (30, 0, 10, 41, 30), (20, 20, 7, 10, 20), (50, 25, 49, 30, 50)],
)
def test_the_bound_is_the_least_number_that_holds(
    population: int, marked: int, drawn: int, bits: int, places: int
) -> None:
    found = most(population, marked, drawn, bits, places)
    assert places * beyond(population, marked, drawn, found) <= Fraction(1, 1 << bits)
    assert found == max(0, marked + drawn - population) or places * beyond(
        population, marked, drawn, found - 1
    ) > Fraction(1, 1 << bits)


@pytest.mark.parametrize(
    ("members", "trust"),
    [
        (100, Trust(0.05, 0.05, server="curious")),
        (1000, Trust(0.1, 0.1, server="curious")),
        (1000, Trust(0.05, 0.05)),
        (10000, Trust(0.05, 0.05)),
        (10000, Trust(0.1, 0.2, server="curious")),
    ],
    ids=str,
)
def test_chosen_parameters_hold_by_exact_probabilities(members: int, trust: Trust) -> None:
    degree, threshold, window = choose(members, trust)
    assert degree < members // 2
    gone, corrupt = int(trust.dropout * members), int(trust.corrupt * members)
    half = degree // 2
    assert members * beyond(members - 1, corrupt, degree, threshold - 1) <= Fraction(1, 2 << trust.sigma)
    assert members * beyond(members, corrupt, half, window - 1) <= Fraction(1, 2 << trust.sigma)
    assert members * beyond(members - 1, gone, degree, degree - threshold) <= Fraction(1, 2 << trust.eta)
    assert members * beyond(members, gone, half, half - window) <= Fraction(1, 2 << trust.eta)
    if trust.server == "active":
        near = most(members - 1, corrupt, degree, trust.sigma + 1, members)
        assert 3 * threshold > 2 * degree + 2 * near + 1


def test_the_table_of_the_docs() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "protocols" / "masking.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\d+)% \| ([\d, ]+) \| ([\d, ]+) \|$", text, re.MULTILINE)
    assert len(rows) == 5
    for members, percent, curious, active in rows:
        rate = int(percent) / 100
        for said, server in ((curious, "curious"), (active, "active")):
            trust = Trust(rate, rate, server=server)  # type: ignore[arg-type]
            assert list(choose(int(members), trust)) == [int(number) for number in said.split(",")]


@pytest.mark.parametrize("members", range(2, 31))
def test_the_complete_graph_needs_a_majority(members: int) -> None:
    for corrupt in range(members // 3):
        trust = Trust(0, corrupt / members + 1e-9)
        degree, threshold, window = required(members, members - 1, trust)
        assert (degree, window) == (members - 1, 0)
        assert 2 * threshold + 2 > members + corrupt >= 2 * threshold or threshold == corrupt + 1
        assert threshold > corrupt


# ------------------------------------------------------------------------------------------------------------ graphs


@pytest.mark.parametrize(("members", "degree"), [(2, 1), (3, 2), (6, 4), (9, 8), (12, 6), (31, 10)])
def test_every_member_has_as_many_neighbours_both_ways(members: int, degree: int) -> None:
    graph = Graph(members, b"seed", Parameters(degree, 1, 0 if degree == members - 1 else 1))
    for member in range(members):
        near = graph.neighbours(member)
        assert len(near) == len({*near}) == degree and member not in near
        assert all(member in graph.neighbours(other) for other in near)


def test_the_graph_is_a_function_of_the_beacon() -> None:
    def near(seed: bytes) -> list[tuple[int, ...]]:
        graph = Graph(20, seed, Parameters(6, 1, 1))
        return [graph.neighbours(member) for member in range(20)]

    assert near(b"one") == near(b"one") != near(b"other")


@pytest.mark.parametrize(
    "parameters",
    [Parameters(5, 1, 1), Parameters(8, 1, 1), Parameters(4, 5, 1), Parameters(4, 1, 0), Parameters(4, 1, 3)],
)
def test_graphs_that_are_none_are_refused(parameters: Parameters) -> None:
    with pytest.raises(ConfigurationError):
        Graph(8, b"", parameters)


def test_windows_are_counted_around_the_circle() -> None:
    graph = Graph(10, b"", Parameters(6, 1, 2))
    for gone in combinations(range(10), 2):
        there = {graph.order[place] for place in range(10) if place not in gone}
        near = (gone[1] - gone[0]) % 10 in (1, 2, 8, 9)
        assert graph.sound(there) is not near


# ---------------------------------------------------------------------------------------------------------- encoding


def test_values_and_weights_beyond_their_limits_are_refused() -> None:
    limits = Limits(2.0, 10, 8)

    def encoded(values: object, weight: int = 1) -> list[int]:
        words = masking_encoding.encode(np.asarray(values), weight, limits.fraction_bits, limits.largest, limits.weight)
        return words.view(np.int64).tolist()  # type: ignore[no-any-return]

    assert encoded([2.0, -2.0, 0.5], 10) == [5120, -5120, 1280, 10]
    assert encoded([2, -2], 0) == [0, 0, 0]
    assert encoded(np.zeros(0)) == [1]
    for wrong in ([2.01], [-2.01], [3], [-3], [1e300]):
        with pytest.raises(EncodingRangeError, match="not cut off"):
            encoded(wrong)
    for weight in (11, -1):
        with pytest.raises(EncodingRangeError):
            encoded([1.0], weight)
    for value in (float("nan"), float("inf")):
        with pytest.raises(NotFiniteError):
            encoded([value])
    with pytest.raises(ShapeError):
        encoded([[1.0]])
    with pytest.raises(UnsupportedDtypeError):
        encoded(["a"])
    with pytest.raises(UnsupportedDtypeError):
        encoded([1.0], 1.5)  # type: ignore[arg-type]


def test_tensors_are_taken_as_arrays_are() -> None:
    x = torch.tensor([0.25, -1.5], requires_grad=True)
    assert masking_encoding.encode(x, 2, 4, 100, 2).view(np.int64).tolist() == [8, -48, 2]


# ----------------------------------------------------------------------------------------------------------- sharing


def test_the_field_holds_every_secret() -> None:
    assert gmpy2.is_prime(PRIME) and PRIME == gmpy2.next_prime(1 << 256)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 8), st.integers(0, 6), st.randoms(use_true_random=False))
def test_any_shares_enough_give_the_secret_back(secret: bytes, threshold: int, more: int, choice: object) -> None:
    holders = tuple(sorted(choice.sample(range(1000), threshold + more)))  # type: ignore[attr-defined]
    shares = split(secret, holders, threshold, fresh_stream())
    assert all(len(share) == SHARE_BYTES and int.from_bytes(share, "big") < PRIME for share in shares.values())
    chosen = choice.sample(holders, threshold)  # type: ignore[attr-defined]
    assert join({holder: shares[holder] for holder in chosen}, threshold) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_the_smallest_and_the_largest_secret(secret: bytes) -> None:
    assert join(split(secret, (0, 5, 9), 3, fresh_stream()), 3) == secret


def test_fewer_shares_fit_every_secret() -> None:
    """t - 1 shares and any secret make a polynomial of degree t - 1, so they say nothing about it."""
    shares = split(b"s" * 32, (0, 1, 2), 3, fresh_stream())
    for other in (bytes(32), b"\xff" * 32):
        value = int.from_bytes(other, "big")
        y1, y2 = (int.from_bytes(shares[holder], "big") for holder in (0, 1))
        third = (value - 3 * y1 + 3 * y2) % PRIME
        assert join({0: shares[0], 1: shares[1], 2: third.to_bytes(SHARE_BYTES, "big")}, 3) == other


def test_shares_that_cannot_be() -> None:
    with pytest.raises(ShapeError):
        split(bytes(31), (0, 1), 1, fresh_stream())
    for holders, threshold in (((0, 1), 3), ((0, 0), 2), ((0, 1), 0)):
        with pytest.raises(ShapeError):
            split(bytes(32), holders, threshold, fresh_stream())
    with pytest.raises(ShapeError):
        join({0: bytes(33)}, 2)
    with pytest.raises(ForgedMessageError, match="join to no secret"):
        join({0: (PRIME - 1).to_bytes(SHARE_BYTES, "big")}, 1)


def test_coefficients_are_uniform_and_used_once() -> None:
    """Shares of one secret by two streams differ in every holder, and by one stream drawn on too."""
    stream = Stream(bytes(16))
    first, second = (split(bytes(32), (3, 4), 2, stream) for _ in range(2))
    assert all(first[holder] != second[holder] for holder in (3, 4))


# -------------------------------------------------------------------------------------------------------------- keys


def test_both_members_of_a_pair_draw_the_same_mask_and_no_other() -> None:
    one, other = KeyPair(bytes(range(32))), KeyPair(bytes(range(1, 33)))
    context = Context(b"r" * 32, b"d" * 32)
    agreed = one.agree(other.public)
    assert agreed == other.agree(one.public)

    def drawn(context: Context, first: tuple[int, str], second: tuple[int, str]) -> bytes:
        return context.pair_mask(agreed, first, second).stream(0).bytes(32).tobytes()

    same = drawn(context, (1, "b"), (0, "a"))
    assert same == drawn(context, (0, "a"), (1, "b"))
    others = {
        drawn(context._replace(round=b"s" * 32), (0, "a"), (1, "b")),
        drawn(context._replace(digest=b"e" * 32), (0, "a"), (1, "b")),
        drawn(context, (0, "a"), (1, "c")),
        drawn(context, (0, "ab"), (1, "")),
        context.self_mask(agreed, "a").stream(0).bytes(32).tobytes(),
    }
    assert len(others) == 5 and same not in others


def test_a_box_has_a_key_for_each_direction() -> None:
    context = Context(b"r" * 32, b"d" * 32)
    assert context.derive(bytes(32), b"shares", "a", "b") != context.derive(bytes(32), b"shares", "b", "a")


def test_nothing_secret_is_printed() -> None:
    run = begun(4).advertise().share()
    client = run.clients["client02"]
    secrets = [vars(client)["_seed"], vars(client)["_mask_pair"].secret, vars(client)["_share_pair"].secret]
    printed = repr(client) + repr(run.server) + repr(vars(client)["_mask_pair"]) + str(client)
    assert printed.startswith("Client('client02', mask)Server(mask, 0 of 4 came)KeyPair(...)")
    assert not any(secret.hex() in printed or repr(secret) in printed for secret in secrets)


def test_a_client_forgets_its_own_secrets_once_its_update_is_masked() -> None:
    run = begun(4).advertise().share()
    own = {"_seed", "_mask_pair", "_share_pair"}
    assert own <= vars(run.clients["client02"]).keys()
    run.mask()
    assert not own & vars(run.clients["client02"]).keys()


# ------------------------------------------------------------------------------------------------------------ ledger


def test_a_ledger_refuses_a_round_the_second_time(tmp_path: Path) -> None:
    path = tmp_path / "rounds"
    for ledger in (MemoryLedger(), FileLedger(path)):
        ledger.begin(b"one")
        ledger.begin(b"two")
        with pytest.raises(RoundReusedError):
            ledger.begin(b"one")
    with pytest.raises(RoundReusedError):
        FileLedger(path).begin(b"two")
    FileLedger(path).begin(b"three")
    assert path.stat().st_mode & 0o777 == 0o600 and path.stat().st_size == 3 * 65


@pytest.mark.parametrize("kept", [1, 64, 65, 66, 129])
def test_a_line_cut_off_by_a_crash_is_as_if_it_had_not_begun(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "rounds"
    for round in (b"one", b"two"):
        FileLedger(path).begin(round)
    os.truncate(path, kept)
    whole = kept // 65
    for number, round in enumerate((b"one", b"two")):
        if number < whole:
            with pytest.raises(RoundReusedError):
                FileLedger(path).begin(round)
        else:
            FileLedger(path).begin(round)
    assert path.stat().st_size == 130


def test_a_file_that_is_no_ledger_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter"
    path.write_bytes(b"Dear Alice,\n" * 20)
    with pytest.raises(ConfigurationError, match="is no ledger"):
        FileLedger(path).begin(b"one")
    assert path.read_bytes() == b"Dear Alice,\n" * 20
    with pytest.raises(ConfigurationError, match="cannot be kept"):
        FileLedger(tmp_path / "nowhere" / "rounds").begin(b"one")


# --------------------------------------------------------------------------------------------------------- enrolment


def test_clients_are_enrolled_by_their_certificates(tmp_path: Path) -> None:
    certificates.make_authority(tmp_path)
    for id in ("alice", "bob", "convener"):
        certificates.issue(tmp_path, id)
    found = Enrolment.from_certificates(tmp_path, ["alice", "bob"], "convener")
    assert found.clients == {id: Identity.load(tmp_path, id).public for id in ("alice", "bob")}
    assert found.convener == ("convener", Identity.load(tmp_path, "convener").public)


def test_certificates_that_do_not_hold_enrol_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one", "other"):
        certificates.make_authority(tmp_path / folder)
        certificates.issue(tmp_path / folder, "alice")
        certificates.issue(tmp_path / folder, "bob")
    one, other = tmp_path / "one", tmp_path / "other"
    with pytest.raises(ConfigurationError, match="is no certificate of the authority"):
        Enrolment.from_certificates(one, ["carol"], "bob")
    (one / "alice.crt").write_bytes((other / "alice.crt").read_bytes())
    with pytest.raises(ConfigurationError, match="is no certificate of the authority"):
        Enrolment.from_certificates(one, ["alice"], "bob")
    (other / "alice.crt").write_bytes((other / "bob.crt").read_bytes())
    with pytest.raises(ConfigurationError, match="names 'bob'"):
        Enrolment.from_certificates(other, ["alice"], "bob")
    monkeypatch.setattr(certificates, "_EARLIER", timedelta(days=-3))
    certificates.issue(other, "late")
    with pytest.raises(ConfigurationError, match="a certificate of 'late' that holds today is needed"):
        Enrolment.from_certificates(other, ["late"], "bob")


# -------------------------------------------------------------------------------------------------------------- cost


@pytest.mark.parametrize(
    ("members", "length", "parameters"),
    [(2, 1, None), (5, 100, None), (9, 7, Parameters(6, 5, 2)), (20, 3, Parameters(12, 9, 2))],
)
def test_a_round_costs_what_is_declared(members: int, length: int, parameters: Parameters | None) -> None:
    found = federation(members)
    opening = found.convene(length, INTEGERS, parameters)
    outcome = aggregate(found, opening, updates_of(found.identities, length))
    round = Round(opening)
    for number, id in enumerate(round.ids):
        cost = client_cost(round, number, everybody(round))
        assert Bytes(outcome.up[id], outcome.down[id]) == cost
    total = server_cost(round, everybody(round))
    assert Bytes(outcome.up.total(), outcome.down.total()) == total
    heads = outcome.encoded - sum(total)
    assert 0 < heads < members * (200 + 20 * round.parameters.degree)


def test_the_formula_of_the_docs() -> None:
    run = begun(9, 6, Parameters(6, 5, 2))
    document = len(run.opening.document)
    up = 196 + (32 + 86 * 6) + (96 + 8 * 7 + 1) + 96 + (32 + 37 * 6)
    down = document + 64 + 32 + 196 * 6 + 32 + 86 * 6 + 32 + 2 + 6 * (68 + 1) + 32 + 4 * 6 + 68 * 6
    assert client_cost(run.round, 0, everybody(run.round)) == (up, down)


@pytest.mark.parametrize("parameters", [None, Parameters(8, 5, 1)])
def test_a_round_with_dropouts_costs_what_is_declared(parameters: Parameters | None) -> None:
    found = federation(13)
    opening = found.convene(4, INTEGERS, parameters)
    round = Round(opening)
    order = round.graph.order
    steps = [step for step in Step if step is not Step.OVER]
    gone = {round.ids[order[5 * place % 13]]: step for place, step in enumerate(steps)}
    if parameters is not None:
        gone = {id: gone[id] for id in sorted(gone)[:2]}
        found.trust = Trust(0, 0, server="curious")
    outcome = aggregate(
        found, opening, updates_of(found.identities, 4), lambda step, id: gone.get(id) is step
    )

    def until(place: int) -> frozenset[int]:
        return frozenset(
            number for number, id in enumerate(round.ids) if id not in gone or steps.index(gone[id]) > place
        )

    course = Course(*(until(place) for place in range(5)))
    for number, id in enumerate(round.ids):
        assert Bytes(outcome.up[id], outcome.down[id]) == client_cost(round, number, course), id


def test_payloads_count_bytes_and_numbers() -> None:
    run = begun(4).advertise()
    assert payload(run.advertised["client00"]) == 196
    assert payload(run.keys["client00"]) == 32 + 3 * 196
    assert len(encode(run.keys["client00"])) > 32 + 3 * 196
    with pytest.raises(MalformedRequestError):
        payload(1.5)


@given(st.lists(st.booleans(), max_size=40))
@settings(deadline=None, derandomize=True)
def test_bits_are_packed_and_unpacked(flags: list[bool]) -> None:
    assert unpacked(packed(flags), len(flags)) == flags
    assert len(packed(flags)) == (len(flags) + 7) // 8
