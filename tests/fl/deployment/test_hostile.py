"""Whoever breaks the rules is refused with a typed error, and the others' federation goes on."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sharetorch.fl.deployment import (
    Allowance,
    EnrolmentRefusedError,
    Learning,
    MisbehaviourError,
    ReplacedError,
    TaskRefusedError,
    hall,
    joining,
    sums,
)
from sharetorch.fl.deployment.lines import Line, reach
from sharetorch.fl.deployment.messages import (
    VERSION,
    Gathering,
    Hello,
    Left,
    Ready,
    Refused,
    Task,
    Trained,
    read_from_client,
    read_from_server,
)
from sharetorch.fl.deployment.roll import der_of
from sharetorch.fl.deployment.training import Trainee
from sharetorch.fl.masking import Limits, Parameters, RequestRefusedError, RoundReusedError, Server
from sharetorch.fl.masking.messages import Advertise, Keys, Masked, Reveal, Survivors, Unmask, encode, packed
from sharetorch.fl.rounds.strategies import FedAvg
from sharetorch.fl.training import Settings
from sharetorch.mpc.errors import (
    ConfigurationError,
    FederatedDataError,
    HandshakeError,
    MalformedRequestError,
    WorkerUnreachableError,
)
from sharetorch.mpc.network import certificates
from sharetorch.mpc.network.identity import Identity
from tests.fl.deployment.federations import LEARNING, QUICK, Place, all_first, items, run, serving, together

Make = Callable[..., Place]
EVE = "dep_eve"


class Raw:
    """A client that sends what it likes."""

    def __init__(self, place: Place, id: str) -> None:
        self.place, self.id = place, id
        self.came: asyncio.Queue[Any] = asyncio.Queue()

    async def connect(self, identity: Identity | None = None) -> Raw:
        own = identity or self.place.identity(self.id)
        websocket, peer = await reach(own, await self.place.where(), "server", QUICK)
        take: Any = lambda line, message: self.came.put_nowait(message)  # noqa: E731
        self.line = Line(websocket, peer, QUICK, read_from_server, take, take).start()
        return self

    async def enter(self) -> Raw:
        await self.connect()
        self.line.send(Hello(VERSION, self.id))
        assert isinstance(await self.came.get(), Task)
        self.line.send(Ready())
        return self

    async def refusal(self) -> Any:
        """What it is refused for; None if the connection ends without a word."""
        while True:
            message = await self.came.get()
            if isinstance(message, Exception):
                return None
            if isinstance(message, Refused):
                self.line.close()
                return message


# ------------------------------------------------------------------------------------------------------ hostile clients


def with_others(here: Place, hostile: Callable[[], Any], **options: Any) -> Any:
    """What somebody gets while three honest clients learn; they do so in any case."""

    async def both() -> Any:
        server = asyncio.ensure_future(here.serve(settings=serving(1, **options)))
        got = await hostile()
        clients = [here.join(id) for id in ("dep_a", "dep_b", "dep_c")]
        served, outcomes = await together(server, *clients)
        assert served.reports[0].delivered == ["dep_a", "dep_b", "dep_c"] and all(each.summed for each in outcomes)
        return got

    return run(both())


async def error_of(work: Any) -> BaseException:
    (found,) = await asyncio.gather(work, return_exceptions=True)
    assert isinstance(found, BaseException), found
    return found


def test_a_certificate_of_another_authority_is_refused(place: Make, tmp_path: Path) -> None:
    here, other = place(), tmp_path / "others keys"
    certificates.make_authority(other)
    certificates.issue(other, "dep_a")
    got = with_others(here, lambda: error_of(here.join("dep_a", identity=Identity.load(other, "dep_a"))))
    assert isinstance(got, HandshakeError) and "authority" in str(got)
    assert any("authority" in facts["reason"] for facts in here.told("server", "connection refused"))


def test_who_is_not_enrolled_is_refused(place: Make) -> None:
    here = place("dep_a", "dep_b", "dep_c", EVE)
    here.enrol("dep_a", "dep_b", "dep_c")
    got = with_others(here, lambda: error_of(here.join(EVE)))
    assert isinstance(got, EnrolmentRefusedError) and f"'{EVE}' is not enrolled" in str(got)


def test_an_enrolled_name_with_another_key_is_refused(place: Make) -> None:
    here = place("dep_a", "dep_b", "dep_c", EVE)
    here.roll.write_text(f"dep_a\ndep_b\ndep_c\n{EVE} {'ab' * 32}\n")
    got = with_others(here, lambda: error_of(here.join(EVE)))
    assert isinstance(got, EnrolmentRefusedError) and "another identity key" in str(got)


def test_a_folder_of_certificates_enrols(place: Make, tmp_path: Path) -> None:
    here, folder = place("dep_a", "dep_b", "dep_c", EVE), tmp_path / "enrolled"
    folder.mkdir()
    for id in ("dep_a", "dep_b", "dep_c"):
        shutil.copy(here.keys / f"{id}.crt", folder)
    here.roll.unlink()
    here.roll.symlink_to(folder)
    assert isinstance(with_others(here, lambda: error_of(here.join(EVE))), EnrolmentRefusedError)


def test_who_is_struck_from_the_list_takes_no_further_part(place: Make) -> None:
    here = place("dep_a", "dep_b", "dep_c", "dep_d")

    class Strike:
        def report(self, report: Any) -> None:
            here.enrol("dep_a", "dep_b", "dep_c")

        def close(self) -> None:
            pass

    clients = [here.join(id) for id in here.ids]
    served, outcomes = run(together(here.serve(settings=serving(2), listeners=[Strike()]), *clients))
    assert served.reports[1].asked == ["dep_a", "dep_b", "dep_c"]
    assert isinstance(outcomes[3], EnrolmentRefusedError)


def test_another_name_than_the_certificate_s_is_refused(place: Make) -> None:
    async def hostile() -> Any:
        raw = await Raw(here, EVE).connect()
        raw.line.send(Hello(VERSION, "dep_a"))
        return await raw.refusal()

    here = place("dep_a", "dep_b", "dep_c", EVE)
    got = with_others(here, hostile)
    assert got.kind == "EnrolmentRefusedError" and "under another name" in got.text


def test_one_key_under_two_names_is_refused(place: Make) -> None:
    here = place("dep_a", "dep_b", "dep_c")
    shutil.copy(here.keys / "dep_a.identity", here.keys / f"{EVE}.identity")
    certificates.issue(here.keys, EVE, renew=True)
    here.enrol("dep_a", "dep_b", "dep_c", EVE)

    async def both() -> Any:
        server = asyncio.ensure_future(here.serve())
        await Raw(here, "dep_a").enter()
        got = await error_of(here.join(EVE))
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
        return got

    got = run(both())
    assert isinstance(got, EnrolmentRefusedError) and "identity key of 'dep_a'" in str(got)


def test_a_second_connection_takes_the_place_of_the_first(place: Make) -> None:
    here = place()

    async def both() -> Any:
        server = asyncio.ensure_future(here.serve())
        first = asyncio.ensure_future(here.join("dep_a"))
        while not here.told("server", "client ready"):
            await asyncio.sleep(0.01)
        second = here.join("dep_a", state=here.folder / "another state")
        rest = together(server, second, here.join("dep_b"), here.join("dep_c"))
        return await asyncio.gather(first, rest, return_exceptions=True)

    replaced, (served, outcomes) = run(both())
    assert isinstance(replaced, ReplacedError)
    assert served.reports[0].delivered == here.ids and outcomes[0].summed == 1


WRONG: dict[str, Callable[[Line], None]] = {
    "garbage": lambda line: line.send_encoded(b"\xc1" * 50),
    "nothing": lambda line: line.send_encoded(b""),
    "a message of the server's": lambda line: line.send(Refused("A", "b")),
    "too large": lambda line: line.send_encoded(bytes(8 << 20)),
    "another Hello": lambda line: line.send(Hello(VERSION, EVE)),
    "a second Ready": lambda line: line.send(Ready()),
    "leaving no round": lambda line: line.send(Left(0, 0, "")),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_may_not_come_ends_the_connection_of_its_sender(place: Make, what: str) -> None:
    here = place("dep_a", "dep_b", "dep_c", EVE)

    async def hostile() -> Any:
        raw = await Raw(here, EVE).enter()
        WRONG[what](raw.line)
        return await raw.refusal() or "it ended without a word"

    assert with_others(here, hostile)


@pytest.mark.parametrize("attempt", [(1, 7), (2, 1)])
def test_an_answer_for_what_nobody_asked_is_refused(
    place: Make, attempt: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place("dep_a", "dep_b", "dep_c", EVE)
    all_first(monkeypatch, 4)

    async def hostile() -> Any:
        raw = await Raw(here, EVE).enter()
        await raw.came.get()
        raw.line.send(Trained(*attempt))
        return await raw.refusal()

    async def both() -> Any:
        eve = asyncio.ensure_future(hostile())
        served, _ = await together(here.serve(), *(here.join(id) for id in ("dep_a", "dep_b", "dep_c")))
        assert served.reports[0].delivered == ["dep_a", "dep_b", "dep_c"]
        return await eve

    got = run(both())
    assert got.kind == "MisbehaviourError" and "for which it was not asked" in got.text


def test_what_comes_before_the_hello_is_refused(place: Make) -> None:
    async def hostile() -> Any:
        raw = await Raw(here, EVE).connect()
        raw.line.send(Ready())
        return await raw.refusal()

    here = place("dep_a", "dep_b", "dep_c", EVE)
    assert "before it said Hello" in with_others(here, hostile).text


def forged(message: Any) -> Any:
    return msgspec.structs.replace(message, signature=bytes(64))


CHEATS: dict[str, tuple[type, Callable[[Any], Any], str]] = {
    "keys it did not sign": (Advertise, forged, "ForgedMessageError"),
    "keys of another member": (Advertise, lambda m: msgspec.structs.replace(m, member=m.member ^ 1), "ForgedMessage"),
    "keys of another round": (Advertise, lambda m: msgspec.structs.replace(m, round=bytes(32)), "another round"),
    "a vector too short": (Masked, lambda m: msgspec.structs.replace(m, words=m.words[8:]), "MalformedRequest"),
    "masks it did not use": (Masked, lambda m: msgspec.structs.replace(m, included=b"\0"), "exactly the masks"),
    "shares of others": (Reveal, lambda m: msgspec.structs.replace(m, seeds=m.seeds[1:]), "other shares"),
}


@pytest.mark.parametrize("what", CHEATS)
def test_a_client_that_cheats_in_a_sum_is_turned_away(place: Make, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = place("dep_a", "dep_b", "dep_c", EVE)
    all_first(monkeypatch, 4)
    kind, change, said = CHEATS[what]
    answer = joining._Stay._answer

    def cheat(self: Any, message: Any) -> None:
        mine = isinstance(message, kind) and self._guest._identity.id == EVE
        answer(self, change(message) if mine else message)

    monkeypatch.setattr(joining._Stay, "_answer", cheat)
    clients = [here.join(id) for id in ("dep_a", "dep_b", "dep_c")]
    served, outcomes = run(together(here.serve(), *clients, here.join(EVE)))
    late = kind is Reveal  # its vector is in the sum by then, and the others' shares are enough
    assert served.reports[0].delivered == ["dep_a", "dep_b", "dep_c", *([EVE] if late else [])]
    assert isinstance(outcomes[3], MisbehaviourError) and said in str(outcomes[3])
    assert all(each.summed == 1 for each in outcomes[:3])


# ------------------------------------------------------------------------------------------------------ hostile servers


def against(here: Place, allowance: Allowance | None = None, **options: Any) -> list[Any]:
    """What three clients raise at a server that does not keep to the protocol, or asks for too much."""

    async def both() -> Any:
        server = asyncio.ensure_future(here.serve(**options))
        clients = [asyncio.ensure_future(here.join(id, allowance)) for id in here.ids]
        done, _ = await asyncio.wait([server, *clients], return_when=asyncio.FIRST_COMPLETED)
        first = [client.exception() for client in clients if client in done]
        for each in (server, *clients):
            each.cancel()
        await asyncio.gather(server, *clients, return_exceptions=True)
        assert first and None not in first, server
        return first

    return run(both())  # type: ignore[no-any-return]


def tampered(monkeypatch: pytest.MonkeyPatch, method: str, change: Callable[[Server, Any], Any]) -> None:
    whole = vars(Server)[method]
    monkeypatch.setattr(
        Server, method, lambda self: {id: change(self, message) for id, message in whole(self).items()}
    )


def both_shares(server: Server, message: Unmask) -> Unmask:
    return msgspec.structs.replace(message, dropped=message.survivors[:1])


def a_survivor_as_dropped(server: Server, message: Unmask) -> Unmask:
    return msgspec.structs.replace(message, survivors=message.survivors[1:], dropped=message.survivors[:1])


def a_subset(server: Server, message: Survivors) -> Survivors:
    return msgspec.structs.replace(message, present=packed([True, True, False]))


def a_stranger_s_keys(server: Server, message: Keys) -> Keys:
    return msgspec.structs.replace(message, entries=[*message.entries, message.entries[0]])


@pytest.mark.parametrize(
    ("method", "change", "said"),
    [
        ("unmask", both_shares, "both secrets"), ("unmask", a_survivor_as_dropped, "both secrets"),
        ("survivors", a_subset, "sum of 2 clients"), ("keys", a_stranger_s_keys, "came twice"),
    ],
    ids=["both shares", "a survivor's key", "a subset", "a neighbour twice"],
)  # fmt: skip
def test_a_server_that_asks_for_more_than_the_sum_gets_nothing(
    place: Make, method: str, change: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = place()
    given: list[Any] = []
    monkeypatch.setattr(Server, "on_reveal", lambda self, peer, message: given.append(message))
    tampered(monkeypatch, method, change)
    for error in against(here, Allowance(least=3)):
        assert isinstance(error, RequestRefusedError) and said in str(error)
    assert not given


def test_sums_of_fewer_than_a_client_allows_are_refused_at_once(place: Make) -> None:
    for error in against(place(), Allowance(least=3), settings=serving(1, 2)):
        assert isinstance(error, RequestRefusedError)
        assert "one of 2 clients" in str(error) or "among 3 at least" in str(error)


def gathered(monkeypatch: pytest.MonkeyPatch, change: Callable[[Gathering], Gathering], times: int = 1) -> None:
    run_sum = sums.Attempt._run

    async def changed(self: Any, server: Server, messages: Any, seconds: float) -> Any:
        messages = {id: change(message) for id, message in messages.items()}
        for _ in range(times - 1):
            for id, message in messages.items():
                self._clients[id].line.send(message)
        return await run_sum(self, server, messages, seconds)

    monkeypatch.setattr(sums.Attempt, "_run", changed)


def test_members_the_authority_does_not_know_are_refused(
    place: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other = place(), tmp_path / "made up"
    certificates.make_authority(other)
    certificates.issue(other, "dep_a")
    fake = der_of(other / "dep_a.crt")
    gathered(monkeypatch, lambda m: msgspec.structs.replace(m, certificates=[fake, *m.certificates[1:]]))
    for error in against(here):
        assert isinstance(error, RequestRefusedError) and "made that member up" in str(error)


def test_members_without_certificates_are_refused(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered(monkeypatch, lambda m: msgspec.structs.replace(m, certificates=m.certificates[:2]))
    for error in against(place()):
        assert isinstance(error, RequestRefusedError) and "certificates of 2 different keys" in str(error)


def test_an_update_is_given_to_one_sum_only(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered(monkeypatch, lambda m: m, times=2)
    for error in against(place()):
        assert isinstance(error, RequestRefusedError) and "No update is given twice" in str(error)


def test_a_sum_that_began_before_is_refused_by_the_ledger(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here, seen = place(), list[Any]()

    def again(message: Gathering) -> Gathering:
        seen.append(message.opening)
        return msgspec.structs.replace(message, opening=seen[0])

    gathered(monkeypatch, again)
    for error in against(here, settings=serving(2)):
        assert isinstance(error, RoundReusedError)


def test_a_client_with_a_list_of_its_own_takes_part_with_those_on_it(place: Make) -> None:
    here = place()
    (here.folder / "mine.txt").write_text("dep_a\ndep_b\n")

    async def both() -> Any:
        server = asyncio.ensure_future(here.serve())
        clients = [asyncio.ensure_future(here.join(id)) for id in ("dep_b", "dep_c")]
        error = await error_of(here.join("dep_a", enrolled=here.folder / "mine.txt"))
        for each in (server, *clients):
            each.cancel()
        await asyncio.gather(server, *clients, return_exceptions=True)
        return error

    error = run(both())
    assert isinstance(error, RequestRefusedError) and "'dep_c' takes part" in str(error)


@pytest.mark.parametrize(
    ("learning", "allowance", "said"),
    [
        (LEARNING, Allowance(epochs=1), "2 epochs in a round, and this client allows 1"),
        (LEARNING, Allowance(items=10), "items in a round"),
        (LEARNING, Allowance(bytes=100), "bytes of a model"),
    ],
)
def test_tasks_beyond_what_is_allowed_are_refused(
    place: Make, learning: Learning, allowance: Allowance, said: str
) -> None:
    for error in against(place(), allowance, learning=learning):
        assert isinstance(error, TaskRefusedError) and said in str(error)


def task_of(**changes: Any) -> Any:
    return msgspec.structs.replace(LEARNING.task(LEARNING.begun(), FedAvg()), **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 9}, "version 9"), ({"model": "mlp:4,9,3"}, "other shapes"), ({"model": "exec"}, "no stock model"),
        ({"model": "mlp:4,60000,60000"}, "are allowed"), ({"loss": "print"}, "no loss"),
        ({"settings": Settings(optimizer="LBFGS")}, "no optimizer"), ({"settings": Settings(0)}, "batch_size"),
        ({"model": "", "graphs": b"\xc1"}, "no message"), ({"model": "", "graphs": b"\x90"}, "one graph or more"),
    ],
)  # fmt: skip
def test_tasks_that_do_not_hold_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((TaskRefusedError, MalformedRequestError), match=said):
        Trainee(task_of(**changes), Allowance(graphs=True, bytes=1 << 20), items("dep_a"), "dep_a")


def test_data_that_do_not_fit_the_model_are_noticed_at_once(place: Make) -> None:
    for error in against(place(), learning=Learning("mlp:5,3")):
        assert isinstance(error, FederatedDataError) and "shape (4,), torch.float32" in str(error)


def test_another_member_than_the_server_is_refused(place: Make) -> None:
    here = place("dep_a", "dep_b", "dep_c")
    got = with_others(here, lambda: error_of(here.join("dep_a", server_id="dep_b")))
    assert isinstance(got, HandshakeError) and "has the certificate of 'server', not of 'dep_b'" in str(got)


def test_a_server_that_is_not_there_is_given_up(place: Make) -> None:
    here = place()
    with pytest.raises(WorkerUnreachableError):
        run(here.join("dep_a", server="127.0.0.1:9", patience=0.01))
    with pytest.raises(ConfigurationError, match="no address"):
        run(here.join("dep_a", server="somewhere"))


def test_a_list_that_cannot_be_read_enrols_nobody(place: Make) -> None:
    here = place()

    async def both() -> Any:
        server = asyncio.ensure_future(here.serve())
        await here.where()
        here.roll.write_text("dep_a\n-x\n")
        error = await error_of(here.join("dep_a"))
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
        return error

    assert isinstance(run(both()), EnrolmentRefusedError)
    assert "Line 2" in here.told("server", "nobody is enrolled")[0]["reason"]
    with pytest.raises(ConfigurationError, match="Line 2"):
        run(here.serve())


def test_messages_keep_their_form() -> None:
    for wrong in (encode(Left(1, 1, "x" * 300)), encode(Ready())[:-1], b"\x91\xa5other", b""):
        with pytest.raises(MalformedRequestError):
            read_from_client(wrong)


def test_what_comes_too_late_is_borne_a_few_times(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = place("dep_a", "dep_b", "dep_c", EVE)
    all_first(monkeypatch, 4)
    late = encode(Reveal(bytes(32), [], []))

    async def hostile() -> Any:
        raw = await Raw(here, EVE).enter()
        order = await raw.came.get()
        raw.line.send(Trained(order.round, order.attempt))
        assert isinstance(await raw.came.get(), Gathering)
        for _ in range(9):
            raw.line.send_encoded(late)
        return await raw.refusal()

    async def both() -> Any:
        eve = asyncio.ensure_future(hostile())
        served, _ = await together(here.serve(), *(here.join(id) for id in ("dep_a", "dep_b", "dep_c")))
        assert served.reports[0].delivered == ["dep_a", "dep_b", "dep_c"]
        return await eve

    got = run(both())
    assert got.kind == "MisbehaviourError" and "9 messages in a row" in got.text
    assert len(here.told("server", "message too late")) == 8


def test_a_certificate_that_expires_soon_is_not_shown_to_others(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = place("dep_a", "dep_b", "dep_c", EVE)
    whole = hall._require_lasting

    def lasting(visitor: hall.Visitor) -> None:
        if visitor.id == EVE:
            visitor.until = datetime.now(UTC) + timedelta(minutes=9)
        whole(visitor)

    monkeypatch.setattr(hall, "_require_lasting", lasting)
    got = with_others(here, lambda: error_of(here.join(EVE)))
    assert isinstance(got, EnrolmentRefusedError) and "keygen --renew" in str(got)


def test_sums_under_other_limits_than_the_task_s_are_refused(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    convene = sums.convene

    def other(identity: Any, keys: Any, length: int, limits: Limits, **options: Any) -> Any:
        return convene(identity, keys, length, replace(limits, fraction_bits=limits.fraction_bits - 1), **options)

    monkeypatch.setattr(sums, "convene", other)
    for error in against(place()):
        assert isinstance(error, RequestRefusedError) and "other limits than those of the task" in str(error)


def test_sums_whose_graph_the_server_drew_are_refused(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    convene = sums.convene

    def sparse(*arguments: Any, **options: Any) -> Any:
        return convene(*arguments, **{**options, "parameters": Parameters(2, 2, 1)})

    monkeypatch.setattr(sums, "convene", sparse)
    for error in against(place("dep_a", "dep_b", "dep_c", "dep_d"), settings=serving(1, 4)):
        assert isinstance(error, RequestRefusedError) and "not all members have masks in common" in str(error)
