"""Clients that add a known update to the model; those with a number in ``DEAD`` die at work."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from sharetorch.fl.flower import secure_mod, simulated_mod

SIZE = 8
DEAD = (3, 11)

app = ClientApp(mods=[secure_mod])
simulated = ClientApp(mods=[simulated_mod])


@app.train()
@simulated.train()
def train(message: Message, context: Context) -> Message:
    number = int(context.node_config["partition-id"])
    if number in DEAD:
        raise RuntimeError("This client dies while it trains.")
    step = np.random.default_rng([number, int(message.content["config"]["server-round"])]).uniform(-1, 1, SIZE)
    weights = message.content["arrays"]["w"].numpy() + step
    figures = MetricRecord({"num-examples": 10 + 3 * number, "loss": 0.5 + number})
    return Message(RecordDict({"arrays": ArrayRecord({"w": Array(weights)}), "metrics": figures}), reply_to=message)
