"""What the library's source must not contain, found by walking its syntax trees."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["mpc", "remote", "nn", "autograd", "fl", "sharetorch"]
SOURCES = sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

FORBIDDEN_MODULES = {"random", "secrets", "pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
TORCH_RANDOM = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli",
    "multinomial", "poisson", "manual_seed", "seed", "Generator", "binomial",
}  # fmt: skip
RANDOM_METHODS = {
    "random_",
    "uniform_",
    "normal_",
    "bernoulli_",
    "exponential_",
    "geometric_",
    "cauchy_",
    "log_normal_",
}
PUBLIC_PATTERNS = {"autograd/dropout.py"}
"""Dropout's pattern is public: it hides nothing."""
PUBLIC_DATA = {"sharetorch/datasets.py", "fl/loader.py", "fl/training.py", "fl/utils.py"}
"""The order of data in batches, which is public, and toy data."""
URANDOM = {"mpc/randomness.py", "mpc/session.py"}
"""Secrets come from the first; the second begins its count of object numbers at a random place."""
SPEAKING = {"sharetorch/__main__.py", "sharetorch/cli/output.py", "sharetorch/cli/logs.py"}
"""Command lines print."""
LOGGING = {"remote/network/acceptor.py", "remote/network/server.py"}
"""Servers log who comes and goes; a test looks for shares in their logs."""


def tree(source: str) -> ast.Module:
    return ast.parse((ROOT / source).read_text(), source)


def dotted(node: ast.AST) -> str:
    """The name an expression spells, such as torch.nn.functional.relu; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        start = dotted(node.value)
        return f"{start}.{node.attr}" if start else f"?.{node.attr}"
    return ""


def imported(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Every imported name with its module, and its line."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def mentioned(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Every dotted name, and its line."""
    for node in ast.walk(module):
        if isinstance(node, (ast.Name, ast.Attribute)):
            yield node.lineno, dotted(node)


def called(module: ast.Module) -> Iterator[tuple[int, str]]:
    """The name of everything that is called, and the line."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            yield node.lineno, dotted(node.func)


def other_generators(source: str, module: ast.Module) -> list[str]:
    """Random numbers that are not cryptographic."""
    if source in PUBLIC_DATA:
        return []
    names = [*imported(module), *mentioned(module)]
    found = [f"{source}:{line} {name}" for line, name in names if name.startswith(("numpy.random", "np.random"))]
    if source in PUBLIC_PATTERNS:
        return found
    for line, name in names:
        parts = name.split(".")
        if parts[0] in ("torch", "aten", "_aten") and parts[-1] in TORCH_RANDOM or parts[-1] in RANDOM_METHODS:
            found.append(f"{source}:{line} {name}")
    return found


def forbidden_imports(source: str, module: ast.Module) -> list[str]:
    return [f"{source}:{line} {name}" for line, name in imported(module) if name.split(".")[0] in FORBIDDEN_MODULES]


def entropy(source: str, module: ast.Module) -> list[str]:
    names = [*imported(module), *mentioned(module)]
    found = [f"{source}:{line} {name}" for line, name in names if name.endswith(("urandom", "getrandom"))]
    return [] if source in URANDOM else found


def unchecked_code(source: str, module: ast.Module) -> list[str]:
    """Code or objects made of data."""
    banned = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "numpy.load", "np.load"}
    return [f"{source}:{line} {name}" for line, name in called(module) if name in banned]


def bare_imports(source: str, module: ast.Module) -> list[str]:
    """``import mpc`` would load a second copy of our classes."""
    return [f"{source}:{line} {name}" for line, name in imported(module) if name.split(".")[0] in FOLDERS[:-1]]


def speech(source: str, module: ast.Module) -> list[str]:
    """Anything that could carry a share to a screen or a log."""
    if source in SPEAKING:
        return []
    names = [*((line, name) for line, name in called(module) if name in ("print", "pprint"))]
    if source not in LOGGING:
        names += [(line, name) for line, name in imported(module) if name.split(".")[0] in ("logging", "syslog")]
    return [f"{source}:{line} {name}" for line, name in names]


def security_by_assertion(source: str, module: ast.Module) -> list[str]:
    """``python -O`` removes assertions, so none may stand in the modules that guard single use and shapes."""
    guarded = {"mpc/provider.py", "mpc/randomness.py", "mpc/share.py", "mpc/session.py", "mpc/channel.py"}
    lines = [node.lineno for node in ast.walk(module) if isinstance(node, ast.Assert)]
    return [f"{source}:{line} assert" for line in lines] if source in guarded else []


BANS: list[Callable[[str, ast.Module], list[str]]] = [
    other_generators,
    forbidden_imports,
    entropy,
    unchecked_code,
    bare_imports,
    speech,
    security_by_assertion,
]


@pytest.mark.parametrize("ban", BANS)
def test_the_source_keeps_every_ban(ban: Callable[[str, ast.Module], list[str]]) -> None:
    assert [finding for source in SOURCES for finding in ban(source, tree(source))] == []


@pytest.mark.parametrize(
    ("ban", "line"),
    [
        (other_generators, "import torch\nmask = torch.randint(0, 9, (3,))"),
        (other_generators, "from torch import rand"),
        (other_generators, "import numpy as np\nnp.random.default_rng(0)"),
        (other_generators, "from numpy.random import default_rng"),
        (other_generators, "x.random_()"),
        (other_generators, "torch.empty(3).data.uniform_(0, 1)"),
        (forbidden_imports, "import random"),
        (forbidden_imports, "from pickle import loads"),
        (entropy, "import os\nos.urandom(4)"),
        (entropy, "from os import urandom"),
        (unchecked_code, "eval(text)"),
        (unchecked_code, "import torch\ntorch.load(path)"),
        (bare_imports, "import mpc.ring"),
        (bare_imports, "from autograd import engine"),
        (speech, "print(share)"),
        (speech, "import logging"),
    ],
)
def test_a_ban_notices_what_it_bans(ban: Callable[[str, ast.Module], list[str]], line: str) -> None:
    assert ban("mpc/example.py", ast.parse(line)) != []


def listed_order() -> list[str]:
    """The modules of mpc in the order its docstring gives, protocols spelled out."""
    text = ast.get_docstring(tree("mpc/__init__.py")) or ""
    lines = text.split("\n\n", 1)[1].splitlines()
    order: list[str] = []
    for line in lines:
        words = line.replace(",", " ").split()
        if line.startswith("protocols") or (line.startswith(" ") and order[-1].startswith("protocols.")):
            order += [f"protocols.{name}" for name in words if name != "protocols"]
        elif words and not line.startswith(" "):
            order.append(words[0])
    return order


def place(module: str) -> int:
    """Place in the order of a module's dotted name below sharetorch.mpc; packages without protocols count as one."""
    order = listed_order()
    parts = module.split(".")
    name = ".".join(parts[:2]) if parts[0] == "protocols" else parts[0]
    return order.index(name)


def own_modules() -> list[str]:
    names = (
        source.removeprefix("mpc/").removesuffix(".py").replace("/", ".") for source in SOURCES if source[:4] == "mpc/"
    )
    return [name for name in names if not name.endswith("__init__")]


def test_every_module_of_mpc_has_its_place() -> None:
    missing = [
        name
        for name in own_modules()
        if (name if name.startswith("protocols.") else name.split(".")[0]) not in listed_order()
    ]
    assert missing == []


def test_modules_of_mpc_import_only_earlier_ones() -> None:
    late = []
    for name in own_modules():
        for line, target in imported(tree(f"mpc/{name.replace('.', '/')}.py")):
            used = target.removeprefix("sharetorch.mpc.")
            if used == target or used.split(".")[0] not in {part.split(".")[0] for part in listed_order()}:
                continue
            if used == "protocols" or used.split(".")[0] == name.split(".")[0] != "protocols":
                continue
            if place(used) >= place(name) and used.rsplit(".", 1)[0] != name and used != name:
                late.append(f"mpc/{name}:{line} imports {target}")
    assert late == []


LOWER_FIRST = ("mpc", "autograd", "nn", "remote", "fl")


@pytest.mark.parametrize(
    ("folder", "banned"), [(folder, LOWER_FIRST[place + 1 :]) for place, folder in enumerate(LOWER_FIRST[:-1])]
)
def test_folders_import_only_lower_ones(folder: str, banned: tuple[str, ...]) -> None:
    wrong = []
    for source in SOURCES:
        if source.startswith(f"{folder}/"):
            upper = tuple(f"sharetorch.{name}" for name in banned)
            wrong += [f"{source}:{line} {name}" for line, name in imported(tree(source)) if name.startswith(upper)]
    assert wrong == []


def test_imports_are_absolute() -> None:
    relative = [
        f"{source}:{node.lineno}"
        for source in SOURCES
        for node in ast.walk(tree(source))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []
