"""``mmkit classify`` as a user calls it, on a class folder that a config of mmkit was trained on."""

import csv
import json

import pytest
from PIL import Image

from mmkit.cli import main
from mmkit.config import load_experiment, override
from mmkit.evals.intervals import wilson
from mmkit.hub import folder as hub
from mmkit.train.loop import train
from tests.train.fakes import tiny

COLOURS = ("red", "Dark_Blue", "white")
PAINT = {"red": "red", "Dark_Blue": "darkblue", "white": "white"}
CONFIG = "configs/pretrain/classify.py:folder(train='{}', steps=40, size=36)"


def paint(folder, names=COLOURS, n=6):
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (30 + i, 30), PAINT.get(name, "pink")).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("classify")
    exp = load_experiment(CONFIG.format(paint(root / "train")))
    exp = override(exp, ["data.global_batch=6", "run.trackers=[]", "run.save_every_steps=0", "optim.lr=0.002"])
    train(exp, root / "run", save_model=hub.save)
    return root / "run"


@pytest.mark.parametrize(("n", "batch"), [(1, 3), (21, 63), (22, 64)])
def test_a_step_has_64_pictures_or_all_that_there_are(tmp_path, n, batch):
    assert load_experiment(CONFIG.format(paint(tmp_path / "few", n=n))).data.global_batch == batch


def classify(run, data, tmp_path, *more, code=0):
    file = tmp_path / "found.json"
    assert main(["classify", "--model", str(run), "--data", str(data), "--json", str(file), *map(str, more)]) == code
    return json.loads(file.read_text()) if code == 0 else None


def test_the_numbers_and_their_keys(run, tmp_path):
    found = classify(run, paint(tmp_path / "test", n=2), tmp_path)
    assert found["top1"] == found["top5"] == 1.0
    assert (found["n"], found["classes"], found["chance"]) == (6, 3, 1 / 3)
    assert found["interval"] == pytest.approx(wilson(6, 6))


def test_names_are_matched_and_not_their_order(run, tmp_path):
    """Of other spelling, sorted otherwise, and one class without pictures."""
    test = paint(tmp_path / "test", n=2)
    (test / "Dark_Blue").rename(test / "zz")
    (test / "zz").rename(test / "dark blue")
    for file in (test / "red").iterdir():
        file.unlink()
    (test / "red").rmdir()
    found = classify(run, test, tmp_path)
    assert (found["top1"], found["n"], found["classes"]) == (1.0, 4, 3)


def test_a_table_of_names(run, tmp_path):
    paint(tmp_path / "test", n=1)
    rows = "".join(f"test/{name}/0.png,{name}\n" for name in COLOURS)
    (tmp_path / "list.csv").write_text("path,label\n" + rows)
    assert classify(run, tmp_path / "list.csv", tmp_path)["top1"] == 1.0
    (tmp_path / "list.csv").write_text("path,label\ntest/red/0.png,0\ntest/white/0.png,1\n")  # numbers are no names
    classify(run, tmp_path / "list.csv", tmp_path, code=2)


@pytest.mark.parametrize("names", [("red", "Dark_Blue", "pink"), ("a", "b", "c")], ids=["one", "all, as many"])
def test_classes_that_the_model_has_not_are_refused(run, tmp_path, capsys, names):
    classify(run, paint(tmp_path / "test", names, n=1), tmp_path, code=2)
    said = capsys.readouterr().err
    assert "3 classes do not fit the 3 labels" in said
    assert "must be names of the model's classes" in said


def test_predictions_with_and_without_labels(run, tmp_path, capsys):
    test = paint(tmp_path / "test", n=1)
    classify(run, test, tmp_path, "--predictions", tmp_path / "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert [(row["label"], row["predicted"]) for row in rows] == [
        (name, name) for name in ("Dark_Blue", "red", "white")
    ]
    (tmp_path / "none.csv").write_text("path\ntest/red/0.png\n")
    found = classify(run, tmp_path / "none.csv", tmp_path, "--predictions", tmp_path / "q.json")
    assert (found["n"], "top1" in found) == (1, False)
    assert json.loads((tmp_path / "q.json").read_text())[0]["predicted"] == "red"
    classify(run, tmp_path / "none.csv", tmp_path, code=2)


def test_what_else_it_takes(run, tmp_path, capsys):
    test = paint(tmp_path / "test", n=1)
    classify(
        run, test, tmp_path, "--per-class", tmp_path / "c.csv", "--confusion", tmp_path / "c.png", "--head", "class"
    )
    assert len(list(csv.DictReader((tmp_path / "c.csv").open()))) == 3
    assert Image.open(tmp_path / "c.png").width > 36
    (tmp_path / "list.csv").write_text("file,kind\nred/0.png,red\nwhite/0.png,white\n")
    found = classify(run, tmp_path / "list.csv", tmp_path, "--images", test, "--columns", "image=file,label=kind")
    assert (found["n"], found["top1"]) == (2, 1.0)
    capsys.readouterr()
    for option, value, says in (
        ("--head", "nope", "'nope'"), ("--split", "val", "--split: has no meaning"),
        ("--per-class", test, "--per-class"), ("--confusion", test, "--confusion"),
        ("--confusion", tmp_path / "c.txt", "c.txt"),
    ):  # fmt: skip
        data = tmp_path / "nowhere" if "c" in option else test  # what cannot be written is said before data are read
        classify(run, data, tmp_path, option, value, code=2)
        assert says in capsys.readouterr().err


def test_bad_pictures(run, tmp_path, capsys):
    test = paint(tmp_path / "test", n=2)
    (test / "red" / "1.png").write_bytes(b"no picture")
    classify(run, test, tmp_path, code=2)
    assert "1.png" in capsys.readouterr().err
    found = classify(run, test, tmp_path, "--max-bad", 0.5)
    assert (found["n"], found["left_out"], found["top1"]) == (5, 1, 1.0)


def test_commands_that_need_words_say_that_there_are_none(run, tmp_path, capsys):
    test = paint(tmp_path / "test", n=1)
    for command in (["zeroshot", "--data", str(test)], ["retrieval", "--data", "openmoji"]):
        assert main([*command, "--model", str(run)]) == 2
        assert "reads pictures alone: it has no words" in capsys.readouterr().err
    assert main(["features", "--model", str(run), "--data", str(test), "--out", str(tmp_path / "f.parquet")]) == 0
    assert main(["info", str(run)]) == 0
    assert "reads pictures alone" in capsys.readouterr().out


def test_a_model_without_such_a_head_is_told_what_to_do(tmp_path, capsys):
    train(tiny(run=dict(steps=3)), tmp_path / "run", save_model=hub.save)
    classify(tmp_path / "run", paint(tmp_path / "test", n=1), tmp_path, code=2)
    said = capsys.readouterr().err
    assert "needs one head that sorts pictures alone into classes" in said
    assert "mmkit zeroshot" in said


def test_data_show_draws_what_it_trains_on(run, tmp_path):
    config = CONFIG.format(paint(tmp_path / "train", n=2))
    assert main(["data", "show", config, "--n", "4", "--out", str(tmp_path / "grid.png")]) == 0
    assert Image.open(tmp_path / "grid.png").width > 36


def test_a_start_that_is_no_model_is_named(tmp_path, capsys):
    config = CONFIG.format(paint(tmp_path / "train", n=2)).replace(")", f", start='{tmp_path}')")
    assert main(["train", config, "--out", str(tmp_path / "run")]) == 2
    assert f"start = {tmp_path}: not the folder of a model that mmkit saved" in capsys.readouterr().err


def test_views_are_of_clips_and_have_names(run, tmp_path, capsys):
    classify(run, paint(tmp_path / "test", n=1), tmp_path, "--views", "4x3", code=2)
    assert "--views 4x3: is of clips, and this model reads pictures" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["classify", "--model", str(run), "--data", "x", "--views", "4x2"])
    assert "one crop of each or three" in capsys.readouterr().err
