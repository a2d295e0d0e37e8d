"""The import direction is a rule of this project, so it is a test."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("data", "search_spaces", "objectives", "nas", "studies", "run_search")


def imported_packages(path: Path) -> set[str]:
    """The project's own packages that a file imports, wherever in the file it does."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module]
    return {name.split(".")[0] for name in names} & {*ORDER, "tests"}


@pytest.mark.parametrize("package", ORDER[:-1])
def test_packages_import_only_to_their_left(package: str) -> None:
    allowed = set(ORDER[: ORDER.index(package) + 1])
    paths = list((ROOT / package).rglob("*.py"))
    assert paths
    for path in paths:
        to_the_right = imported_packages(path) - allowed
        assert not to_the_right, f"{path.relative_to(ROOT)} imports {sorted(to_the_right)}"


@pytest.mark.parametrize(
    "line",
    [
        "import studies",
        "import studies.search as s",
        "from studies.search import run",
        "def f():\n    from studies import search",
    ],
)
def test_every_form_of_import_is_seen(tmp_path: Path, line: str) -> None:
    path = tmp_path / "room.py"
    path.write_text(f"import numpy\n{line}\n")
    assert imported_packages(path) == {"studies"}


def test_no_relative_imports() -> None:
    """They would hide the package that is imported from the test above."""
    for package in ORDER[:-1]:
        for path in (ROOT / package).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text()))
            assert not [n for n in nodes if isinstance(n, ast.ImportFrom) and n.level], path
