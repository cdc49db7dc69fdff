"""A Grid in one process: messages go to ClientApps as deep copies, are recorded, and may be lost."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

Update = Callable[[int, int], np.ndarray[Any, Any]]
"""From a partition and a round to an update."""


SECRET = 99.515625
"""A figure that nobody asks for."""


def model(size: int = 6) -> ArrayRecord:
    """A model of two float arrays and a counter."""
    half = size // 2
    return ArrayRecord(
        {
            "w": Array(np.linspace(-1, 1, half, dtype=np.float32).reshape(1, half)),
            "steps": Array(np.array(7)),
            "b": Array(np.zeros(size - half, np.float32)),
        }
    )


def flat(arrays: ArrayRecord) -> np.ndarray[Any, Any]:
    """The real numbers of a model."""
    return np.concatenate([arrays[name].numpy().astype(np.float64).reshape(-1) for name in ("w", "b")])


def updates(partition: int, round: int, size: int = 6) -> np.ndarray[Any, Any]:
    """The update of a client; public, and different for each."""
    return np.random.default_rng([partition, round]).uniform(-1, 1, size)


def examples(partition: int) -> int:
    """The number of items of a client."""
    return 10 + 3 * partition


def client_app(*mods: Any, update: Update = updates) -> ClientApp:
    """Clients that add a known update to the model."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        received = message.content["arrays"]
        step = update(partition, int(message.content["config"]["server-round"]))
        made, place = {}, 0
        for name, array in received.items():
            values = array.numpy()
            if values.dtype.kind == "f":
                part = step[place : place + values.size].reshape(values.shape)
                made[name] = Array((values + part).astype(values.dtype))
                place += values.size
            else:
                made[name] = Array(np.asarray(values + 1))
        figures = MetricRecord({"num-examples": examples(partition), "loss": 0.5 + partition, "secret": SECRET})
        return Message(RecordDict({"arrays": ArrayRecord(made), "metrics": figures}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        figures = MetricRecord({"num-examples": examples(partition), "accuracy": partition / 10})
        return Message(RecordDict({"metrics": figures}), reply_to=message)

    return app


class LocalGrid(Grid):
    """A Grid whose nodes are in this process.

    Args:
        app: of the nodes.
        configs: of the nodes.
        lost: whether a reply is lost, given the number of the step at this node, and the node.

    Attributes:
        seen: the bytes of each reply, by node, as the ServerApp gets them.
        contexts: of the nodes.
        orders: what was sent.
        errors: what apps raised.
    """

    def __init__(
        self,
        app: ClientApp,
        configs: Iterable[Mapping[str, Any]],
        lost: Callable[[int, int], bool] = lambda step, node: False,
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1 << 20, 1
        self.app = app
        self.contexts = {
            node: Context(1, node, dict(config), RecordDict(), {}) for node, config in enumerate(configs, 1)
        }
        self.lost = lost
        self.steps: dict[int, int] = {node: 0 for node in self.contexts}
        self.seen: dict[int, list[bytes]] = {node: [] for node in self.contexts}
        self.orders: list[Message] = []
        self.errors: list[BaseException] = []
        self._numbers = itertools.count(1)
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        pass

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: Any, **options: Any) -> Message:
        return Message(*args, **options)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        pushed = []
        for message in messages:
            node, number = message.metadata.dst_node_id, str(next(self._numbers))
            message.metadata.__dict__["_message_id"] = number
            pushed.append(number)
            self.orders.append(copy.deepcopy(message))
            self.steps[node] += 1
            context = copy.deepcopy(self.contexts[node])
            try:
                reply = self.app(copy.deepcopy(message), context)
                self.contexts[node] = context
            except Exception as error:
                self.errors.append(error)
                reply = Message(Error(3, f"{type(error)}:<'{error}'>"), reply_to=message)
            if not self.lost(self.steps[node], node):
                reply.metadata.__dict__["_src_node_id"] = node
                if reply.has_content():
                    self.seen[node].append(everything(reply.content))
                self._replies[number] = reply
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(number) for number in list(message_ids) if number in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))


def everything(content: RecordDict) -> bytes:
    """All bytes and numbers of a reply."""
    found = []
    for record in content.values():
        for value in record.values():
            data = value.data if isinstance(value, Array) else value
            found.append(data if isinstance(data, bytes) else repr(data).encode())
    return b"".join(found)
