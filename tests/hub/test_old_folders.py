"""Folders that mmkit 0.1.0 saved load, and give the numbers that 0.1.0 gave.

``oracles/folders_0_1_0.json`` holds what 0.1.0 wrote of each: config, preprocessing, tokenizer, shapes of the weights,
and what it made of three pictures and texts with weights that are drawn here again.
"""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmkit
from mmkit.cli.main import main
from mmkit.data.order import RULE
from mmkit.errors import UserError
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.hub import folder as hub
from mmkit.train.loop import train
from tests.evals.parts import Pictures, caption, tokenizer
from tests.train.fakes import change, tiny

FOLDERS = json.loads((Path(__file__).parents[1] / "oracles/folders_0_1_0.json").read_text(encoding="utf-8"))
IMAGES, TEXTS = [Pictures(4)[i].image for i in range(3)], [caption(i) for i in range(3)]


def written(name: str, folder: Path) -> Path:
    """One of the folders, as 0.1.0 left it."""
    saved = FOLDERS[name]
    folder.mkdir()
    for file in ("config", "preprocessing"):
        (folder / f"{file}.json").write_text(json.dumps(saved[file]))
    if saved["tokenizer"]:
        (folder / "tokenizer").mkdir()
        for file, text in saved["tokenizer"].items():
            (folder / "tokenizer" / file).write_text(text)
    else:
        tokenizer().save(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        weights = {key: torch.randn(saved["shapes"][key]) * 0.2 for key in sorted(saved["shapes"])}
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_0_1_0_gives_its_numbers(name, tmp_path):
    predictor, wanted = mmkit.load(written(name, tmp_path / name)), FOLDERS[name]["outputs"]
    found = {}
    if predictor.model.spec.embed_dim:
        found |= {"images": predictor.encode_image(IMAGES), "texts": predictor.encode_text(TEXTS)}
    if predictor.can_match():
        found["match"] = predictor.match(IMAGES, TEXTS)[:, None]
    assert found.keys() | {"answers"} == wanted.keys() | {"answers"}
    for key, value in found.items():
        torch.testing.assert_close(value, torch.tensor(wanted[key]), atol=2e-4, rtol=0)
    if "answers" in wanted:
        for row, old in zip(predictor.answer(IMAGES, ["what?"] * 3), wanted["answers"], strict=True):
            assert [answer for answer, _ in row] == [answer for answer, _ in old]
            assert [score for _, score in row] == pytest.approx([score for _, score in old], abs=2e-4)


@pytest.mark.parametrize("name", ["albef", "dual", "decoder"])
def test_a_run_starts_from_a_folder_of_0_1_0(name, tmp_path):
    """Model and tokenizer come from there, unspelled; the model begins with its numbers, and the run loads."""
    old = written(name, tmp_path / name)
    heads = {"itc": partial(ITC, queue_size=0)} | ({"itm": partial(ITM)} if name != "dual" else {})
    exp = change(
        tiny(run={"steps": 1}), model=None, tokenizer=None, init={"model": str(old)}, teacher=None,
        heads=heads, optim={"lr": 1e-12, "min_lr": 0.0, "warmup_steps": 0},
        data={"image_size": 32, "masking": None},
    )  # fmt: skip
    train(exp, tmp_path / "run", save_model=hub.save)
    before, after = load_file(old / "model.safetensors"), load_file(tmp_path / "run/model.safetensors")
    shared = [key for key in after if key.startswith("model.") and key != "model.temperature.value"]
    assert len(shared) > 10
    for key in shared:
        torch.testing.assert_close(after[key], before[key], atol=1e-9, rtol=0)
    assert mmkit.load(tmp_path / "run").encode_text(TEXTS).shape == mmkit.load(old).encode_text(TEXTS).shape


@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_a_run_of_0_1_0_is_not_resumed_and_the_reason_is_said(state, tmp_path, capsys):
    run, config = tmp_path / "run", tmp_path / "config.py"
    config.write_text("from tests.train.fakes import Experiment, tiny\ndef it() -> Experiment:\n    return tiny()\n")
    train(tiny(run={"steps": 3}), run, save_model=hub.save)
    if state == "interrupted":
        (run / "numbers.json").unlink()
    (meta,) = run.glob("checkpoints/*/meta.json")
    kept = ("step", "world", "product", "precision", "threads", "records", "experiment", "metrics")
    meta.write_text(json.dumps({key: json.loads(meta.read_text())[key] for key in kept}))  # what 0.1.0 wrote
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert main(["train", str(config), "--out", str(run), "--resume"]) == 2
    said = capsys.readouterr().err
    assert "cannot resume: begun by an earlier version of mmkit (0.1.0)" in said
    assert f"a new --out and --set init.model={run}" in said
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert main(["info", str(meta.parent)]) == 0  # it is described, as ever


def test_a_run_in_another_order_of_records_is_not_resumed(tmp_path, monkeypatch):
    train(tiny(run={"steps": 3, "stop_after_steps": 1}), tmp_path)
    (meta,) = tmp_path.glob("checkpoints/*/meta.json")
    was = json.loads(meta.read_text())
    assert was.pop("order") == RULE
    for order in ({}, {"order": "another"}):
        meta.write_text(json.dumps(was | order))
        with pytest.raises(UserError, match=r"by an earlier version of mmkit, which took records otherwise\. Start"):
            train(tiny(run={"steps": 3}), tmp_path, resume=True)


def test_every_kind_is_there():
    assert set(FOLDERS) >= {"albef", "vilt", "dual", "siglip", "decoder", "classifier", "nlvr2", "wordpiece"}
