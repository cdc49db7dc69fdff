"""Runs a federation by each of the rules that the run's configuration names, and writes what came of it to a file."""

import json
import logging
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from sharetorch.fl.flower import SIMULATED, InServerApp, SecureStrategy

app = ServerApp()
SIZE = 8


class Warned(logging.Handler):
    """Keeps what Flower's log says of who is left out."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "left out" in record.getMessage():
            self.texts.append(record.getMessage())


@app.main()
def main(grid: Grid, context: Context) -> None:
    config, found, warned = context.run_config, [], Warned()
    logging.getLogger("flwr").addHandler(warned)
    keys = str(config["keys"]) or SIMULATED
    for rule in str(config["rules"]).split(","):
        plain = FedAvg(
            fraction_evaluate=0.0, min_available_nodes=int(config["nodes"]), min_train_nodes=int(config["nodes"])
        )
        aggregators = None if rule == "weighted-mean" else InServerApp(2)
        strategy = SecureStrategy(plain, keys=keys, rule=rule, aggregators=aggregators, train_metrics={"loss": 50.0})
        done = strategy.start(grid, ArrayRecord({"w": Array(np.zeros(SIZE))}), num_rounds=1)
        figures = done.train_metrics_clientapp[1]
        found.append({"w": done.arrays["w"].numpy().tolist(), "loss": figures["loss"], "left out": warned.texts.copy()})
        warned.texts.clear()
    partial = Path(str(config["result"]) + ".part")
    partial.write_text(json.dumps(found))
    partial.rename(str(config["result"]))
