"""``mmkit explain``, ``mmkit grounding`` and ``mmkit features`` as a user calls them."""

import json
import shutil
from functools import partial

import pytest
from PIL import Image

import mmkit
from mmkit import ranks
from mmkit.cli.main import main
from mmkit.config import dump
from mmkit.evals.grounding import Grounding
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.hub import folder as hub
from tests.evals.test_grounding import Boxes
from tests.hub.test_folder import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model, pictures, and records with boxes."""
    root = tmp_path_factory.mktemp("explain")
    predictor, experiment = make()
    hub.save(root / "model", predictor, experiment)
    lines = []
    (root / "pictures").mkdir()
    for i in range(5):
        record = Boxes()[i]
        record.image.save(root / f"pictures/{i}.png")
        row = {"image": f"pictures/{i}.png", "caption": record.captions[0], "boxes": record.targets["boxes"]}
        lines.append(json.dumps(row) + "\n")
    (root / "records.jsonl").write_text("".join(lines))
    return root


def run(*arguments):
    return main([str(argument) for argument in (*arguments, "--device", "cpu")])


def test_explain(folder, tmp_path, capsys):
    out, file = tmp_path / "a.png", tmp_path / "a.json"
    picture = folder / "pictures/1.png"
    code = run(
        "explain",
        "--model",
        folder / "model",
        "--image",
        picture,
        "--text",
        "a green box",
        "--out",
        out,
        "--json",
        file,
    )
    assert code == 0
    found, wanted = json.loads(file.read_text()), mmkit.explain(folder / "model", picture, "a green box")
    assert found["score"] == pytest.approx(wanted.score)
    assert found["explained"] == "words"  # the model guesses hidden words: these locate best
    assert found["unseen"] == []
    assert [word["word"] for word in found["words"]] == ["a", "green", "box"]
    assert Image.open(out).width > 400
    shown = capsys.readouterr().out
    assert "green" in shown
    assert "each word guessed when hidden" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "5"], "layer=5: this model has 1"),
        (["--head", "2"], "head=2: layer 0 has 2 heads"),
        (["--answer", "yes"], "no head that answers"),
        (["--text", "!"], "no word in it"),
        (["--image", "none.png"], "none.png: no such picture"),
        (["--model", "none"], "none: no such folder"),
        (["--font", "none.ttf"], "font none.ttf: cannot be read"),
        (["--answer", " "], "answer ' ': give a text"),
        # what is written where is looked at before the model, which is damaged
        (["--out", ".", "--model", "damaged"], "--out .: is a folder"),
        (["--out", "a.jpg", "--model", "damaged"], "a.jpg: the name must end in .png"),
        (["--out", f"{__file__}/a.png", "--model", "damaged"], "--out"),
        (["--font", "none.ttf", "--model", "damaged"], "font none.ttf: cannot be read"),
        (["--image", "none.png", "--model", "damaged"], "none.png: no such picture"),
    ],
)
def test_explain_fails_clearly(folder, tmp_path, capsys, monkeypatch, arguments, message):
    usual = {
        "--model": folder / "model",
        "--image": folder / "pictures/1.png",
        "--text": "a",
        "--out": tmp_path / "a.png",
    }
    given = usual | dict(zip(arguments[::2], arguments[1::2], strict=True))
    shutil.copytree(folder / "model", tmp_path / "damaged")
    (tmp_path / "damaged/model.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert run("explain", *(part for pair in given.items() for part in pair)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_the_stage_that_answers_is_found(folder, tmp_path):
    """As ``mmkit vqa`` finds it: in the run's folder."""
    run_folder = tmp_path / "run"
    predictor, experiment = make()
    hub.save(run_folder, predictor, experiment)
    predictor.heads = {"answer": AnswerClassifier(predictor.model.spec, ("yes", "no"))}
    experiment["args"]["heads"] = {"answer": dump(partial(AnswerClassifier, answers=("yes", "no")))}
    hub.save(run_folder / "vqa", predictor, experiment)
    usual = ("explain", "--image", folder / "pictures/1.png", "--text", "a box", "--out", tmp_path / "a.png")
    found = []
    for asked in (("--answer", "no"), ("--target", "answer"), ()):
        assert run(*usual, "--model", run_folder, *asked, "--json", tmp_path / "a.json") == 0
        found.append(json.loads((tmp_path / "a.json").read_text())["explained"])
    assert found[0] == "answer: no"
    assert found[1] in ("answer: yes", "answer: no")
    assert found[2] == "words"


def test_the_similarity_has_no_table_of_words(folder, tmp_path, capsys):
    usual = ("--image", folder / "pictures/1.png", "--text", "a box", "--out", tmp_path / "a.png")
    assert run("explain", "--model", folder / "model", "--target", "itc", *usual) == 0
    shown = capsys.readouterr().out
    assert "similarity: " in shown
    assert "strongest" not in shown


def test_the_first_process_alone_writes(folder, tmp_path, capsys, monkeypatch):
    usual = ("--image", folder / "pictures/1.png", "--text", "a box", "--out", tmp_path / "a.png")
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    assert run("explain", "--model", folder / "model", "--json", tmp_path / "a.json", *usual) == 0
    assert list(tmp_path.iterdir()) == []
    assert not capsys.readouterr().out


def test_grounding(folder, tmp_path, capsys):
    model, file = folder / "model", tmp_path / "g.json"
    assert run("grounding", "--model", model, "--data", folder / "records.jsonl", "--json", file) == 0
    found = json.loads(file.read_text())
    rows = [Boxes()[i] for i in range(5)]
    wanted = Grounding(source=rows)(mmkit.load(model))
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert found["n"] == 9
    assert found["asked"]["alone"] == {"target": "itm", "layer": 0}
    assert 0 < found["chance"] < 1
    assert "pointing" in capsys.readouterr().out
    assert run("grounding", "--model", model, "--data", folder / "records.jsonl", "--images", "x") == 2
    assert "--refs" in capsys.readouterr().err
    assert run("grounding", "--model", model, "--data", "a.json", "--refs", "refs(unc).p") == 2
    assert "--instances" in capsys.readouterr().err


def test_features(folder, tmp_path, capsys):
    model, file = folder / "model", tmp_path / "f.json"
    for data, texts in [(folder / "pictures", 0), (folder / "records.jsonl", 5)]:
        out = tmp_path / f"{texts}.parquet"
        assert run("features", "--model", model, "--data", data, "--out", out, "--json", file) == 0
        found = json.loads(file.read_text())
        assert (found["pictures"], found["texts"], found["unreadable"], found["width"]) == (5, texts, 0, 16)
        assert out.is_file()
    capsys.readouterr()
    for arguments, message in [
        (["--data", folder / "none"], "none: no such file or folder"),
        (["--data", folder / "pictures", "--max-bad", 2], "--max-bad 2.0"),
    ]:
        assert run("features", "--model", model, "--out", tmp_path / "x.parquet", *arguments) == 2
        assert message in capsys.readouterr().err


def test_grounding_leaves_out_what_cannot_be_read(folder, tmp_path):
    lines = (folder / "records.jsonl").read_text()
    data = folder / "bad.jsonl"
    data.write_text(lines.splitlines()[0].replace("0.png", "bad.png") + "\n" + lines)
    (folder / "pictures/bad.png").write_text("")
    model = ("grounding", "--model", folder / "model", "--data")
    assert run(*model, data) == 2
    assert run(*model, data, "--max-bad", 0.2, "--json", tmp_path / "a.json") == 0
    assert run(*model, folder / "records.jsonl", "--json", tmp_path / "b.json") == 0
    found, wanted = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert found == wanted | {"left_out": 1}
