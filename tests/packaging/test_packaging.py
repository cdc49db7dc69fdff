"""The traps of mapping folders to subpackages (docs: CONTRIBUTING.md, "Folders and packages")."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAPPING: dict[str, str] = SETTINGS["tool"]["setuptools"]["package-dir"]
OTHER_FOLDERS = {"benchmarks", "build", "dist", "docs", "examples", "tests"}  # code, but not part of the package
SHADOWS = {"autograd", "fl", "mpc", "nn", "remote"}  # our folders' names, which are also names of other packages


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def folders_with_code() -> set[str]:
    tops = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    files = [file for top in tops if top.name not in OTHER_FOLDERS for file in top.rglob("*.py")]
    return {file.parent.relative_to(ROOT).as_posix() for file in files}


def bare_imports(source: str) -> list[str]:
    """Imports in a module's source that name one of our folders as a top-level package."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if node.level == 0 else ["." * node.level + (node.module or "")]
        else:
            continue
        found += [name for name in names if name.partition(".")[0] in SHADOWS]
    return found


def relative_imports(source: str) -> list[int]:
    return [n.lineno for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom) and n.level > 0]


def test_packages_list_equals_the_tree() -> None:
    assert set(MAPPING.values()) == folders_with_code()


def test_every_mapped_folder_is_listed_under_its_name() -> None:
    assert sorted(SETTINGS["tool"]["setuptools"]["packages"]) == sorted(MAPPING)
    for name, folder in MAPPING.items():
        inside = folder.removeprefix("sharetorch").strip("/")
        expected = f"sharetorch.{inside.replace('/', '.')}" if inside else "sharetorch"
        assert name == expected


@pytest.mark.parametrize("folder", sorted(MAPPING.values()))
def test_every_package_has_an_init_file(folder: str) -> None:
    assert (ROOT / folder / "__init__.py").is_file()


def test_typed_marker_is_shipped() -> None:
    assert (ROOT / "sharetorch" / "py.typed").is_file()
    assert "py.typed" in SETTINGS["tool"]["setuptools"]["package-data"]["sharetorch"]


def test_no_bare_import_of_our_folders() -> None:
    code = {folder.split("/")[0] for folder in MAPPING.values()} | {"tests", "examples", "benchmarks", "docs"}
    found = {
        str(path.relative_to(ROOT)): names
        for path in python_files(*sorted(code))
        if (names := bare_imports(path.read_text(encoding="utf-8")))
    }
    assert found == {}, "write `import sharetorch.mpc`: a bare import loads a second copy of our classes"


def test_imports_in_the_package_are_absolute() -> None:
    found = {
        str(path.relative_to(ROOT)): lines
        for path in python_files(*sorted({folder.split("/")[0] for folder in MAPPING.values()}))
        if (lines := relative_imports(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import mpc", ["mpc"]),
        ("def f():\n    import nn.layers as x", ["nn.layers"]),
        ("from autograd.rules import relu", ["autograd.rules"]),
        ("from torch import nn\nimport sharetorch.mpc\nfrom sharetorch.remote import x", []),
        ("import mpctools", []),
    ],
)
def test_the_ban_on_bare_imports_sees_what_it_should(source: str, names: list[str]) -> None:
    assert bare_imports(source) == names


@pytest.mark.parametrize("name", sorted(MAPPING))
def test_installed_packages_are_the_files_of_this_tree(name: str) -> None:
    module = __import__(name, fromlist=["__name__"])
    assert Path(module.__file__).resolve() == ROOT / MAPPING[name] / "__init__.py"


def test_pytest_imports_tests_without_touching_the_path() -> None:
    assert "--import-mode=importlib" in SETTINGS["tool"]["pytest"]["ini_options"]["addopts"]
    assert "error" in SETTINGS["tool"]["pytest"]["ini_options"]["filterwarnings"]


def test_coverage_names_folders() -> None:
    sources = set(SETTINGS["tool"]["coverage"]["run"]["source"])
    assert sources == {folder.split("/")[0] for folder in MAPPING.values()}


def test_editable_install_uses_neither_compat_nor_strict_mode() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8") + (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "--editable" in text
    assert not re.search(r"editable[_-]mode|SETUPTOOLS_ENABLE_FEATURES|legacy-editable|config-settings", text)


def test_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    for folder in sorted({folder.split("/")[0] for folder in MAPPING.values()}):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", ".", "./source"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("sharetorch-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"sharetorch", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    modules = {name for name in names if name.endswith(".py")}
    assert modules == {
        f"{package.replace('.', '/')}/{path.name}"
        for package, folder in MAPPING.items()
        for path in (ROOT / folder).glob("*.py")
    }
    assert "sharetorch/py.typed" in names


def test_links_lead_to_every_package(tmp_path: Path) -> None:
    script = ROOT / "tests" / "packaging" / "make_links.py"
    for _ in range(2):  # the second run replaces the first
        subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, timeout=250)
    for name, folder in MAPPING.items():
        link = tmp_path.joinpath(*name.split("."))
        assert (link / "__init__.py").resolve() == ROOT / folder / "__init__.py"


def test_the_root_is_not_on_the_path() -> None:
    assert "." not in SETTINGS["tool"]["pytest"]["ini_options"]["pythonpath"]
    assert "-m pytest" not in (ROOT / "Makefile").read_text(encoding="utf-8").replace("`python -m pytest`", "")
