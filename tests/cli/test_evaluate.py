"""``mmkit retrieval`` and ``mmkit zeroshot`` as a user calls them."""

import argparse
import csv
import json
import re
import shutil
from functools import partial

import open_clip
import pytest
import torch
from PIL import Image

from mmkit.cli import evaluate
from mmkit.cli.main import check_counts, main
from mmkit.data.openmoji.scenes import Singles, class_names
from mmkit.data.sources.class_folder import ClassFolder
from mmkit.errors import UserError
from mmkit.evals import predictions
from mmkit.evals.retrieval import Retrieval
from mmkit.evals.zeroshot import ZeroShot
from mmkit.hub import folder as hub
from tests.evals.parts import COLOURS, Pictures
from tests.hub.test_folder import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model, records, and class folders."""
    root = tmp_path_factory.mktemp("evaluate")
    predictor, experiment = make()
    hub.save(root / "model", predictor, experiment)
    source, lines = Pictures(12), []
    for i in range(12):
        record = source[i]
        colour = record.targets["label"]
        (root / "classes" / colour).mkdir(parents=True, exist_ok=True)
        record.image.save(root / "classes" / colour / f"{i}.png")
        row = {"image": f"classes/{colour}/{i}.png", "caption": list(record.captions), "label": colour}
        lines.append(json.dumps(row) + "\n")
    (root / "records.jsonl").write_text("".join(lines))
    return root


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """No text bank of a test outlives it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*arguments):
    parser = argparse.ArgumentParser()
    evaluate.register(parser.add_subparsers(required=True))
    args = parser.parse_args([str(a) for a in arguments])
    check_counts(args)
    return args.run(args)


def test_retrieval(folder, tmp_path, capsys):
    model, data = folder / "model", folder / "records.jsonl"
    run("retrieval", "--model", model, "--data", data, "--rerank", 3, "--json", tmp_path / "r.json", "--device", "cpu")
    found = json.loads((tmp_path / "r.json").read_text())
    wanted = Retrieval(source=Pictures(12), rerank_top=3)(make()[0])
    for name in ("t2i_r1", "t2i_r5", "t2i_r10", "i2t_r1", "i2t_r5", "i2t_r10"):
        assert found[name] == pytest.approx(wanted[name])
        assert found["rerank"][name] == pytest.approx(wanted[f"rerank.{name}"])
    assert (found["images"], found["texts"]) == (12, 24)
    assert 0 < found["chance_r1"] < 0.3
    assert "text to image" in capsys.readouterr().out


def test_another_image_size(folder, tmp_path, caplog):
    caplog.set_level("INFO", "mmkit")
    arguments = ("retrieval", "--model", folder / "model", "--data", folder / "records.jsonl", "--device", "cpu")
    run(*arguments, "--image-size", "48x32", "--json", tmp_path / "r.json")
    assert "positions of a 4x4 grid resized to 6x4" in caplog.text
    larger = hub.load(folder / "model", image_size=(48, 32))
    assert json.loads((tmp_path / "r.json").read_text())["t2i_r5"] == Retrieval(source=Pictures(12))(larger)["t2i_r5"]
    with pytest.raises(UserError, match="50x50 is not a multiple of the patch 8x8"):
        run(*arguments, "--image-size", "50")
    for wrong in ("large", "3x4x5", "4x"):
        with pytest.raises(SystemExit):
            run(*arguments, "--image-size", wrong)


@pytest.mark.parametrize("size", ["48", (1, 2, 3), 0, (32, -8), 32.0])
def test_what_is_no_image_size(folder, size):
    with pytest.raises(UserError, match=r"image size = .*give pixels, one side"):
        hub.load(folder / "model", image_size=size)


@pytest.mark.parametrize("data", ["classes", "records.jsonl"])
def test_zeroshot(folder, tmp_path, capsys, data):
    (tmp_path / "names.txt").write_text("".join(f"{c}\tthe colour {c}\n" for c in (*COLOURS, "mauve")))
    (tmp_path / "templates.txt").write_text("a {} box\n{}\n")
    run(
        "zeroshot", "--model", folder / "model", "--data", folder / data, "--classes", tmp_path / "names.txt",
        "--templates", tmp_path / "templates.txt", "--rerank", 2, "--json", tmp_path / "z.json", "--device", "cpu",
    )  # fmt: skip
    found = json.loads((tmp_path / "z.json").read_text())
    assert (found["n"], found["classes"], found["chance"]) == (12, 12, pytest.approx(1 / 12))
    assert 0 <= found["interval"][0] <= found["top1"] <= found["interval"][1] <= 1
    assert found["top1"] <= found["top5"]
    assert 0 <= found["rerank"]["top1"] <= 1
    assert "12 pictures, 12 classes" in capsys.readouterr().out


def test_zeroshot_of_a_file_whose_pictures_are_elsewhere(folder, tmp_path):
    shutil.copy(folder / "records.jsonl", tmp_path / "elsewhere.jsonl")
    arguments = ("zeroshot", "--model", folder / "model", "--no-text-bank", "--device", "cpu")
    data = ("--data", tmp_path / "elsewhere.jsonl")
    with pytest.raises(UserError, match="12 x missing picture"):
        run(*arguments, *data)
    run(*arguments, *data, "--images", folder, "--json", tmp_path / "a.json")
    run(*arguments, "--data", folder / "records.jsonl", "--json", tmp_path / "b.json")
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads((tmp_path / "b.json").read_text())


def test_an_open_clip_model_on_a_table(folder, open_clip_folder, tmp_path):
    """Table, built-in templates, text bank, confusion picture, table of classes."""
    rows = sorted((folder / "classes").rglob("*.png"))
    lines = [f"{path.relative_to(folder)},{path.parent.name}\n" for path in rows]
    (folder / "table.csv").write_text("file,class\n" + "".join(lines))
    arguments = (
        "zeroshot", "--model", f"open_clip:{open_clip_folder}", "--data", folder / "table.csv",
        "--columns", "image=file,label=class", "--templates", "imagenet7", "--device", "cpu",
        "--text-bank", tmp_path / "banks", "--json", tmp_path / "z.json",
    )  # fmt: skip
    run(*arguments, "--confusion", tmp_path / "c.png", "--per-class", tmp_path / "c.csv")
    found = json.loads((tmp_path / "z.json").read_text())
    assert {"top1", "top5", "n", "classes", "interval", "chance"} <= found.keys()
    assert (found["n"], found["classes"]) == (12, 11)
    assert Image.open(tmp_path / "c.png").width > 500
    table = (tmp_path / "c.csv").read_text().splitlines()
    assert table[0] == "name,n,top1,taken_for"
    assert len(table) == 12
    (bank,) = (tmp_path / "banks").iterdir()
    before = bank.stat().st_ino
    run(*arguments)
    assert bank.stat().st_ino == before  # used, not written again
    assert json.loads((tmp_path / "z.json").read_text()) == found


def test_built_in_data_bring_their_classes_and_templates(folder, tmp_path, monkeypatch):
    few = partial(Singles, kinds=12, variations=1)
    monkeypatch.setattr("mmkit.data.openmoji.scenes.Singles", few)
    monkeypatch.setattr("mmkit.evals.prompts.CLASS_SETS", ("openmoji",))
    monkeypatch.setattr("mmkit.data.openmoji.scenes.class_names", lambda **k: class_names(kinds=12, **k))
    asked = []
    make = ZeroShot.__post_init__
    monkeypatch.setattr(ZeroShot, "__post_init__", lambda self: asked.append(self) or make(self))
    arguments = ("zeroshot", "--model", folder / "model", "--device", "cpu", "--no-text-bank", "--data")
    run(*arguments, "openmoji")
    run(*arguments, "openmoji", "--templates", "photo")
    run(*arguments, "openmoji:zh")
    run(*arguments, folder / "classes")
    assert [tuple(made._templates()) for made in asked] == [("a {}", "an {}"), ("a photo of a {}.",), ("{}",), ("{}",)]
    assert asked[0].read()[1] == tuple(class_names(kinds=12))
    assert asked[2].read()[1] == tuple(class_names(kinds=12, language="zh"))


def test_after_re_ranking_picture_and_table_are_of_that(folder, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("mmkit.evals.results.confusion.save_confusion", lambda *args: drawn.append(args))
    arguments = ("zeroshot", "--model", folder / "model", "--data", folder / "classes", "--device", "cpu")
    arguments += ("--no-text-bank", "--confusion", tmp_path / "c.png", "--json", tmp_path / "z.json")
    run(*arguments)
    run(*arguments, "--rerank", 5, "--per-class", tmp_path / "c.csv")
    found = json.loads((tmp_path / "z.json").read_text())
    assert [args[3:] for args in drawn] == [("joint space", "pictures"), ("re-ranked top 5", "pictures")]
    rates = [float(args[2].diag().sum()) / 12 for args in drawn]
    assert rates == [pytest.approx(found["top1"]), pytest.approx(found["rerank"]["top1"])]
    assert not torch.equal(drawn[0][2], drawn[1][2])
    assert len(found["rerank"]["confusion"]) == (drawn[1][2] - drawn[1][2].diag().diag()).count_nonzero()
    rows = [line.split(",") for line in (tmp_path / "c.csv").read_text().splitlines()]
    assert rows[0][-2:] == ["rerank_top1", "rerank_taken_for"]
    assert sum(int(row[1]) * float(row[4]) for row in rows[1:]) / 12 == pytest.approx(rates[1])


def test_bad_pictures_are_left_out_where_asked_for(folder, tmp_path, capsys):
    shutil.copytree(folder / "classes", tmp_path / "classes")
    (tmp_path / "classes" / "red" / "broken.png").write_bytes(b"no picture")
    arguments = ("zeroshot", "--model", folder / "model", "--data", tmp_path / "classes", "--no-text-bank")
    run(*arguments, "--device", "cpu", "--max-bad", 0.1, "--json", tmp_path / "z.json")
    found = json.loads((tmp_path / "z.json").read_text())
    assert (found["n"], found["left_out"]) == (12, 1)
    with pytest.raises(UserError, match=r"1 of 13 pictures cannot be read, more than [^\n]*\n.*broken\.png"):
        run(*arguments, "--device", "cpu", "--max-bad", 0.05)
    with pytest.raises(UserError, match=r"^[^ ]*broken\.png: not a picture in a known format.*\. .*--max-bad SHARE"):
        run(*arguments, "--device", "cpu")
    run("retrieval", "--model", folder / "model", "--data", folder / "records.jsonl", "--max-bad", 0, "--device", "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "nowhere"), "nowhere: no such folder"),
        (("--model", "classes"), r"classes: holds no config\.json"),
        (("--model", "open_clip:"), "open_clip:: which model"),
        (("--model", "open_clip:ViT-B-33/openai"), "no architecture 'ViT-B-33'"),
        (("--model", "open_clip:ViT-B-32/nope"), "no weights 'nope' for ViT-B-32"),
        (("--model", "open_clip:ViT-B-32@none.pt"), r"none\.pt: no such file"),
        (("--model", "model", "--batch-size", "0"), "--batch-size 0"),
    ],
)
@pytest.mark.parametrize("command", ["zeroshot", "retrieval"])
def test_the_model_is_looked_for_before_the_data(folder, monkeypatch, capsys, command, arguments, message):
    def slow(*args, **options):
        raise AssertionError("the data were opened")

    monkeypatch.chdir(folder)
    monkeypatch.setattr("mmkit.data.sources.open.open_source", slow)
    assert main([command, "--data", "hf:somewhere", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("option", "path", "message"),
    [
        ("--confusion", "records.jsonl/c.png", "--confusion records.jsonl/c.png: cannot be written"),
        ("--confusion", "c.txt", r"c\.txt: no kind of picture; give a name"),
        ("--per-class", "records.jsonl/c.csv", "--per-class records.jsonl/c.csv: cannot be written"),
        ("--per-class", "classes", "--per-class classes: is a folder"),
    ],
)
def test_where_to_write_is_looked_at_before_the_work(folder, monkeypatch, option, path, message):
    def slow(*args, **options):
        raise AssertionError("the model was loaded")

    monkeypatch.chdir(folder)
    monkeypatch.setattr("mmkit.load", slow)
    with pytest.raises(UserError, match=message):
        run("zeroshot", "--model", "model", "--data", "classes", option, path)


def test_retrieval_on_a_published_list(folder, tmp_path):
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    entries = [
        {"filename": row["image"], "split": "test", "sentences": [{"raw": c} for c in row["caption"]]} for row in rows
    ]
    (tmp_path / "dataset_x.json").write_text(json.dumps({"images": entries}))
    for name, data in (("a", folder / "records.jsonl"), ("b", tmp_path / "dataset_x.json")):
        more = ("--images", folder, "--split", "test") if name == "b" else ()
        run(
            "retrieval",
            "--model",
            folder / "model",
            "--data",
            data,
            *more,
            "--json",
            tmp_path / name,
            "--device",
            "cpu",
        )
    found = [json.loads((tmp_path / name).read_text()) for name in "ab"]
    assert found[0] == found[1]
    assert {"t2i_r1", "t2i_r5", "t2i_r10", "i2t_r1", "i2t_r5", "i2t_r10", "images", "texts", "chance_r1"} <= found[
        0
    ].keys()


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory):
    """A tiny random CLIP as open_clip saves one."""
    root = tmp_path_factory.mktemp("clip")
    text = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (root / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.save(open_clip.model.CLIP(**config).state_dict(), root / "open_clip_pytorch_model.bin")
    return root


@pytest.mark.parametrize("command", ["zeroshot", "retrieval"])
def test_a_model_without_a_matching_head_cannot_re_rank(folder, open_clip_folder, command):
    with pytest.raises(UserError, match=r"cannot match or re-rank \(its two towers never read each other\)"):
        run(
            command, "--model", f"open_clip:{open_clip_folder}", "--data", folder / "records.jsonl", "--rerank", 3,
            "--device", "cpu",
        )  # fmt: skip


def test_a_picture_that_cannot_be_read_is_named(folder, tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken\.png.*not a picture in a known format"):
        run("zeroshot", "--model", folder / "model", "--data", tmp_path, "--device", "cpu", "--no-text-bank")
    (tmp_path / "r.jsonl").write_text('{"image": "red/broken.png", "caption": "a red box"}\n')
    with pytest.raises(UserError, match=r"broken\.png.*r\.jsonl:1.*not a picture in a known format"):
        run("retrieval", "--model", folder / "model", "--data", tmp_path / "r.jsonl", "--device", "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("zeroshot", "--model", "model", "--data", "nowhere"),
            "nowhere: no such file or folder; give",
        ),
        (
            ("zeroshot", "--model", "model", "--data", "classes", "--templates", "nothing"),
            "nothing: no file, none of",
        ),
        (
            ("zeroshot", "--model", "model", "--data", "classes", "--classes", "cifar10"),
            "no line for black, blue",
        ),
        (("zeroshot", "--model", "open_clip:ViT-B-32/nope", "--data", "classes"), "no weights 'nope' for ViT-B-32"),
        (("retrieval", "--model", "nowhere", "--data", "records.jsonl"), "nowhere: no such folder"),
        (("retrieval", "--model", "model", "--data", "none.jsonl"), r"none\.jsonl: no such file"),
        (("retrieval", "--model", "model", "--data", "records.jsonl", "--rerank", "0"), "rerank_top=0"),
        (("retrieval", "--model", "model", "--data", "records.jsonl", "--batch-size", "0"), "--batch-size 0"),
        (("zeroshot", "--model", "model", "--data", "model"), "no pictures"),
        (("zeroshot", "--model", "model", "--data", "classes", "--classes", "none.txt"), r"none\.txt: cannot read"),
        (("zeroshot", "--model", "model", "--data", "classes", "--device", "cuda:77"), "--device cuda:77"),
    ],
)
def test_bad_input_is_named(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message):
        run(*arguments)


def test_predictions_of_pictures_with_labels_and_without(folder, tmp_path, caplog):
    arguments = ("zeroshot", "--model", folder / "model", "--device", "cpu", "--no-text-bank")
    (tmp_path / "names.txt").write_text("\n".join(COLOURS))
    run(*arguments, "--data", folder / "classes", "--predictions", tmp_path / "p.json", "--json", tmp_path / "z.json")
    rows, found = json.loads((tmp_path / "p.json").read_text()), json.loads((tmp_path / "z.json").read_text())
    assert len(rows) == found["n"] == 12
    assert sum(row["label"] == row["predicted"] for row in rows) == round(12 * found["top1"])
    assert all(row["file"].startswith(f"{row['label']}/") for row in rows)
    assert all(max(row["scores"], key=row["scores"].get) == row["predicted"] for row in rows)
    flat = tmp_path / "flat"
    flat.mkdir()
    for row in rows:
        shutil.copy(folder / "classes" / row["file"], flat / row["file"].replace("/", "-"))
    unlabelled = (*arguments, "--data", flat, "--classes", tmp_path / "names.txt")
    with pytest.raises(UserError, match="lies beside the class folders"):
        run(*unlabelled)
    run(*unlabelled, "--predictions", tmp_path / "q.csv", "--json", tmp_path / "y.json")
    assert json.loads((tmp_path / "y.json").read_text()) == {"n": 12, "classes": 11, "by": "joint space"}
    assert "no labels, so no rates" in caplog.text
    with (tmp_path / "q.csv").open() as file:
        again = {row["file"]: row["predicted"] for row in csv.DictReader(file)}
    assert again == {row["file"].replace("/", "-"): row["predicted"] for row in rows}


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("other.csv", "image,by,note\n{0},ann,x\n{1},bob,y\n", ()),
        ("p.csv", "path\n{0}\n{1}\n", ()), ("i.tsv", "image\n{0}\n{1}\n", ()),
        ("empty.csv", "path,label\n{0},\n{1},\n", ()), ("more.csv", "photo,note\n{0},x\n{1},y\n", ("image=photo",)),
        ("l.jsonl", '{{"image": "{0}"}}\n{{"image": "{1}"}}\n', ()),
        ("null.jsonl", '{{"image": "{0}", "label": null}}\n{{"image": "{1}", "label": -1}}\n', ()),
        ("own.jsonl", '{{"photo": "{0}", "label": null}}\n{{"photo": "{1}"}}\n', ("image=photo",)),
    ],
)  # fmt: skip
def test_pictures_of_a_table_without_labels_are_classified_for_a_file(folder, tmp_path, name, text, columns):
    paths = [folder / "classes" / COLOURS[i] / f"{i}.png" for i in range(2)]
    (tmp_path / name).write_text(text.format(*paths))
    (tmp_path / "names.txt").write_text("\n".join(COLOURS))
    arguments = ["zeroshot", "--model", folder / "model", "--device", "cpu", "--no-text-bank"]
    arguments += ["--data", tmp_path / name, *(part for column in columns for part in ("--columns", column))]
    if name != "null.jsonl":
        with pytest.raises(UserError, match="label"):
            run(*arguments, "--classes", tmp_path / "names.txt")
    with pytest.raises(UserError, match="label"):  # of which classes?
        run(*arguments, "--predictions", tmp_path / "q.json")
    run(*arguments, "--classes", tmp_path / "names.txt", "--predictions", tmp_path / "p.json")
    rows = json.loads((tmp_path / "p.json").read_text())
    assert [row["file"] for row in rows] == [str(path) for path in paths]
    assert [row["label"] for row in rows] == [None, None]
    wanted = ZeroShot(source=Pictures(2), class_names=COLOURS).evaluate(make()[0])
    assert [COLOURS.index(row["predicted"]) for row in rows] == wanted.top[:, 0].tolist()


@pytest.mark.parametrize(("name", "rows"), [
    ("metadata.csv", "file_name,photographer\n0.png,ann\n1.png,bob\n"),
    ("metadata.csv", "file_name,label\n0.png,\n1.png,\n"),
    ("metadata.jsonl", '{"file_name": "0.png", "by": "ann"}\n{"file_name": "1.png"}\n'),
])  # fmt: skip
def test_pictures_beside_metadata_without_labels_are_classified_for_a_file(folder, tmp_path, name, rows):
    (tmp_path / "pictures").mkdir()
    for i in range(2):
        shutil.copy(folder / "classes" / COLOURS[i] / f"{i}.png", tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "pictures" / name).write_text(rows)
    (tmp_path / "names.txt").write_text("\n".join(COLOURS))
    arguments = ["zeroshot", "--model", folder / "model", "--device", "cpu", "--no-text-bank"]
    arguments += ["--data", tmp_path / "pictures", "--classes", tmp_path / "names.txt"]
    with pytest.raises(UserError, match="label"):
        run(*arguments)
    run(*arguments, "--predictions", tmp_path / "p.json")
    wanted = ZeroShot(source=Pictures(2), class_names=COLOURS).evaluate(make()[0])
    found = [COLOURS.index(row["predicted"]) for row in json.loads((tmp_path / "p.json").read_text())]
    assert found == wanted.top[:, 0].tolist()


def test_a_label_that_is_wrong_is_no_label_that_is_missing(folder, tmp_path):
    paths = [folder / "classes" / COLOURS[i] / f"{i}.png" for i in range(2)]
    (tmp_path / "names.txt").write_text("\n".join(COLOURS))
    arguments = ("zeroshot", "--model", folder / "model", "--device", "cpu", "--no-text-bank", "--classes")
    arguments += (tmp_path / "names.txt", "--predictions", tmp_path / "p.json", "--data", tmp_path / "t.csv")
    for last, message in (("mauve", "mauve"), ("", 'no "label"')):
        (tmp_path / "t.csv").write_text(f"path,label\n{paths[0]},red\n{paths[1]},{last}\n")
        with pytest.raises(UserError, match=message):
            run(*arguments)
    assert not (tmp_path / "p.json").exists()


def test_a_config_names_classes_as_the_command_does(folder, tmp_path):
    """``blue_cross`` was the prompt in a config, and "blue cross" in the command."""
    root = tmp_path / "crosses"
    for i, name in enumerate(("red_square", "blue_box", "green_tile")):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), COLOURS[i]).save(root / name / "1.png")
    run(
        "zeroshot", "--model", folder / "model", "--device", "cpu", "--no-text-bank", "--data", root, "--json",
        tmp_path / "z.json",
    )  # fmt: skip
    made = ZeroShot(source=partial(ClassFolder, root))
    assert made.read()[1] == ("blue box", "green tile", "red square")
    found, wanted = made.evaluate(make()[0]).to_json(), json.loads((tmp_path / "z.json").read_text())
    assert found["top1"] == wanted["top1"]
    assert [row["name"] for row in found["per_class"]] == [row["name"] for row in wanted["per_class"]]


def test_predictions_that_cannot_be_written_cost_no_numbers(folder, tmp_path, capsys, monkeypatch):
    def full(path, rows):
        raise UserError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(predictions, "_write", full)
    command = ["retrieval", "--model", folder / "model", "--data", folder / "records.jsonl", "--device", "cpu"]
    command += ["--predictions", tmp_path / "p.json", "--json", tmp_path / "n.json"]
    assert main([str(word) for word in command]) == 2
    said = capsys.readouterr()
    assert "text to image" in said.out
    assert said.err.endswith("p.json: cannot be written (No space left on device)\n")
    assert json.loads((tmp_path / "n.json").read_text())["images"] == 12
    with pytest.raises(UserError, match="No space left"):  # within a run it is an error at once
        Retrieval(source=Pictures(3), predictions=tmp_path / "p.json").evaluate(make()[0])
