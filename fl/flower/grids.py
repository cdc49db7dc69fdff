"""Orders to nodes through a Grid, and their answers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from sharetorch.fl.flower.errors import FlowerError
from sharetorch.fl.flower.logs import warn
from sharetorch.fl.flower.records import HELLO, RECORD, Order, answer_in, carried, write
from sharetorch.mpc.errors import ConfigurationError, ShareTorchError
from sharetorch.mpc.network.identity import check_id

_SHORTEST, _LONGEST = 0.05, 1.0
"""Seconds between looks for replies."""
_REASON = 600


class Desk:
    """Asks nodes, a step at a time, and waits for whoever answers in time.

    Args:
        grid: of the ServerApp.
        kind: type of the messages, one that the ClientApp serves.
        group: of the messages.
        seconds: how long a step may take.

    Attributes:
        refused: why nodes did not take part, by node.
    """

    def __init__(self, grid: Grid, kind: str, group: str, seconds: float) -> None:
        self._grid = grid
        self._kind = kind
        self._group = group
        self._seconds = seconds
        self.refused: dict[int, str] = {}

    def ask(self, orders: Mapping[int, Order]) -> dict[int, bytes]:
        """Send orders, and take the answers that come in time, by node."""
        sent = [
            Message(
                RecordDict({RECORD: carried(write(order))}), dst_node_id=node, message_type=self._kind,
                group_id=self._group,
            )
            for node, order in orders.items()
        ]  # fmt: skip
        return self.answers(_exchanged(self._grid, sent, self._seconds), orders)

    def answers(self, replies: Iterable[Message], asked: Iterable[int]) -> dict[int, bytes]:
        """The answers in replies; who did not answer is noted."""
        found: dict[int, bytes] = {}
        for message in replies:
            node = message.metadata.src_node_id
            try:
                found[node] = answer_in(message)
            except ShareTorchError as error:
                self.refuse(node, str(error))
        for node in asked:
            if node not in found and node not in self.refused:
                self.refuse(node, "no answer in time")
        return found

    def refuse(self, node: int, reason: str) -> None:
        """Note why a node does not take part."""
        self.refused[node] = _short(reason)
        warn(f"Node {node} is left out of this round: {self.refused[node]}")


class Roster:
    """Names of nodes, as they say themselves: whether they may, their signatures show."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def names(self, desk: Desk, nodes: Iterable[int]) -> dict[int, str]:
        """The names of nodes; without those that do not answer.

        Raises:
            ConfigurationError: two nodes have one name.
        """
        unknown = [node for node in nodes if node not in self._names]
        for node, answer in desk.ask({node: Order(HELLO) for node in unknown}).items():
            try:
                name = answer.decode()
                check_id(name)
                self._names[node] = name
            except (UnicodeDecodeError, ConfigurationError) as error:
                desk.refuse(node, f"no name: {error}")
        found = {node: self._names[node] for node in nodes if node in self._names}
        twice = sorted({name for name in found.values() if [*found.values()].count(name) > 1})
        if twice:
            raise ConfigurationError(
                f"Several nodes say that they are {', '.join(twice)}. Give each SuperNode its own keys and name: "
                "--node-config 'sharetorch-id=...'."
            )
        return found


def _short(reason: str) -> str:
    """The last line, where a traceback says what happened."""
    return reason.strip().rpartition("\n")[2][:_REASON]


def added(message: Message, order: Order) -> Message:
    """A strategy's message with an order in it."""
    meta, content = message.metadata, RecordDict({**message.content, RECORD: carried(write(order))})
    return Message(
        content, dst_node_id=meta.dst_node_id, message_type=meta.message_type, group_id=meta.group_id, ttl=meta.ttl
    )


def model_in(message: Message, key: str) -> ArrayRecord:
    """The global model in a strategy's message.

    Raises:
        FlowerError: there is none.
    """
    found = message.content.array_records.get(key)
    if found is None:
        raise FlowerError(f"The strategy's message holds no model under {key!r}. Set its arrayrecord_key.")
    return found


def _exchanged(grid: Grid, messages: list[Message], seconds: float) -> list[Message]:
    """What ``Grid.send_and_receive`` gives, but replies are looked for more often."""
    if not messages:
        return []
    waiting = {number for number in grid.push_messages(messages) if number}
    found: list[Message] = []
    pause, end = _SHORTEST, time.monotonic() + seconds
    while waiting:
        for reply in grid.pull_messages(waiting):
            found.append(reply)
            waiting.discard(reply.metadata.reply_to_message_id)
        if not waiting or time.monotonic() >= end:
            break
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
        pause = min(2 * pause, _LONGEST)
    return found
