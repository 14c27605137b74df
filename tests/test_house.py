"""The plan of the code: which part may import which, how large a file may grow, what start-up may load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    package: sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))
    for package in ("qgate", "training")
}
FILES = [path for paths in SOURCES.values() for path in paths]

LAYERS = {
    "qgate": (
        "errors, records, rates, version",
        "seeds, files, cache, progress, images",
        "config",
        "labels | tracking | runtime",
        "align",
        "gate | generators",
        "dataset",
        "report",
        "run",
        "web, api",
        "cli",
        "__init__",
    ),
    "training": (
        "__init__",
        "config",
        "data",
        "fitting | metrics",
        "pipeline, evaluate, teach",
        "tracked_run, crossfit, promotion, report",
        "train",
        "cli",
        "__main__",
    ),
}
"""Lowest first. A part imports from the layers below and, but for those beyond a `|`, from the parts beside it."""


def place(path: Path) -> tuple[int, int]:
    """Layer of a file, and which of the layer's sides it is on."""
    package, part = path.parts[0], path.with_suffix("").parts[1]
    for layer, text in enumerate(LAYERS[package]):
        for side, parts in enumerate(text.split(" | ")):
            if part in parts.split(", "):
                return layer, side
    raise AssertionError(f"{path} has no place in the plan: give it one in LAYERS")


def imported(path: Path) -> Iterator[str]:
    """Every name that a file imports, with its module, inside functions and for the type checker too."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(name: str) -> Path | None:
    """The file of ours that a dotted name comes from: a module, or what stands in one; None for other packages."""
    parts = name.split(".")
    if parts[0] not in SOURCES:
        return None
    for end in (len(parts), len(parts) - 1):
        module = Path(*parts[:end])
        for path in (module.with_suffix(".py"), module / "__init__.py"):
            if end and path in FILES:
                return path
    raise AssertionError(f"{name} is in no file of ours")


def ours(path: Path) -> set[Path]:
    """The files of ours that a file imports."""
    return {found for name in imported(path) if (found := file_of(name)) is not None}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_one_way(path: Path) -> None:
    layer, side = place(path)
    within = [found for found in ours(path) if found.parts[0] == path.parts[0] and found != path]

    assert [str(found) for found in within if not (place(found)[0] < layer or place(found) == (layer, side))] == []


def test_no_file_imports_itself_by_way_of_others() -> None:
    TopologicalSorter({path: ours(path) for path in FILES}).prepare()


@pytest.mark.parametrize("package", ["qgate", "training"])
def test_nobody_inside_imports_the_front_door(package: str) -> None:
    door = Path(package, "__init__.py")

    assert [str(path) for path in FILES if door in ours(path)] == []


@pytest.mark.parametrize(
    ("library", "home"),
    [("mlflow", {"qgate/tracking/child.py"}), ("ray", {"qgate/run/engines/ray.py"}), ("training", set())],
)
def test_a_library_has_one_home(library: str, home: set[str]) -> None:
    users = {str(path) for path in SOURCES["qgate"] if any(name.split(".")[0] == library for name in imported(path))}

    assert users <= home


@pytest.mark.parametrize("package", ["qgate", "training"])
def test_every_folder_with_code_is_a_package_that_the_installation_finds(package: str) -> None:
    assert {path.parent for path in SOURCES[package]} == {
        path.parent for path in SOURCES[package] if path.name == "__init__.py"
    }


def test_files_and_functions_stay_small() -> None:
    large = []
    for path in [*FILES, *(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))]:
        text = (ROOT / path).read_text()
        if text.count("\n") > 400:
            large.append(str(path))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > 60:
                large.append(f"{path}: {node.name}")

    assert large == []


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "module", ["qgate", "qgate.cli.main", "qgate.dataset.verify", "qgate.config", "qgate.tracking.tracker"]
)
def test_a_light_part_loads_no_heavy_library(module: str) -> None:
    heavy = {"torch", "timm", "mlflow", "openvino", "sklearn", "matplotlib", "pandas"}

    assert loaded_by(f"import {module}") & heavy == set()
