"""The rules of the repository: imports point one way, files and functions stay short, no forbidden forms."""

import ast
import os
import re
import statistics
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "mmkit").rglob("*.py"))
SHIPPED = [
    *CORE,
    *(p for top in ("projects", "scripts", "configs", "benchmarks") for p in sorted((ROOT / top).rglob("*.py"))),
]

# ``convert`` stands below ``train``: a run may start from foreign files, and tables know nothing of runs.
# A part may import parts of its own level only where it is the same part, and otherwise only from lower levels.
LEVELS = {
    "errors": -2, "files": -1, "parent": -1, "ranks": -1, "draws": -1,
    "types": 0, "config": 1, "nn": 2, "losses": 2, "encoders": 3, "features": 3, "models": 4, "heads": 4,
    "task": 5, "inference": 5, "predictor": 5.5, "explanation": 6, "evals": 7, "convert": 7, "train": 8, "report": 8,
    "embed_files": 8, "export": 8, "hub": 9, "cli": 10, "__init__": 11, "__main__": 11,
}  # fmt: skip
DATA_MAY = {"types", "errors", "files", "parent", "ranks", "draws", "data"}
LONG_FUNCTIONS = {("mmkit/train/loop.py", "train")}  # the training step may be longer


def part_of(path: Path) -> str:
    return family(path.relative_to(ROOT / "mmkit").parts[0].removesuffix(".py"))


def family(name: str) -> str:
    return next((whole for whole in ("config", "hub") if name.startswith(f"{whole}_")), name)


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} if node.module != "mmkit" else {f"mmkit.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = part_of(path)
    for name in imported(ast.parse(path.read_text())):
        assert name.split(".")[0] not in {"configs", "projects", "scripts", "tests"}, f"imports {name}"
        if not name.startswith("mmkit."):
            continue
        other = family(name.split(".")[1])
        if own == "data":
            assert other in DATA_MAY, f"data imports {name}"
        elif other != "data":
            assert other == own or LEVELS[other] < LEVELS[own], f"{own} imports {name}, which stands above or beside it"


def test_models_and_heads_are_siblings():
    for path in CORE:
        names = imported(ast.parse(path.read_text()))
        if part_of(path) == "models":
            assert not any(n.startswith("mmkit.heads") for n in names), path
        if part_of(path) == "heads":
            assert {n for n in names if n.startswith(("mmkit.heads", "mmkit.models"))} <= {"mmkit.heads.base"}, path


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in CORE}
    assert not {str(p): n for p, n in lengths.items() if n > 400}
    assert statistics.median(n for n in lengths.values() if n) <= 150


def test_functions_are_short():
    long = []
    for path in SHIPPED:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                name = (str(path.relative_to(ROOT)), node.name)
                if length > 60 and name not in LONG_FUNCTIONS:
                    long.append((*name, length))
    assert not long


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_forbidden_forms(path):
    text = path.read_text()
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"line {node.lineno}: print"
            for keyword in node.keywords:
                strict_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                is_load = isinstance(node.func, ast.Attribute) and node.func.attr == "load_state_dict"
                assert not (is_load and keyword.arg == "strict" and strict_off), f"line {node.lineno}: strict=False"
                pickle = isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "torch.load"
                assert not (pickle and keyword.arg == "weights_only" and strict_off), f"line {node.lineno}: pickle"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
    assert not re.search(r"\bcfg\.get\(|\bconfig\.get\(", text)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is(path):
    text = path.read_text()
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "no module docstring"
    assert not re.search(r"[\"'](/home/|/export/|/mnt/|/root/|/work/|hdfs://)", text), "an absolute path"


def test_tests_work_with_the_threads_that_are_asked_for():
    """Said after torch was imported, it would have no effect."""
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])
