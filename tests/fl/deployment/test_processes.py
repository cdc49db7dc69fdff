"""kill -9 of clients and of the server: rounds are exact over those who are left, and nothing is masked twice alike."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharetorch.fl.deployment import joining
from sharetorch.fl.masking.messages import Masked
from sharetorch.fl.rounds.reports import RoundReport
from tests.fl.deployment.federations import (
    LEARNING,
    Place,
    Program,
    all_first,
    expected,
    items,
    run,
    same,
    serving,
    together,
    values,
)
from tests.network.ports import free_port

Make = Callable[..., Place]
CLIENT = "from sharetorch.fl.masking.client import Client; cut(Client, {!r}, 1)"


def saved(path: Path) -> list[torch.Tensor]:
    """The tensors in a file of safetensors of float32."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    found = []
    for entry in json.loads(data[8 : 8 + size]).values():
        begin, end = (8 + size + place for place in entry["data_offsets"])
        found.append(torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32).reshape(entry["shape"]))
    return found


def joined(here: Place, id: str, address: object) -> list[object]:
    """The command of a client whose items are in a file."""
    data = here.folder / f"{id}.npz"
    np.savez(data, x=items(id).data.numpy(), y=items(id).targets.numpy())
    return [
        "fl", "join", "--server", address, "--cert", here.keys / f"{id}.crt", "--state", here.folder / f"state of {id}",
        "--data", data, "--columns", "x", "--target", "y", "--save", here.folder / f"{id}.safetensors",
    ]  # fmt: skip


@pytest.mark.slow
def test_clients_killed_at_any_moment_cost_nobody_else_anything(
    place: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the training and before any key, after their shares, and after their vector: the last is in."""
    cuts = {"dep_keys": "advertise", "dep_shares": "mask", "dep_vector": "agree", "dep_whole": ""}
    here = place("dep_a", "dep_b", "dep_c", *cuts)
    all_first(monkeypatch, 7)
    programs: list[Program] = []

    async def course() -> Any:
        server = asyncio.ensure_future(here.serve(settings=serving(2)))
        address = await here.where()
        for id, step in cuts.items():
            programs.append(Program(joined(here, id, address), CLIENT.format(step) if step else ""))
        done = await together(server, *(here.join(id) for id in ("dep_a", "dep_b", "dep_c")))
        return done, [await program.ended() for program in programs]

    try:
        (served, outcomes), codes = run(course())
    finally:
        for program in programs:
            program.close()
    assert codes == [-9, -9, -9, 0], programs[3].lines
    first, second = served.reports
    honest = ["dep_a", "dep_b", "dep_c", "dep_whole"]
    assert first.delivered == sorted([*honest, "dep_vector"])
    assert sorted(first.left_out) == ["dep_keys", "dep_shares"]
    assert second.asked == second.delivered == honest
    assert same(served.model, expected(served.reports))
    assert [outcome.summed for outcome in outcomes] == [2, 2, 2]
    assert all(map(torch.equal, saved(here.folder / "dep_whole.safetensors"), values(served.model)))
    assert programs[3].told("finished")[-1]["summed"] == 2


@pytest.mark.slow
def test_a_server_killed_in_a_round_repeats_it_under_other_masks(
    place: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed once in the first sum, once after the second and before it is written down; clients come by themselves."""
    here = place()
    address = f"127.0.0.1:{free_port()}"
    settings, cert = LEARNING.settings, here.keys / "server.crt"
    words = [
        "fl", "serve", "--model", LEARNING.model, "--listen", address, "--rounds", 3, "--cert", cert,
        "--enrolled", here.roll, "--state", here.folder / "server", "--least", 3, "--pause", 0, "--seed", LEARNING.seed,
        "--batch-size", settings.batch_size, "--local-epochs", settings.epochs, "--lr", settings.optimizer_args["lr"],
        "--save", here.folder / "model.safetensors", "--log", here.folder / "log.json",
    ]  # fmt: skip
    cuts = (
        "from sharetorch.fl.masking.server import Server; cut(Server, 'survivors', 1)",
        "from sharetorch.fl.rounds import checkpoints; cut(checkpoints, 'write', 2)",
        "",
    )
    sent: list[tuple[str, int, Masked]] = []
    answer = joining._Stay._answer

    def noted(self: Any, message: Any) -> None:
        if isinstance(message, Masked):
            sent.append((self._guest._identity.id, self._now[0], message))
        answer(self, message)

    monkeypatch.setattr(joining._Stay, "_answer", noted)
    monkeypatch.setattr(joining, "_LONGEST_PAUSE", 0.5)
    programs: list[Program] = []

    async def servers() -> list[int]:
        codes = []
        for cut in cuts:
            programs.append(Program(words, cut))
            codes.append(await programs[-1].ended())
        return codes

    async def course() -> Any:
        return await asyncio.gather(servers(), *(here.join(id, server=address) for id in here.ids))

    try:
        codes, *outcomes = run(course())
    finally:
        for program in programs:
            program.close()
    assert codes == [-9, -9, 0], programs[-1].lines
    log = json.loads((here.folder / "log.json").read_text())["rounds"]
    assert [(entry["round"], entry["summed"]) for entry in log] == [(number, here.ids) for number in (1, 2, 3)]
    assert [line["rounds"] for program in programs for line in program.told("resumed")] == [1]
    reports = [RoundReport(number, here.ids, here.ids, {}, None, {}, 0.0) for number in (1, 2, 3)]
    whole = expected(reports)
    assert all(map(torch.equal, saved(here.folder / "model.safetensors"), values(whole)))
    for id, outcome in zip(here.ids, outcomes, strict=True):
        assert outcome.rounds == 3 and same(outcome.model, whole)
        assert sum("server lost" == event for event, _ in here.events[id]) >= 2
        for number, times in ((1, 2), (2, 2), (3, 1)):
            mine = [np.frombuffer(message.words, "<u8") for who, round, message in sent if (who, round) == (id, number)]
            assert len(mine) == times
            assert not (mine[0] == mine[-1]).any() or times == 1
    for ledger in (here.folder / "server" / "rounds", here.folder / "state of dep_a" / "rounds"):
        lines = ledger.read_text().split()
        assert len(lines) == len(set(lines)) == 5
