"""docs/benchmarks_federated.md from the results of ``bench_federated.py``.

python benchmarks/federated_table.py benchmarks/results/federated-latest.json docs/benchmarks_federated.md
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ATTACKS = ("none", "sign-flip", "scale", "random", "label-flip")


def page(results: dict[str, Any]) -> str:
    """The whole page, of the parts that are there."""
    parts = [part(results[name]) for name, part in PARTS.items() if name in results]
    return "\n\n".join([_head(results["machine"]), *parts]) + "\n"


def _head(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if name != "python")
    return (
        "# Figures of federated learning\n\n"
        "`python benchmarks/bench_federated.py` measured them: "
        f"{machine['cpu']}, {machine['cores']} cores, {versions}; one thread. Other programs ran on the machine: "
        "accuracies do not depend on that, and times are CPU times, beside numpy's of the same run."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    right = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, right, *rows))


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _points(value: float, base: float) -> str:
    return f"{100 * (value - base):+.2f}"


def _central(part: dict[str, Any]) -> str:
    how, found = part["schedule"], part["accuracy"]
    base = found["centralised"][-1]
    rows = [
        [name, *map(_percent, values), "" if name == "centralised" else _points(values[-1], base)]
        for name, values in found.items()
    ]
    head = ["test accuracy, % after round", *(str(number) for number in range(1, how["rounds"] + 1)), "points apart"]
    return (
        "## Beside centralised training\n\n"
        f"The tutorials' network on MNIST, all 60,000 training and 10,000 test items; {how['rounds']} rounds of one "
        f"pass of every client over its items, SGD with learning rate {how['lr']} and batches of {how['batch_size']}, "
        f"FedAvg; seed {part['seed']}. Centralised training is the same with one client that has all items, so "
        "everybody sees the same number of items.\n\n" + _table(head, rows)
    )


def _byzantine(part: dict[str, Any]) -> str:
    how, found = part["settings"], part["accuracy"]
    clean = found["mean"]["none"]
    rows = []
    for rule, values in found.items():
        worst = min(values[attack] for attack in ATTACKS[1:])
        apart = [_points(worst, values["none"]), _points(worst, clean)]
        rows.append([rule, *(_percent(values[attack]) for attack in ATTACKS), *apart])
    head = ["rule", "no attack", *ATTACKS[1:], "worst, beside the rule's own clean run", "beside the clean mean"]
    return (
        "## Clients that attack\n\n"
        f"MNIST, one hidden layer of 32 (25,450 parameters), {how['clients']} clients with 3,000 items each (IID), "
        f"{part['byzantine']} of them Byzantine, {how['rounds']} rounds of {how['local_epochs']} passes, learning rate "
        f"{how['lr']}, batches of {how['batch_size']}; seed {part['seed']}. `sign-flip` sends {part['strength']:g} "
        f"times the negative of an honest update, `scale` {part['strength']:g} times the honest one, `random` normal "
        f"numbers of standard deviation {part['strength']:g}; `label-flip` trains honestly on wrong labels. Test "
        "accuracy after the last round, in percent. *Hidden*: the rule is computed on updates split among two "
        "aggregators; else on plain ones.\n\n" + _table(head, rows) + "\n\n"
        "The mean does not collapse under label flips, whose updates are no longer than honest ones: it loses "
        f"{100 * (clean - found['mean']['label-flip']):.1f} points. Krum takes one client's update, so it is as good "
        "as one client's training on its own items: batches are large and the learning rate is small here for that "
        "reason. With batches of 100 and learning rate 0.1, Krum without attackers was 3.0 points below the mean "
        "(91.97 beside 94.97 %); with the 72 items a client has of scikit-learn's digits, 5."
    )


def _labels(part: dict[str, Any]) -> str:
    found, each = part["accuracy"], part["each digit"]
    best = [round_ for round_, value in enumerate(found, 1) if value >= 0.9]
    first = f"first in round {best[0]}" if best else "never"
    chosen = [n for n in (1, 5, 10, 20, 30, len(found)) if n <= len(found)]
    rows = [["test accuracy, %", *(_percent(found[n - 1]) for n in chosen)]]
    digits = [["right, %", *(f"{100 * value:.1f}" for value in each)]]
    how = part["settings"]
    return (
        "## Labels of their own, over websockets\n\n"
        "Three worker processes hold MNIST's digits 0 to 3, 4 to 6 and 7 to 9. As in the tutorial of asynchronous "
        f"training, each trains {how['max_nr_batches']} batches of {how['batch_size']} in a round (`async_fit`, "
        f"learning rate {how['lr']}, times {how['decay']} after each round), at the same time, and models are averaged "
        f"(`federated_avg`); {len(found)} rounds over TLS, seed {part['seed']} for the first weights, while the order "
        f"of items is the workers' own. At least 90 % was reached {first}.\n\n"
        + _table(["after round", *map(str, chosen)], rows)
        + "\n\nAfter the last round, digit by digit:\n\n"
        + _table(["digit", *map(str, range(10))], digits)
    )


def _hidden(part: dict[str, Any]) -> str:
    rows = []
    for row in part["rows"]:
        medians = {name: statistics.median(row[name]) for name in ("split", "taking", "opening", "numpy")}
        whole = medians["taking"] + medians["opening"]
        rows.append([
            f"`{row['rule']}`, d = {row['size']:,}", f"{row['upload_bytes']:,}", _ms(medians["split"]),
            _ms(medians["taking"]), _ms(medians["opening"]), _ms(medians["numpy"]),
            f"{medians['opening'] / medians['numpy']:.1f}", f"{whole / medians['numpy']:.1f}",
            str(row["rounds"]), f"{row['party_bytes'] / 1e6:.1f}",
        ])  # fmt: skip
    head = [
        "n = 20", "bytes of an upload", "split, ms", "take, ms", "rule and opening, ms", "numpy, ms",
        "rule and opening over numpy", "with taking over numpy", "rounds", "MB from each party",
    ]  # fmt: skip
    repeats = ", ".join(f"{count} of {rule}" for rule, count in part["repeats"].items())
    return (
        "## Updates that nobody sees\n\n"
        f"{part['clients']} uploads to two aggregators and a provider in one process. *Split*: what one client does. "
        "*Take*: all uploads at both aggregators, and the agreement. *Rule and opening*: from the agreed set to the "
        "opened result; half of the uploads are AES streams there, which seeds become. CPU time of all members "
        f"together, medians of rounds ({repeats}); seed {part['seed']}. Every result was compared: the mean is the "
        "integer sum's, the median numpy's, exactly. Bytes of uploads equal 8 d + 32, as declared.\n\n"
        + _table(head, rows)
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}"


PARTS = {"central": _central, "byzantine": _byzantine, "labels": _labels, "hidden": _hidden}

if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(page(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")
