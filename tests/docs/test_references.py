"""Keys of the literature, terms, modules and paths named in code and pages exist."""

import ast
import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, pages

CODE = ("autograd", "fl", "mpc", "nn", "remote", "sharetorch")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_KEY = re.compile(r"\b(?:[A-Z][A-Za-z+]{1,}\d{2}|RFC\d{4}|SP\d+-\d+[A-Z]?|FIPS\d+)(?![\w-])")
_DEFINITION = re.compile(r"^\((ref-[\w-]+)\)=\n\*\*\[([^\]]+)\]\*\*", re.MULTILINE)
_TERM = re.compile(r"\{term\}`([^`<]+?)(?: <([^>]+)>)?`")


def sources() -> list[Path]:
    return sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))


def docstrings(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in ast.walk(tree) if isinstance(node, kinds) and (text := ast.get_docstring(node))]


def cited(text: str) -> set[str]:
    """Keys in square brackets: [WGC19], [WGC19, Algorithm 3], [DEK20; EGKRS20, section 5.1]."""
    return {key for inside in _BRACKETS.findall(text) for key in _KEY.findall(inside)}


def defined() -> dict[str, str]:
    """Keys and their targets."""
    text = (DOCS / "references.md").read_text(encoding="utf-8")
    return {key: target for target, key in _DEFINITION.findall(text)}


def glossary() -> set[str]:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\{glossary\}\n(.*?)```", text, re.DOTALL)
    return {
        line.strip() for block in blocks for line in block.splitlines() if line.strip() and not line.startswith(" ")
    }


def test_the_pattern_finds_keys() -> None:
    assert cited(
        "as in [DEK20; EGKRS20, section 5.1], [RFC5869] and [WGC19, Algorithm 3]; x[0], [-1, 1], [U64, U8]"
    ) == {
        "DEK20",
        "EGKRS20",
        "RFC5869",
        "WGC19",
    }


def test_every_key_in_docstrings_is_defined() -> None:
    missing = {
        f"{path.relative_to(ROOT)}: {key}"
        for path in sources()
        for text in docstrings(path)
        for key in cited(text) - set(defined())
    }
    assert not missing


def test_every_key_in_pages_is_defined() -> None:
    missing = {
        f"{page.relative_to(ROOT)}: {key}"
        for page in pages()
        for key in cited(page.read_text(encoding="utf-8")) - set(defined())
    }
    assert not missing


def test_keys_are_defined_once_under_their_own_target() -> None:
    text = (DOCS / "references.md").read_text(encoding="utf-8")
    found = _DEFINITION.findall(text)
    assert len({key for _, key in found}) == len(found) == text.count("**[")
    assert all(target == f"ref-{key.lower()}" for target, key in found)


def test_every_reference_is_cited() -> None:
    used = {key for path in sources() for text in docstrings(path) for key in cited(text)}
    for page in pages():
        if page.name != "references.md":
            used |= cited(page.read_text(encoding="utf-8"))
    assert set(defined()) - used <= {"CrypTen21"}, "cite it or take it out; CrypTen21 stands for comparison"


@pytest.mark.parametrize("module", sorted(path.name for path in (ROOT / "mpc" / "protocols").glob("*.py")))
def test_every_protocol_module_has_a_page_that_names_it(module: str) -> None:
    if module == "__init__.py":
        return
    named = [
        page
        for page in (DOCS / "protocols").glob("*.md")
        if re.search(rf"\b{module}", page.read_text(encoding="utf-8"))
    ]
    assert named


@pytest.mark.parametrize("heading", ["Who holds what", "Cost", "Who learns what", "Messages"])
@pytest.mark.parametrize("page", ["products", "mask-comparison", "private-compare", "drelu"])
def test_pages_of_protocols_have_the_same_parts(page: str, heading: str) -> None:
    assert f"## {heading}\n" in (DOCS / "protocols" / f"{page}.md").read_text(encoding="utf-8")


def test_every_term_is_in_the_glossary() -> None:
    known = {term.lower() for term in glossary()}
    missing = {
        f"{page.relative_to(ROOT)}: {target or term}"
        for page in pages()
        for term, target in _TERM.findall(page.read_text(encoding="utf-8").replace("\n", " "))
        if (target or term).lower() not in known
    }
    assert not missing


def test_every_package_is_in_the_reference() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    folders = [path.parent for path in sources() if path.name == "__init__.py"]
    packages = {".".join(("sharetorch", *folder.relative_to(ROOT).parts)) for folder in folders}
    packages = {name.replace("sharetorch.sharetorch", "sharetorch") for name in packages}
    assert set(re.findall(r"<!-- modules of ([\w.]+)", text)) == packages


def test_paths_named_in_pages_exist() -> None:
    pattern = re.compile(r"`((?:autograd|benchmarks|docs|examples|mpc|nn|remote|sharetorch|tests)/[\w./-]*)`")
    generated = {"benchmarks/results/", "sharetorch/1"}  # the second is a protocol's name in TLS
    missing = {
        f"{page.relative_to(ROOT)}: {path}"
        for page in pages()
        for path in pattern.findall(page.read_text(encoding="utf-8"))
        if path not in generated and not (ROOT / path).exists()
    }
    assert not missing
