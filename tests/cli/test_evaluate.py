"""``mmkit retrieval`` and ``mmkit zeroshot`` as a user calls them."""

import argparse
import json

import pytest

from mmkit import hub
from mmkit.cli import evaluate
from mmkit.errors import UserError
from mmkit.evals.retrieval import Retrieval
from tests.evals.parts import COLOURS, Pictures
from tests.test_hub import make


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


def run(*arguments):
    parser = argparse.ArgumentParser()
    evaluate.register(parser.add_subparsers(required=True))
    args = parser.parse_args([str(a) for a in arguments])
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
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
