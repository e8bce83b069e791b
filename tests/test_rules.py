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
    "errors": -2, "files": -1, "parent": -1, "fonts": -1, "progress": -1, "ranks": -1, "draws": -1, "seeds": -1,
    "network": -1, "slurm": -1, "allocator": -1, "types": 0, "prompt": 0, "config": 1, "exchange": 1, "chunks": 1,
    "protocol": 1, "look": 2, "nn": 2, "losses": 2, "encoders": 3,
    "features": 3, "models": 4, "heads": 4, "task": 5, "inference": 5, "explanation": 6, "evals": 7, "convert": 7,
    "train": 8, "report": 8, "page": 8, "hub": 9, "doctor": 9, "cli": 10, "__init__": 11, "__main__": 11,
}  # fmt: skip
GROUND = {name for name, level in LEVELS.items() if level <= 0}
# The rooms inside ``data``, from the ground up; the same rule holds among them.
ROOMS = {
    "server": 0, "workers": 0, "problems": 0, "row_file": 0, "text_files": 0, "order": 0, "storage": 0, "alone": 0,
    "blocks": 0.5, "remote": 1, "clip": 1, "labels": 1, "picture_files": 1, "line_index": 1.5, "boxes": 1.5,
    "masks": 1.5, "misplaced": 1.7, "records": 2, "texts": 3, "images": 4, "video": 4.5, "reading": 5, "writing": 5,
    "openmoji": 5, "sources": 6, "importing": 7, "check": 7, "targets": 7, "objects": 7.5, "phrases": 7.7,
    "collate": 8, "lengths": 9, "ahead": 8, "loader": 9, "show": 10,
}  # fmt: skip
LONG_FUNCTIONS = {("mmkit/train/loop.py", "train")}  # the training step may be longer


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "mmkit").parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    """The dotted name of a file; that of the folder for its ``__init__``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in CORE}


def imported(tree: ast.AST) -> set[str]:
    """What a file imports, at its top and inside functions: modules where the name is one, else where it comes from."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES.keys() or {node.module}
    return found


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = part_of(path)
    for name in imported(ast.parse(path.read_text())):
        assert name.split(".")[0] not in {"configs", "projects", "scripts", "tests"}, f"imports {name}"
        if not name.startswith("mmkit."):
            continue
        other = name.split(".")[1]
        if own == "data":
            assert other in GROUND | {"data"}, f"data imports {name}"
        elif other != "data":
            assert other == own or LEVELS[other] < LEVELS[own], f"{own} imports {name}, which stands above or beside it"


@pytest.mark.parametrize("path", [p for p in CORE if part_of(p) == "data"], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_in_data_point_one_way(path):
    own = module_of(path).split(".")[2:3]
    for name in imported(ast.parse(path.read_text())):
        other = name.split(".")[2:3]
        if not name.startswith("mmkit.data") or own == other:
            continue
        assert own, "the folder's own file imports nothing"
        assert ROOMS[other[0]] < ROOMS[own[0]], f"{own[0]} imports {name}, which stands above or beside it"


def test_no_two_files_import_each_other():
    """Not over several steps either, and not inside functions."""
    arrows = {name: imported(ast.parse(path.read_text())) & MODULES.keys() - {name} for name, path in MODULES.items()}
    while free := [name for name, others in arrows.items() if not others & arrows.keys()]:
        for name in free:
            del arrows[name]
    assert not arrows, "import each other in a circle, or something that does: " + ", ".join(arrows)


@pytest.mark.parametrize("folder", sorted({path.parent for path in CORE}), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_families_by_prefix(folder):
    """Files that begin with the same word are a folder of that name."""
    names = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("__"))
    first = [name.split("_")[0] for name in names]
    assert not [name for name, word in zip(names, first, strict=True) if first.count(word) > 1]


def test_models_and_heads_are_siblings():
    for path in CORE:
        names = imported(ast.parse(path.read_text()))
        if part_of(path) == "models":
            assert not any(n.startswith("mmkit.heads") for n in names), path
        if part_of(path) == "heads":
            shared = {"mmkit.heads.base", "mmkit.heads.pairs", "mmkit.heads.writing"}
            own = {n for n in names if n.startswith(("mmkit.heads", "mmkit.models"))}
            assert {n for n in own if not n.startswith("mmkit.heads.boxes.")} <= shared, path


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
