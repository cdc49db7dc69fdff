"""Make .links/sharetorch, a folder of links that shows type checkers the package as it is installed.

The folders of the repository are subpackages of ``sharetorch`` by setuptools' ``package-dir``, which mypy does not
read. This script lays links out as the import names say: ``.links/sharetorch/mpc`` leads to ``mpc``, and so on.
"""

import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def mapped_folders(root: Path = ROOT) -> dict[str, str]:
    """Give each package name its folder, as pyproject.toml says."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(settings["tool"]["setuptools"]["package-dir"])


def make_links(target: Path, root: Path = ROOT) -> None:
    """Lay out ``target/sharetorch`` anew as links into ``root``."""
    folders = mapped_folders(root)
    package = target / "sharetorch"
    if package.exists():
        shutil.rmtree(package)
    package.mkdir(parents=True)
    for entry in sorted((root / folders["sharetorch"]).iterdir()):
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for name, folder in folders.items():
        if name.count(".") == 1 and not folder.startswith("sharetorch/"):  # deeper packages lie inside these
            (package / name.partition(".")[2]).symlink_to(root / folder)


if __name__ == "__main__":
    make_links(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".links")
