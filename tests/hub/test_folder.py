import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmkit
from mmkit.config import dump
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.images.variable_size import KeepShape
from mmkit.errors import UserError
from mmkit.heads.mlm import MLM
from mmkit.hub import folder as hub
from mmkit.inference.predictor import Predictor
from tests.evals.parts import COLOURS, Pictures, tokenizer
from tests.train.fakes import tiny

ROOT = Path(__file__).parents[2]
IMAGES = [Pictures(5)[i].image for i in range(5)]


def make() -> tuple[Predictor, dict]:
    exp, words = tiny(), tokenizer()
    torch.manual_seed(5)
    model = exp.model(vocab_size=words.vocab_size)
    heads = {name: head(model.spec) for name, head in exp.heads.items()}
    heads["itc"].queue.push(
        {"image": torch.ones(3, 16), "text": torch.ones(3, 16), "image_id": torch.ones(3), "caption_id": torch.ones(3)}
    )
    return Predictor(model, heads, words, EvalTransform(size=32, mean=(0.1, 0.2, 0.3)), 9), dump(exp)


@pytest.fixture
def saved(tmp_path) -> tuple[Path, Predictor]:
    predictor, experiment = make()
    hub.save(tmp_path / "run", predictor, experiment)
    return tmp_path / "run", predictor


def test_a_model_that_keeps_shapes_takes_the_shorter_side_alone(caplog):
    caplog.set_level("INFO", "mmkit")
    predictor, _ = make()
    predictor.transform = KeepShape(size=32, multiple=8)
    hub.resize(predictor, 48)
    assert predictor.transform == KeepShape(size=48, multiple=8)
    assert "pictures' shorter side 48 in place of 32" in caplog.text
    with pytest.raises(UserError, match=r"48x40: this model keeps each picture's shape; give its shorter side"):
        hub.resize(predictor, (48, 40))


def test_a_new_process_gives_the_same_from_the_path_alone(saved):
    folder, predictor = saved
    for i, image in enumerate(IMAGES):
        image.save(folder.parent / f"{i}.png")
    moved = folder.parent / "moved"
    shutil.move(folder, moved)
    program = (
        "import sys, torch, mmkit; p = mmkit.load(sys.argv[1]); files = sys.argv[2:7]; texts = sys.argv[7:]\n"
        "torch.save([p.encode_image(files), p.encode_text(texts), p.match(files, texts[:5])], sys.argv[1] + '/out.pt')"
    )
    files = [str(folder.parent / f"{i}.png") for i in range(5)]
    arguments = [sys.executable, "-c", program, str(moved), *files, *COLOURS]
    subprocess.run(arguments, check=True, cwd=ROOT)
    found = torch.load(moved / "out.pt", weights_only=True)
    wanted = [predictor.encode_image(files), predictor.encode_text(COLOURS), predictor.match(files, COLOURS[:5])]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_the_file_holds_what_inference_needs_and_no_more(saved):
    folder, predictor = saved
    names = load_file(folder / "model.safetensors")
    assert {n.split(".")[0] for n in names} == {"model", "heads"}
    assert {n.split(".")[1] for n in names if n.startswith("heads")} == {"itm", "mlm"}
    assert not any("queue" in n for n in names)
    assert all(f"model.{n}" in names for n, _ in predictor.model.named_parameters())
    loaded = mmkit.load(folder)
    assert loaded.max_tokens == 9
    assert loaded.transform == predictor.transform
    assert not any(m.training for m in loaded.model.modules())
    assert json.loads((folder / "config.json").read_text())["experiment"]["args"]["name"] == "tiny"


def test_a_queue_inside_a_head_with_weights_is_left_out(tmp_path):
    predictor, _ = make()
    head = MLM(predictor.model.spec)
    head.queue = predictor.heads["itc"].queue
    predictor.heads["mlm"] = head
    assert not any("queue" in name for name in hub.weights_of(predictor))
    assert any(name.startswith("heads.mlm.dense") for name in hub.weights_of(predictor))


def test_weights_that_are_given_are_written_without_asking_the_modules(monkeypatch):
    """Under FSDP that takes weights apart, with which the next step is computing."""
    predictor, _ = make()
    head = MLM(predictor.model.spec)
    head.queue = predictor.heads["itc"].queue
    predictor.heads["mlm"] = head
    wanted = hub.weights_of(predictor)
    given = {name: value + 1 for name, value in wanted.items()}
    queue = {name: value for name, value in head.queue.state_dict().items() if isinstance(value, torch.Tensor)}
    others = {f"heads.{of}.queue.{name}": value for of in ("mlm", "itc") for name, value in queue.items()}
    others |= {"teacher.model.x": torch.zeros(1), "model_of_another": torch.zeros(1)}
    monkeypatch.setattr(torch.nn.Module, "state_dict", lambda self: 1 / 0)
    found = hub.weights_of(predictor, given | others)
    assert found.keys() == wanted.keys()
    assert all(found[name] is given[name] for name in found)


def test_loading_leaves_the_random_state_alone(saved):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    mmkit.load(saved[0])
    assert torch.equal(torch.get_rng_state(), before)


def damage_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def damage_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def evil(config):
    config["model"] = {"target": "os:system", "args": {"command": "touch /tmp/evil"}}


def of_others(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))


DAMAGES = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: missing; copy"),
    "cut weights": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 50), r"model\.safetensors: damaged"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer: missing"),
    "no preprocessing": (lambda f: (f / "preprocessing.json").unlink(), r"preprocessing\.json: missing"),
    "bad json": (lambda f: (f / "config.json").write_text("{"), r"config\.json: damaged .*line 1"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object"),
    "no config": (lambda f: (f / "config.json").unlink(), "not the folder of a run"),
    "format": (lambda f: damage_config(f, lambda c: c.update(format=9)), "format 9, this version of mmkit reads 1"),
    "lacks": (lambda f: damage_config(f, lambda c: c.pop("heads")), "lacks 'heads'"),
    "evil": (lambda f: damage_config(f, evil), r"run: config: 'os:system' may not be rebuilt as a model"),
    "key missing": (
        lambda f: damage_weights(f, lambda w: w.pop("model.text_proj.bias")),
        r"(?s)does not fit.*model needs and the file lacks: model\.text_proj\.bias",
    ),
    "key too many": (
        lambda f: damage_weights(f, lambda w: w.update(extra=torch.zeros(1))), "no place for: extra"
    ),
    "shape": (
        lambda f: damage_weights(f, lambda w: w.update({"model.text_proj.bias": torch.zeros(3)})),
        r"another shape: model\.text_proj\.bias \[3\], wanted \[16\]",
    ),
    "whole numbers": (
        lambda f: damage_weights(f, lambda w: w.update({"model.text_proj.bias": torch.ones(16, dtype=torch.int32)})),
        r"safetensors: model\.text_proj\.bias holds torch\.int32, wanted torch\.float32",
    ),
    "vocabulary file": (
        lambda f: (f / "tokenizer/sentencepiece.model").write_bytes(b"x"), r"sentencepiece\.model: not a sentencepiece"
    ),
    "vocabulary": (
        lambda f: damage_config(f, lambda c: c["resolved"].update(vocab_size=7)), "not the tokenizer that it was"
    ),
    "model is a number": (lambda f: damage_config(f, lambda c: c.update(model=5)), "config: '5' is no model: expected"),
    "heads is a list": (lambda f: damage_config(f, lambda c: c.update(heads=[1])), "does not describe a model"),
    "unknown argument": (
        lambda f: damage_config(f, lambda c: c["model"].update(args={"size": 3})), "size: albef has no such arg"
    ),
    "a config of others": (of_others, "mmkit info"),
    "transform": (
        lambda f: (f / "preprocessing.json").write_text('{"image": "x", "max_tokens": 9}'), "'x' is no transform"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_missing_or_damaged_is_named(saved, kind):
    damage, message = DAMAGES[kind]
    damage(saved[0])
    with pytest.raises(UserError, match=message):
        mmkit.load(saved[0])


def test_a_wrong_path_is_explained(saved, tmp_path):
    with pytest.raises(UserError, match=r"rum: no such folder; there is .*run"):
        mmkit.load(tmp_path / "rum")
    with pytest.raises(UserError, match="is a file; give the folder"):
        mmkit.load(saved[0] / "config.json")
    (tmp_path / "young" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="has not saved a model yet"):
        mmkit.load(tmp_path / "young")


def test_importing_the_package_imports_nothing_else():
    program = (
        "import sys, mmkit; assert not {'torch', 'PIL', 'accelerate', 'datasets'} & set(sys.modules); print(mmkit.load)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
