"""A stranger's model folder: loading and describing it runs none of it, reads nothing elsewhere, calls no one."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmkit
from mmkit.cli.main import main
from mmkit.config import dump
from mmkit.convert.layouts.known import LAYOUTS
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.errors import UserError
from mmkit.hub import folder as hub
from mmkit.hub.files import read_json
from mmkit.hub.foreign import _of_a_project
from mmkit.hub.info import describe
from mmkit.hub.pretrained import Pretrained
from tests.evals.parts import predictor
from tests.hub.test_old_folders import written
from tests.train.fakes import tiny
from tests.watch import watched

PART = "mmkit.models.sizes.albef:albef"


@pytest.fixture
def folder(tmp_path):
    """A model folder, with all that mmkit may write into one."""
    hub.save(tmp_path / "model", predictor(), dump(tiny()))
    kept = {"what": "x", "licence": "MIT (x)", "file": "x.pth", "beside": {}}
    (tmp_path / "model/conversion.json").write_text(json.dumps(kept))
    save_file({"x": torch.zeros(1)}, tmp_path / "model/training_state.safetensors")
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "model"


def change(file: Path, *path, value) -> None:
    """Set one value of a JSON file."""
    whole = json.loads(file.read_text())
    place = whole
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    file.write_text(json.dumps(whole))


# ---- what it names ------------------------------------------------------------------------------------------------


def attacks(folder: Path) -> dict:
    """Parts that did harm when they were built: files written, overwritten, calls made."""
    record = {"dataclass": "mmkit.data.records:Record", "args": {
        "image": "a", "captions": {"tuple": ["c"]}, "image_id": "0", "key": "k", "targets": {}}}  # fmt: skip
    kept = {"dataclass": "mmkit.evals.labels:Relabelled", "args": {"source": [record]}}
    out = str(folder.parent / "elsewhere/new")
    write = {"target": "mmkit.data.importing:write_records", "args": {"source": kept, "out": {"path": out}}}
    saved = {"target": "mmkit.data.texts.tokenizers:reuse", "args": {"path": str(folder / "tokenizer"), "folder": out}}
    beacon = {"name": "attacker/beacon", "columns": {"image": "image"}, "split": "train"}
    return {
        "a file of the author's text": write,
        "somebody's tokenizer": saved,
        "a call": {"target": "mmkit.data.sources:HuggingFace", "args": beacon},
        "a call, by its new name": {"target": "mmkit.data.sources.hugging_face:HuggingFace", "args": beacon},
        "a report": {"target": "mmkit.report.make:Report", "args": {}},
        "a project's tool": {"target": "projects.compare:run", "args": {"spec": "x.py", "changes": [], "folder": out}},
        "a config file": {"target": "mmkit.config:load_experiment", "args": {"spec": str(folder / "evil.py")}},
        "torch": {"target": "torch:load", "args": {"f": str(folder / "evil.pt")}},
        "Python": {"target": "os:system", "args": {"command": f"touch {out}"}},
    }  # fmt: skip


PLACES = {
    "as the model": ("config.json", ("model",)),
    "in the model's arguments": ("config.json", ("model", "args", "image_size")),
    "as a head": ("config.json", ("heads", "itm")),
    "in a head's arguments": ("config.json", ("heads", "itm", "args", "draw")),
    "as the pictures' transform": ("preprocessing.json", ("image",)),
    "in the transform's arguments": ("preprocessing.json", ("image", "args", "size")),
}
FORMS = ("target", "dataclass", "reference")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", attacks(Path("x")))
def test_nothing_but_a_listed_part_is_built(name, place, folder):
    file, path = PLACES[place]
    part = attacks(folder)[name]
    for form in FORMS:
        for value in (part | {form: part["target"]}, {"target": PART, "args": {"x": [part]}}):
            evil = {form: part["target"], "args": part["args"]} if form != "target" else value
            change(folder / file, *path, value=evil)
            with watched() as seen, pytest.raises(UserError):
                mmkit.load(folder)
            assert not [what for what in seen if what[0].startswith(("socket", "subprocess", "os.system", "os.mkdir"))]
    assert not list((folder.parent / "elsewhere").iterdir())
    assert SentencePieceTokenizer.load(folder / "tokenizer").vocab_size == 60
    with contextlib.suppress(UserError):
        describe(str(folder))
    assert not list((folder.parent / "elsewhere").iterdir())


HOSTILE = "open({mark!r}, 'w').close()\nclass X:\n    pass\n"
SCRIPT = Path(sys.executable).with_name("mmkit")
WAYS = {
    "info": [sys.executable, "-m", "mmkit", "info", "."],
    "load": [sys.executable, "-c", "import mmkit; mmkit.load('.')"],
    "script": [
        str(Path(sys.executable).with_name("mmkit")),
        *["features", "--model", ".", "--data", ".", "--out", "x.parquet"],
    ],
}


def test_code_in_the_folder_one_stands_in_does_not_run(folder):
    """Named by its config, of the name of the projects, and (where Python lets us) of the names of libraries."""
    mark = str(folder.parent / "ran")
    predictor_image().save(folder / "a.png")
    for package in ("projects", "projects/evil", "mine"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(HOSTILE.format(mark=mark) + "LOADABLE = {'model': ('x:X',)}\n")
    for module in ("projects/evil/x.py", "mine/x.py", "evil.py"):
        (folder / module).write_text(HOSTILE.format(mark=mark))
    change(folder / "config.json", "model", "target", value="projects.evil.x:X")
    change(folder / "config.json", "heads", "itm", "target", value="mine.x:X")
    change(folder / "preprocessing.json", "image", "dataclass", value="evil:X")
    for path in (("model", "target"), ("heads", "itm", "target"), ("data", "args", "train", "target")):
        change(folder / "config.json", "experiment", "args", *path, value="projects.evil.x:X")
    shutil.copytree(folder, folder.parent / "load")
    for library in ("torch", "transformers", "tensorflow", "json", "logging"):
        (folder / f"{library}.py").write_text(HOSTILE.format(mark=mark))
    places = {"info": folder, "script": folder, "load": folder.parent / "load"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = {way: subprocess.Popen(WAYS[way], cwd=places[way], **pipes) for way in WAYS}
    said = {way: process.communicate() for way, process in running.items()}
    assert not os.path.exists(mark), said
    assert running["info"].returncode == 0, said["info"][1]
    assert re.search(r"model +projects\.evil\.x:X\n", said["info"][0])
    for way in ("load", "script"):
        assert "'evil:X' may not be rebuilt as a transform" in said[way][1]


# ---- what it reads ------------------------------------------------------------------------------------------------

NAMES = ("config.json", "preprocessing.json", "model.safetensors", "tokenizer", "tokenizer/sentencepiece.model")


@pytest.mark.parametrize("name", [*NAMES, "tokenizer/extra"])
def test_a_link_out_of_the_folder_is_refused(name, folder):
    elsewhere = folder.parent / "elsewhere" / "x"
    if (folder / name).exists():
        shutil.move(folder / name, elsewhere)
    (folder / name).symlink_to(elsewhere)
    for use in (mmkit.load, Pretrained.from_pretrained):
        with watched() as seen, pytest.raises(UserError, match=rf"{name}: leads out of its folder, to .*elsewhere"):
            use(folder)
        assert not [what for what in seen if what[0] == "open" and "elsewhere" in what[1]]


@pytest.mark.parametrize("name", [*NAMES, "conversion.json", "metrics.jsonl", "data.json", "checkpoints"])
def test_info_follows_no_link_out_of_the_folder(name, folder):
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    whole = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in whole.items() if k != "training"}))
    elsewhere = folder.parent / "elsewhere" / "x"
    if (folder / name).exists():
        shutil.move(folder / name, elsewhere)
    elif name == "checkpoints":
        elsewhere.mkdir()
    else:
        elsewhere.write_text("{}")
    (folder / name).symlink_to(elsewhere)
    with watched() as seen:
        try:
            describe(str(folder))
        except UserError as error:
            assert "leads out of its folder" in str(error)  # noqa: PT017  the tokenizer's own file is not read at all
    assert not [what for what in seen if what[0] == "open" and "elsewhere" in what[1]]


def test_links_inside_and_to_the_folder_are_fine(folder):
    (folder / "model.safetensors").rename(folder / "w.safetensors")
    (folder / "model.safetensors").symlink_to("w.safetensors")
    (folder.parent / "link").symlink_to(folder)
    assert mmkit.load(folder.parent / "link").max_tokens == mmkit.load(folder).max_tokens == 12


def test_the_cache_of_the_hub_is_one_folder(folder):
    repository = folder.parent / "hub/models--lab--x"
    shutil.copytree(folder, repository / "snapshots/abc")
    (repository / "blobs").mkdir()
    for number, file in enumerate(p for p in sorted((repository / "snapshots/abc").rglob("*")) if p.is_file()):
        shutil.move(file, repository / f"blobs/{number}")
        file.symlink_to(os.path.relpath(repository / f"blobs/{number}", file.parent))
    assert mmkit.load(repository / "snapshots/abc").max_tokens == 12
    assert describe(str(repository / "snapshots/abc"))["max_tokens"] == 12
    (repository / "snapshots/abc/config.json").unlink()
    (repository / "snapshots/abc/config.json").symlink_to(folder / "config.json")
    with pytest.raises(UserError, match="leads out of its folder"):
        mmkit.load(repository / "snapshots/abc")


def test_a_pipe_is_not_waited_for(folder):
    for name in ("config.json", "preprocessing.json", "model.safetensors"):
        shutil.move(folder / name, folder / "kept")
        os.mkfifo(folder / name)
        with pytest.raises(UserError):
            mmkit.load(folder)
        os.remove(folder / name)
        shutil.move(folder / "kept", folder / name)
    mmkit.load(folder)


@pytest.mark.parametrize("kind", ["albef", "vilt", "dual", "decoder", "nlvr2", "wordpiece"])
@pytest.mark.parametrize("use", [mmkit.load, describe], ids=["load", "info"])
def test_a_folder_is_all_that_is_read_and_nobody_is_called(kind, use, tmp_path):
    place = written(kind, tmp_path / "model")
    use(str(place))  # what is imported at the first use
    with watched() as seen:
        use(str(place))
    assert {what[0] for what in seen} <= {"open", "import", "os.walk"}
    opened = [what[1] for what in seen if what[0] != "import"]
    assert opened
    assert [path for path in opened if not Path(path).resolve().is_relative_to(place)] == []


# ---- how large, how deep, how wrong --------------------------------------------------------------------------------


def numbers(folder, *path, value):
    change(folder / "config.json", *path, value=value)


SIZES = {
    "a million million wide": (("model", "args", "image_size"), 10**12, "1000000000000 is beyond what a model may"),
    "huge as a float": (("model", "args", "dropout"), 1e300, "beyond what a model may hold"),
    "fewer words than the tokenizer": (("resolved", "vocab_size"), 59, "60 words, but the model has 59"),
    "more words than its weights": (("resolved", "vocab_size"), 10**12, r"(?s)does not fit .*shape: model\.text"),
    "larger than its weights": (("model", "args", "image_size"), 80_000, r"(?s)does not fit .*shape: model\.image"),
    "longer than its weights": (("model", "args", "max_tokens"), 999_999, r"(?s)does not fit .*shape: model\.text"),
    "texts of another length": (("model", "args", "image_size"), -8, "image"),
    "no number": (("model", "args", "dropout"), {"float": "nan"}, "nan among the numbers of a model"),
    "a text": (("model", "args", "image_size"), "32", r"image_size = '32': must be int or"),
    "a truth": (("model", "args", "image_size"), True, r"image_size = True: must be int or"),
    "a list of lists": (("model", "args", "image_size"), [[32], [32]], "image_size"),
    "nothing": (("model", "args"), None, "lacks its args"),
    "a file": (("model", "args", "image_size"), {"path": "/etc/passwd"}, "may not stand as a path in a model"),
    "a head's number": (("heads", "itm", "args", "pooler"), 10**9, "beyond what a head may hold"),
    "heads in a list": (("heads",), [], "does not describe a model"),
    "a head that is a text": (("heads", "itm"), "x", "is no head: expected"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SIZES)
def test_a_size_that_no_such_model_has_is_refused_before_memory_is_taken(kind, folder):
    path, value, message = SIZES[kind]
    numbers(folder, *path, value=value)
    with pytest.raises(UserError, match=message):
        mmkit.load(folder)


def test_a_refusal_names_the_folder_whatever_it_is_called(folder, monkeypatch):
    numbers(folder, "model", "target", value="mine:x")
    folder.rename(folder.parent / "m")
    monkeypatch.chdir(folder.parent)
    with pytest.raises(UserError, match=r"^m: config: 'mine:x' may not be rebuilt as a model"):
        mmkit.load("m")


def test_far_more_layers_than_weights_are_refused_at_once(folder):
    part = {
        "target": "mmkit.models.sizes.albef:albef",
        "args": {"image_size": 32, "max_tokens": 16, "image_depth": 900_000},
    }
    numbers(folder, "model", value=part)
    with pytest.raises(UserError, match="describes a far larger model than the weights beside it are"):
        mmkit.load(folder)


def test_a_queue_larger_than_memory_is_refused(folder):
    config = read_json(folder / "config.json")
    head = {"target": "mmkit.heads.itc:ITC", "args": {"queue_size": 1_000_000}}
    config["model"] = {"target": "mmkit.models.sizes.albef:albef", "args": {
        "image_size": 32, "max_tokens": 16, "patch": 8, "image_depth": 1, "image_width": 32, "image_heads": 2,
        "text_depth": 1, "fusion_depth": 1, "text_width": 32, "text_heads": 2, "embed_dim": 2048}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | {"heads": {"itc": head}}))
    with pytest.raises(UserError, match=r"\(image of \[1000000, 2048\]\)"):
        mmkit.load(folder)


PICTURES = {
    "a picture of a million pixels a side": (("args", "size"), 10**6, "1000000 is beyond what a transform may hold"),
    "divided by nothing": (("args", "std"), {"tuple": [0.2, 0.0, 0.2]}, "divided by std|std has no 0"),
    "divided by less than nothing": (("args", "std"), {"tuple": [0.2, -1.0, 0.2]}, "divided by std|std has no 0"),
    "no number": (("args", "mean"), {"tuple": [{"float": "nan"}] * 3}, "nan among the numbers of a transform"),
    "two colours": (("args", "std"), {"tuple": [0.2, 0.2]}, r"std = \(0\.2, 0\.2\): must be tuple"),
    "a text": (("args", "size"), "32", "size = '32': must be"),
    "no argument": (("args", "nothing"), 3, "nothing"),
    "not a dataclass": (("dataclass",), PART, "may not be rebuilt as a transform"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PICTURES)
def test_what_pictures_cannot_become_is_refused(kind, folder):
    path, value, message = PICTURES[kind]
    change(folder / "preprocessing.json", "image", *path, value=value)
    with pytest.raises(UserError, match=message):
        mmkit.load(folder)


@pytest.mark.parametrize("value", ["9", 10**9, -1, 1, 0, 1.5, None, True, [9]])
def test_the_length_of_texts_is_a_length(value, folder):
    change(folder / "preprocessing.json", "max_tokens", value=value)
    with pytest.raises(UserError, match="no length of texts"):
        mmkit.load(folder)


JSON = {
    "deep lists": ("[" * 100_000, "damaged"),
    "deep objects": ('{"a":' * 100_000, "damaged"),
    "deep, and closed": ('{"a":' * 150 + "1" + "}" * 150, "nested more than 100 levels deep"),
    "not an object": ("[1, 2]", "expected a JSON object"),
    "a number": ("3", "expected a JSON object"),
    "empty": ("", "damaged"),
    "no number": ('{"format": NaN}', "NaN is no number of JSON"),
    "half a character": (b'{"a": "\xff"}', "damaged"),
    "a number of five thousand digits": ('{"a": ' + "9" * 5000 + "}", "damaged"),
    "17 MB": ('{"a": "' + "x" * 17_000_000 + '"}', "17,000,009 bytes, and no more than 16,777,216 are read"),
}


@pytest.mark.parametrize("name", ["config.json", "preprocessing.json"])
@pytest.mark.parametrize("kind", JSON)
def test_damaged_or_hostile_json_is_named_by_every_command(kind, name, folder, capsys):
    text, message = JSON[kind]
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf"{re.escape(name)}: .*{message}"):
        mmkit.load(folder)
    picture = str(folder.parent / "x.png")
    predictor_image().save(picture)
    for command in (
        ["info", str(folder)],
        ["vqa", "--model", str(folder), "--image", picture, "--question", "what?"],
        [
            "explain",
            "--model",
            str(folder),
            "--image",
            picture,
            "--text",
            "a",
            "--answer",
            "b",
            "--out",
            f"{picture}.png",
        ],
    ):
        assert main(command) == 2
        assert f"{name}: " in capsys.readouterr().err


def predictor_image():
    from PIL import Image

    return Image.new("RGB", (8, 8))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert"},
        {"format": 1, "experiment": {}, "model": 3, "heads": [3]},
        {"format": 1, "experiment": {}, "model": {}, "heads": {"a": 3, "b": {"args": 5}}},
    ],
)
def test_a_config_of_others_is_told_from_damage_by_vqa(config, folder, capsys):
    (folder / "config.json").write_text(json.dumps(config))
    predictor_image().save(folder / "x.png")
    assert main(["vqa", "--model", str(folder), "--image", str(folder / "x.png"), "--question", "what?"]) == 2
    assert re.search(r"not of a model that mmkit saved|is no model|lacks|does not describe", capsys.readouterr().err)


def test_a_byte_order_mark_is_no_damage(folder):
    for name in ("config.json", "preprocessing.json"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert mmkit.load(folder).max_tokens == 12
    assert describe(str(folder))["max_tokens"] == 12


def test_its_words_give_no_orders_to_the_terminal(folder, capsys):
    change(folder / "config.json", "mmkit", value="\x1b[2J\x1b]0;evil\x07 1")
    assert main(["info", str(folder)]) == 0
    assert "\x1b" not in (said := capsys.readouterr().out)
    assert r"\x1b[2J" in said


@pytest.mark.parametrize(
    "training",
    [3, [], {"licences": [3]}, {"licences": [["a"]]}, {"data": 3}, {"data": "x", "steps": None, "records": 1}],
)
def test_a_damaged_record_of_the_training_is_named_or_left_out(training, folder, capsys):
    change(folder / "config.json", "training", value=training)
    assert main(["info", str(folder)]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_weights_of_another_kind_are_not_opened_as_a_pickle(folder):
    weights = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        mmkit.load(folder)


DEEP = '{"a":' * 100_000


@pytest.mark.parametrize("name", ["conversion.json", "data.json", "metrics.jsonl", "best.json"])
def test_damaged_json_beside_it_is_named_by_info(name, folder):
    whole = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in whole.items() if k != "training"}))
    (folder / name).write_text(DEEP)
    with pytest.raises(UserError, match=rf"{re.escape(name)}: damaged"):
        describe(str(folder))


def test_damaged_json_is_named_by_convert_too(folder, capsys):
    (folder / "conversion.json").write_text(DEEP)
    assert main(["convert", "albef", str(folder), str(folder.parent / "x.safetensors"), "--reverse"]) == 2
    assert "conversion.json: damaged" in capsys.readouterr().err
    theirs = folder.parent / "theirs"
    theirs.mkdir()
    save_file({"visual.x": torch.zeros(1)}, theirs / "model.safetensors")
    for text in (DEEP, "[]", "{"):
        (theirs / "config.json").write_text(text)
        for command in (["convert", "auto", str(theirs), str(folder.parent / "new")], ["info", str(theirs)]):
            assert main(command) == 2
            assert "config.json: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "layout", [layout for layout in LAYOUTS if ".py:" in layout.use], ids=lambda layout: layout.name
)
def test_a_layout_of_the_projects_is_that_beside_mmkit_and_not_one_here(layout, tmp_path, monkeypatch):
    file = tmp_path / layout.use.split()[2].partition(":")[0]
    file.parent.mkdir(parents=True)
    file.write_text(HOSTILE.format(mark=str(tmp_path / "ran")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found = _of_a_project(layout)
    assert found.recipe is not None
    assert not (tmp_path / "ran").exists()
