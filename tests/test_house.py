"""The plan of the house: which part may import which, how large a file may grow, what start-up may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "qgate").rglob("*.py"))

LAYERS = (
    ("errors", "records", "__init__"),
    (
        "config",
        "latents",
        "preprocess",
        "gate",
        "rates",
        "labels",
        "cache",
        "images",
        "heat_picture",
        "fetch",
        "transfer",
    ),
    ("answers", "agreement", "learning", "label_store", "label_boxes", "label_exchange"),
    ("runtime", "runtime_cuda", "bundle", "generators", "dataset", "heatmap", "report", "progress", "stopping"),
    ("classifier",),
    ("worker", "scoring"),
    ("engines", "api"),
    ("web", "tracking", "tracking_child"),
    ("watch",),
    ("run",),
    ("interpolate",),
    ("cli", "cli_labels", "cli_options", "cli_stylegan2"),
)
"""Lowest first; a part imports from its own layer and those below."""


def part_of(module: str) -> str:
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def imports(path: Path) -> list[str]:
    """Every module a file imports, inside functions too, except what only the type checker sees."""
    found = []
    tree = ast.parse(path.read_text())
    typed = [
        below
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for below in ast.walk(node)
    ]
    for node in ast.walk(tree):
        if node in typed:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
            if node.module == "qgate":
                found += [f"qgate.{alias.name}" for alias in node.names]
    return found


def layer(part: str) -> int:
    for index, parts in enumerate(LAYERS):
        if part in parts:
            return index
    raise AssertionError(f"{part} has no place in the house: give it one in LAYERS")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    parts = path.relative_to(ROOT / "qgate").with_suffix("").parts
    own = layer(parts[0])
    ours = [name for name in imports(path) if name.split(".")[0] == "qgate" and hasattr_module(name)]

    assert [name for name in ours if layer(part_of(name)) > own] == []


def hasattr_module(name: str) -> bool:
    """Whether a dotted name is a module of ours, not a name within one."""
    relative = ROOT.joinpath(*name.split("."))
    return relative.with_suffix(".py").exists() or relative.is_dir()


@pytest.mark.parametrize(
    ("library", "home"), [("mlflow", {"tracking_child.py"}), ("ray", {"ray.py"}), ("training", set())]
)
def test_a_library_has_one_home(library: str, home: set[str]) -> None:
    users = {path.name for path in SOURCES if any(name.split(".")[0] == library for name in imports(path))}

    assert users <= home


def test_files_and_functions_stay_small() -> None:
    large = []
    for path in [*SOURCES, *(ROOT / "training").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        text = path.read_text()
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


@pytest.mark.parametrize("module", ["qgate", "qgate.cli", "qgate.dataset", "qgate.config", "qgate.tracking"])
def test_a_light_part_loads_no_heavy_library(module: str) -> None:
    heavy = {"torch", "timm", "mlflow", "openvino", "sklearn", "matplotlib", "pandas"}

    assert loaded_by(f"import {module}") & heavy == set()
