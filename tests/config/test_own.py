"""Code of the user's own: which parts of a run have it, what lets it in, and where it is found again."""

import sys
from functools import partial
from pathlib import Path

import pytest

from mmkit.config import dump
from mmkit.config.own import entries, files_of, flags, make_findable, modules_of, own_files, own_parts, said_of
from mmkit.data.records import JsonLines
from tests.train.fakes import tiny

PART = {"target": "mine.deep:Head", "args": {"inner": {"tuple": [{"reference": "torch.nn.modules.activation:GELU"},
        {"dataclass": "other:Value", "args": {}}]}}}  # fmt: skip
EXPERIMENT = {"heads": {"a": PART, "b": {"target": "mmkit.heads.itm:ITM", "args": {}}},
              "x": [{"target": "projects.nlvr2.model:pair_mini", "args": {}}, {"reference": "os:system"}],
              "y": {"mapping": {"target": {"target": "mine.deep:Second", "args": {}}}}}  # fmt: skip


def test_own_parts_are_those_of_no_library_of_a_config():
    wanted = [("heads.a", "mine.deep:Head"), ("heads.a.inner.1", "other:Value"), ("y.target", "mine.deep:Second")]
    assert list(own_parts(EXPERIMENT)) == wanted
    assert modules_of(EXPERIMENT) == ["mine.deep", "other"]
    assert modules_of({"target": 3, "args": None}) == []


def test_what_lets_them_in():
    files = {"mmkit_config_file_my": "/a b/my.py", "mine": "/a/mine.py"}
    assert entries(["mine", "mmkit_config_file_my", "mmkit_config_file_gone"], files) == [
        "mine", "/a b/my.py", "FILE.py"
    ]  # fmt: skip
    assert flags(["mine", "mmkit_config_file_my"], files) == "--allow mine --allow '/a b/my.py'"
    assert own_files({}) == own_files({"own": [1]}) == {}
    assert own_files({"own": files}) == files


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A package ``own_N.deep`` in a folder that Python does not know; the import path is put back."""
    name = f"own_{abs(hash(str(tmp_path)))}"
    (tmp_path / "exp" / name).mkdir(parents=True)
    (tmp_path / "exp" / name / "__init__.py").write_text("")
    (tmp_path / "exp" / name / "deep.py").write_text("VALUE = 1\n")
    (tmp_path / "exp" / f"{name}_file.py").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name, tmp_path / "exp"
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


@pytest.mark.parametrize("form", ["deep", "package", "file"])
def test_a_module_is_found_where_the_folder_says_that_it_lay(form, code, tmp_path, capsys):
    name, place = code
    module, file = {
        "deep": (f"{name}.deep", place / name / "deep.py"), "package": (name, place / name / "__init__.py"),
        "file": (f"{name}_file", place / f"{name}_file.py"),
    }[form]  # fmt: skip
    before = list(sys.path)
    make_findable({module: str(file)}, (), tmp_path / "run")
    make_findable({module: str(file)}, (f"{module}x",), tmp_path / "run")
    assert sys.path == before  # what nobody allowed is not looked for
    make_findable({module: str(file)}, (module,), tmp_path / "run")
    assert sys.path == [*before, str(place)]  # after everything else
    make_findable({module: str(file)}, (module,), tmp_path / "run")
    assert sys.path == [*before, str(place)]  # Python finds it now
    assert module not in sys.modules  # nothing is imported here


def test_one_that_is_here_comes_first(code, tmp_path):
    name, place = code
    before = list(sys.path)
    (tmp_path / "here" / name).mkdir()
    make_findable({name: str(place / name / "__init__.py")}, (name,), tmp_path / "run")
    (tmp_path / "here" / f"{name}_file.py").write_text("")
    make_findable({f"{name}_file": str(place / f"{name}_file.py")}, (f"{name}_file",), tmp_path / "run")
    kept = f"mmkit_config_file_{name}_file"  # a config file is named itself, not looked for
    make_findable({kept: str(place / f"{name}_file.py")}, (kept,), tmp_path / "run")
    make_findable({"json": str(place / f"{name}_file.py")}, ("json",), tmp_path / "run")
    assert sys.path == before


def test_a_file_that_came_with_the_model_or_is_gone_is_not_taken(code, tmp_path, monkeypatch):
    name, place = code
    before = list(sys.path)
    file = place / f"{name}_file.py"
    monkeypatch.chdir(tmp_path)
    said = (str(file), str(place / "gone.py"), f"exp/{name}_file.py", 3, None, str(place))
    for path, folder in zip(said, (place, *[tmp_path / "run"] * 5), strict=True):
        make_findable({f"{name}_file": path}, (f"{name}_file",), folder)
    (tmp_path / "run/link").symlink_to(place)
    make_findable({f"{name}_file": str(tmp_path / "run/link" / file.name)}, (f"{name}_file",), place.parent)
    assert sys.path == before


def test_files_are_those_that_were_imported(code):
    fakes = str(Path(__file__).parents[1] / "train/fakes.py")
    assert files_of(dump(tiny())) == {"tests.train.fakes": fakes}
    assert files_of({"target": f"{code[0]}.deep:X", "args": {}}) == {}  # not imported
    assert files_of({"target": "sys_:X", "args": {}}) == {}


def test_what_is_said_before_a_run_starts():
    exp = dump(tiny(data={"train": partial(JsonLines, path="x.jsonl")}))
    transform = {"dataclass": "mmkit.data.images.transforms:EvalTransform", "args": {}}
    assert said_of(exp, transform) == []
    first, second = said_of(dump(tiny()), transform)
    assert first == "code of your own: data.train = tests.train.fakes:Squares"
    assert second == "only `mmkit report` will need --allow tests.train.fakes; the model loads without"

    def changed(**parts):
        return {**exp, "args": {**exp["args"], **parts}}

    own = {"target": "mine.deep:Part", "args": {}}
    for said in (
        said_of(changed(model=own), transform), said_of(changed(heads={"a": own}), transform), said_of(exp, own),
    ):  # fmt: skip
        assert "that loads this model will need --allow mine.deep (in Python allow=['mine.deep'])" in said[1]
        assert len(said) == 2
    first, *_, last = said_of(changed(model={"target": "__main__:Look", "args": {}}), transform)
    assert first == "code of your own: model = __main__:Look"
    assert "loads in no other: put it into a file" in last
