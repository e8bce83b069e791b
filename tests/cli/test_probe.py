"""``mmkit probe`` as a user calls it: keys, what is chosen where, and what is refused."""

import csv
import json
from dataclasses import replace
from functools import partial

import open_clip
import pytest
import timm
import torch
import torchvision
from PIL import Image

from mmkit.cli import main
from mmkit.config import dump
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.sources.class_folder import ClassFolder
from mmkit.errors import UserError
from mmkit.evals.probe import evaluate
from mmkit.evals.probe.evaluate import Probe
from mmkit.hub import folder as hub
from mmkit.inference.predictor import Predictor
from tests.sizes import vision_tiny

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (20, 30, 220)}


def paint(folder, n, seed=0, names=COLOURS):
    g = torch.Generator().manual_seed(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            shift = torch.randint(-20, 21, (3,), generator=g).tolist()
            colour = tuple(max(0, c + s) for c, s in zip(COLOURS[name], shift, strict=True))
            Image.new("RGB", (32, 32), colour).save(folder / name / f"{i}.png")
    return folder


def model_of(class_token=True):
    torch.manual_seed(0)
    return vision_tiny(class_token=class_token)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("probe")
    predictor = Predictor(model_of(), {}, None, EvalTransform(size=32), 0)
    parts = {"model": dump(partial(vision_tiny.func, **vision_tiny.keywords)), "heads": {}}
    hub.save(root / "model", predictor, {"name": "x", "args": parts})
    paint(root / "train", 10)
    paint(root / "test", 4, seed=1)
    return root


def probe(saved, *more, code=0):
    file = saved / "found.json"
    call = ["probe", "--model", saved / "model", "--data", saved / "train", "--json", file, "--steps", 60, *more]
    assert main([str(word) for word in call]) == code
    return json.loads(file.read_text()) if code == 0 else None


def test_the_numbers_and_their_keys(saved, tmp_path):
    rows = tmp_path / "rows.csv"
    found = probe(saved, "--test", saved / "test", "--predictions", rows)
    assert (found["n"], found["classes"], found["trained_on"], found["chance"]) == (12, 3, 30, 1 / 3)
    for kind in ("knn", "linear", "attentive"):
        assert found[kind]["top1"] == 1.0
        assert found[kind]["interval_low"] < 1 == found[kind]["interval_high"]
    assert found["knn"]["cls"]["k"] in (10, 20, 24)
    assert {"rate", "standardised", "held_out", "top1"} == set(found["linear"]["mean"])
    assert found["linear"]["token"] in ("cls", "mean")
    with rows.open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12
    assert all(line["label"] == line["knn"] == line["linear"] == line["attentive"] for line in lines)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """Models of others with random weights, by the name that --model takes, with the tokens that are probed."""
    root = tmp_path_factory.mktemp("strangers")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), root / "vit.pth")
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), root / "net.pth")
    text = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (root / "clip").mkdir()
    (root / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.save(open_clip.CLIP(**config).state_dict(), root / "clip" / "open_clip_pytorch_model.bin")
    return {
        f"timm:test_vit@{root}/vit.pth": ["cls", "mean"], f"torchvision:mobilenet_v3_small@{root}/net.pth": ["mean"],
        f"open_clip:{root}/clip": ["mean"],  # its embedding, which is one token
    }  # fmt: skip


@pytest.mark.parametrize("at", range(3), ids=["timm", "torchvision", "open_clip"])
def test_models_of_others_by_their_name(saved, strangers, at):
    name, tokens = list(strangers.items())[at]
    size = [] if name.startswith("open_clip") else ["--image-size", 64]
    found = probe(saved, "--model", name, "--test", saved / "test", *size)
    assert [token for token in ("cls", "mean") if token in found["knn"]] == tokens
    assert found["knn"]["top1"] > 0.9  # three plain colours, chance a third
    assert found["n"] == 12
    assert found["attentive"]["top1"] >= 0


def test_without_a_test_a_fifth_is_held_out(saved, capsys):
    found = probe(saved, "--no-attentive")
    assert (found["n"], found["trained_on"], found["attentive"]) == (6, 24, None)
    assert "nearest neighbours" in capsys.readouterr().out


def test_the_test_pictures_choose_nothing(saved):
    """Whatever their labels are, the same is chosen."""
    predictor = Predictor(model_of(), {}, None, EvalTransform(size=32), 0)

    def chosen(test):
        result = Probe(source=ClassFolder(saved / "train"), test=test, steps=20, attentive=False).evaluate(predictor)
        return result, {kind: {name: r for name, (r, _) in part.items()} for kind, part in result.by.items()}

    class Wrong:
        def __init__(self):
            self.source = ClassFolder(saved / "test")
            self.class_names = self.source.class_names

        def __len__(self):
            return len(self.source)

        def __getitem__(self, i):  # each class has four
            return replace(self.source[i], targets=self.source[(i + 4) % len(self.source)].targets)

    (right, first), (wrong, second) = chosen(ClassFolder(saved / "test")), chosen(Wrong())
    assert first == second
    assert right.metrics()["linear.top1"] == 1.0
    assert wrong.metrics()["linear.top1"] == 0.0
    held = {name: r.held_out for name, r in first["knn"].items()}
    assert right.best("knn")[0] == max(sorted(held), key=lambda name: held[name])


def test_a_tower_without_a_class_token_has_the_mean_alone(saved):
    predictor = Predictor(model_of(class_token=False), {}, None, EvalTransform(size=32), 0)
    result = Probe(source=ClassFolder(saved / "train"), steps=20, attentive=False).evaluate(predictor)
    assert set(result.by["knn"]) == set(result.by["linear"]) == {"mean"}


def test_tokens_that_do_not_fit_are_left_out_and_it_is_said(saved, monkeypatch, caplog):
    monkeypatch.setattr(evaluate, "ROOM", 1e-6)
    predictor = Predictor(model_of(), {}, None, EvalTransform(size=32), 0)
    with caplog.at_level("WARNING", logger="mmkit"):
        result = Probe(source=ClassFolder(saved / "train"), steps=5).evaluate(predictor)
    assert result.attentive is None
    assert "attentive head is left out: tokens of" in caplog.text


def test_what_makes_no_sense_is_refused(saved, tmp_path, capsys):
    probe(saved, "--test", saved / "train", code=2)
    assert "is what is trained on" in capsys.readouterr().err
    probe(saved, "--seed", -1, code=2)
    assert "--seed -1" in capsys.readouterr().err
    probe(saved, "--steps", 0, code=2)
    assert "steps=0" in capsys.readouterr().err
    other = paint(tmp_path / "other", 1, names=("red",))
    (other / "red").rename(other / "pink")
    probe(saved, "--test", other, code=2)
    assert "pink" in (told := capsys.readouterr().err)
    assert "the test pictures" in told
    predictor = Predictor(model_of(), {}, None, EvalTransform(size=32), 0)
    with pytest.raises(UserError, match="two classes or more"):
        Probe(source=ClassFolder(other)).evaluate(predictor)
    with pytest.raises(UserError, match="five or more of one class"):
        Probe(source=ClassFolder(paint(tmp_path / "few", 4))).evaluate(predictor)
