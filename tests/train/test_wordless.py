"""Runs on pictures alone: they learn, are saved and load again, and what reads words is refused by name."""

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import mmkit
from mmkit.config import Data, Experiment, Optim, Run, dump, load_experiment, validate
from mmkit.data.images.transforms import EvalTransform, TrainTransform
from mmkit.data.records import Record
from mmkit.data.targets import ClassLabels
from mmkit.data.texts.masking import Masking
from mmkit.errors import UserError
from mmkit.evals.image_classes import ImageClasses
from mmkit.evals.retrieval import Retrieval
from mmkit.heads.image_classify import ImageClassify
from mmkit.heads.itc import ITC
from mmkit.hub import folder as hub
from mmkit.hub.card import purpose_of
from mmkit.hub.info import describe
from mmkit.inference.export import export
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.vision import vision
from mmkit.ranks import world_size
from mmkit.report.answers import AnswersReport
from mmkit.task import Task
from mmkit.train.inherit import image_tower, inherited
from mmkit.train.loop import train
from mmkit.train.stages import train_stages
from mmkit.types import Batch
from tests.examples import VOCAB, batch
from tests.several import on_processes
from tests.sizes import albef_tiny, dual_tiny, siglip_tiny, vilt_tiny, vision_tiny
from tests.train.fakes import change, tiny

COLOURS = ("red", "green", "blue", "white")


class Plain:
    """One-coloured pictures, whose class is the colour; no captions."""

    class_names = COLOURS

    def __init__(self, records: int = 40, labels: tuple[str, ...] = COLOURS) -> None:
        self.records, self.class_names = records, labels

    def __len__(self) -> int:
        return self.records

    def __getitem__(self, index: int) -> Record:
        colour = self.class_names[index % len(self.class_names)]
        image = Image.new("RGB", (24, 24), colour)
        return Record(image=image, captions=(), image_id=str(index), key=f"plain {index}",
                      targets={"label": index % len(self.class_names)})  # fmt: skip


def pictures(**changes) -> Experiment:
    exp = Experiment(
        name="pictures",
        model=partial(vision, image_size=32, patch=8, depth=2, width=32, heads=2),
        heads={"class": partial(ImageClassify, classes=COLOURS, smoothing=0.1)},
        data=Data(
            train=partial(Plain), image_size=32, global_batch=8, targets=partial(ClassLabels, classes=COLOURS),
            transform=partial(TrainTransform, scale=(0.5, 1.0), randaugment=None, erase=0.25),
        ),
        optim=Optim(lr=2e-3, warmup_frac=0.1),
        run=Run(steps=4, precision="no", float32_matmul="highest", save_every_steps=0, trackers=(), seed=3),
        evals={"class": partial(ImageClasses, source=partial(Plain, 12))},
    )  # fmt: skip
    return change(exp, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("wordless") / "run"
    train(pictures(), out, save_model=hub.save)
    return out


def test_it_learns_and_is_measured(tmp_path):
    numbers = train(pictures(run=dict(steps=60)), tmp_path / "run", save_model=hub.save)
    assert numbers["class.top1"] == 1.0
    assert numbers["class.n"] == 12
    assert numbers["losses.class"] < 0.9  # of ln 4 = 1.39; smoothing leaves 0.36 to the best


def test_it_has_no_tokenizer_and_loads_again(run, tmp_path):
    assert not (run / "tokenizer").exists()
    assert json.loads((run / "config.json").read_text())["resolved"] == {}
    model = mmkit.load(run)
    assert not model.reads_words
    assert model.heads["class"].classes == COLOURS
    with pytest.raises(UserError, match="reads pictures alone: it has no words"):
        model.encode_text(["a dog"])
    hub.save(tmp_path / "again", model, json.loads((run / "experiment.json").read_text()))
    again = mmkit.load(tmp_path / "again")
    image = Image.new("RGB", (24, 24), "red")
    assert torch.equal(model.encode_image([image]), again.encode_image([image]))


def test_what_is_told_of_it(run):
    found = describe(str(run))
    assert found["tokenizer"] == "none: it reads pictures alone"
    assert "max_tokens" not in found
    assert "vocab_size" not in found
    newest = max(run.glob("checkpoints/step-*"))
    assert describe(str(newest))["tokenizer"] == "none: it reads pictures alone"
    purpose = purpose_of(mmkit.load(run), json.loads((run / "experiment.json").read_text()))
    assert purpose.pipeline == "image-classification"
    assert "red, green, blue, white" in purpose.summary


def test_the_example_of_its_card_runs(run, tmp_path, capsys, monkeypatch):
    purpose = purpose_of(mmkit.load(run), json.loads((run / "experiment.json").read_text()))
    Image.new("RGB", (24, 24), "red").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(purpose.example, {"predictor": mmkit.load(run)})
    shown = capsys.readouterr().out
    assert all(colour in shown for colour in COLOURS)


def test_its_image_tower_is_exported_alone(run, tmp_path):
    pytest.importorskip("onnxscript")
    assert set(export(mmkit.load(run), tmp_path / "onnx")) == {"image"}
    assert sorted(file.name for file in (tmp_path / "onnx").iterdir()) == ["export.json", "image.onnx"]
    assert "pad_id" not in json.loads((tmp_path / "onnx/export.json").read_text())


def test_a_text_model_that_lost_its_tokenizer_is_still_an_error(tmp_path):
    train(tiny(run=dict(steps=3)), tmp_path / "run", save_model=hub.save)
    (tmp_path / "run/tokenizer").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="tokenizer"):
        mmkit.load(tmp_path / "run")


def test_it_resumes_to_the_same_weights(run, tmp_path):
    train(pictures(run=dict(stop_after_steps=2)), tmp_path / "run", save_model=hub.save)
    train(pictures(), tmp_path / "run", resume=True, save_model=hub.save)
    one, other = (load_file(out / "model.safetensors") for out in (run, tmp_path / "run"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_from_it_has_no_words_either(run, tmp_path):
    exp = pictures(model=None, init={"model": str(run)}, run=dict(steps=1))
    found = inherited(exp, tmp_path)
    assert found.tokenizer is None
    assert found.model.keywords["patch"] == 8
    train_stages(exp, tmp_path / "run", save_model=hub.save)
    assert not mmkit.load(tmp_path / "run").reads_words
    wordy = change(exp, heads={**exp.heads, "itc": partial(ITC)})
    with pytest.raises(UserError, match=r"tokenizer: heads\.itc \(ITC\) reads words"):
        train_stages(wordy, tmp_path / "wordy", save_model=hub.save)


def test_it_goes_on_where_its_start_is_gone(run, tmp_path):
    start = shutil.copytree(run, tmp_path / "start")
    exp = pictures(model=None, init={"model": str(start)})
    train_stages(change(exp, run=dict(stop_after_steps=2)), tmp_path / "run", save_model=hub.save)
    shutil.rmtree(start)
    assert train_stages(exp, tmp_path / "run", resume=True, save_model=hub.save)["step"] == 4


def test_a_run_before_that_has_no_words_hands_none_on(tmp_path):
    first = change(pictures(run=dict(steps=2)), subfolder="first")
    train_stages(change(pictures(run=dict(steps=2)), model=None, first=first), tmp_path / "run", save_model=hub.save)
    assert not mmkit.load(tmp_path / "run").reads_words
    assert not list((tmp_path / "run").rglob("tokenizer"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (lambda e: {"heads": {**e.heads, "itc": partial(ITC)}}, r"heads\.itc \(ITC\) reads words"),
        (lambda e: {"evals": {"r": partial(Retrieval, source=partial(Plain))}}, r"evals\.r \(Retrieval\) reads words"),
        (lambda e: {"report": partial(AnswersReport, source=partial(Plain))}, r"report \(AnswersReport\) reads words"),
        (lambda e: {"data": dict(masking=partial(Masking))}, r"data\.masking reads words"),
        (lambda e: {"model": partial(albef_tiny)}, r"model \(albef\) reads words"),
    ],
)
def test_what_reads_words_is_refused_by_name_before_anything_is_built(changes, says):
    exp = pictures()
    with pytest.raises(UserError, match=f"^tokenizer: {says}, so this run needs one"):
        validate(change(exp, **changes(exp)))


def test_with_a_tokenizer_the_model_says_what_it_cannot_read(tmp_path):
    exp = tiny(model=pictures().model, heads={"itc": partial(ITC)})
    with pytest.raises(UserError, match=r"heads\.itc \(ITC\) reads words, and the model reads pictures alone"):
        train(exp, tmp_path / "run", save_model=hub.save)


def test_classes_are_compared_by_name_before_training(tmp_path):
    other = ("green", "red", "blue", "white")
    exp = pictures(heads={"class": partial(ImageClassify, classes=other)})
    with pytest.raises(UserError, match=r"heads\.class and data\.targets have other classes: class 0 is 'green'"):
        train(exp, tmp_path / "a", save_model=hub.save)
    exp = pictures(heads={"class": partial(ImageClassify, classes=other)}, data=dict(targets=None))
    with pytest.raises(UserError, match=r"heads\.class and the training data have other classes"):
        train(exp, tmp_path / "b", save_model=hub.save)
    with pytest.raises(UserError, match="classes that are none of the 4: pink"):
        train(pictures(data=dict(train=partial(Plain, labels=("red", "pink")))), tmp_path / "c", save_model=hub.save)


def test_the_order_of_the_datas_own_classes_does_not_matter(tmp_path):
    backwards = partial(Plain, labels=COLOURS[::-1])
    same = pictures(
        run=dict(steps=60), data=dict(train=backwards), evals={"class": partial(ImageClasses, source=backwards)}
    )
    assert train(same, tmp_path / "run", save_model=hub.save)["class.top1"] == 1.0


# ---- from another model's image tower ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [albef_tiny, vilt_tiny, dual_tiny, siglip_tiny, vision_tiny],
    ids=["albef", "vilt", "clip", "siglip", "vision"],
)
def test_any_image_tower_starts_it(make, tmp_path):
    torch.manual_seed(5)
    args = {"vocab_size": VOCAB} if make is not vision_tiny else {}
    start = tmp_path / "start"
    save_untrained(make, args, start)
    exp = pictures(model=image_tower(start, 32), init={"image": str(start)}, run=dict(steps=1), optim=dict(lr=1e-9))
    exp = change(exp, optim=dict(min_lr=1e-10, weight_decay=0.0))
    train(exp, tmp_path / "run", save_model=hub.save)
    before, after = (load_file(out / "model.safetensors") for out in (start, tmp_path / "run"))
    names = [name for name in after if name.startswith("model.image.")]
    assert sorted(names) == sorted(name for name in before if name.startswith("model.image."))
    for name in names:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)


def test_a_vit_of_timm_starts_it(tmp_path):
    """As DeiT's and MAE's are laid out; its own classifier is left."""
    torch.manual_seed(6)
    theirs = timm.create_model(
        "vit_base_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=7
    ).eval()
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    exp = pictures(init={"image": str(tmp_path / "vit.safetensors")}, run=dict(steps=1))
    train(change(exp, optim=dict(lr=1e-9, min_lr=0.0)), tmp_path / "run", save_model=hub.save)
    x = batch(2).pixels
    with torch.no_grad():
        ours = mmkit.load(tmp_path / "run").model.encode_image(x).x
        torch.testing.assert_close(ours, theirs.forward_features(x), rtol=1e-4, atol=1e-4)


class Words:
    """As much of a tokenizer as a folder keeps."""

    vocab_size, pad_id = VOCAB, 0

    def save(self, folder) -> None:
        folder.mkdir(parents=True)


def save_untrained(make, args, folder) -> None:
    """The folder of a model as a run leaves it, without a run."""
    exp = tiny(model=make) if args else pictures(model=make)
    predictor = Predictor(make(**args), {}, Words() if args else None, EvalTransform(size=32), 12 if args else 0)
    hub.save(folder, predictor, dump(exp))


def test_a_tower_that_is_no_vit_is_named(tmp_path):
    with pytest.raises(UserError, match=r"start = .*: not the folder of a model that mmkit saved; give that of a run"):
        image_tower(tmp_path, 32)


# ---- on several processes ----------------------------------------------------------------------------------------


def work(rank, world, folder):
    torch.manual_seed(0)
    model = vision_tiny()
    task = Task(
        model, {"class": ImageClassify(model.spec, ("a", "b", "c", "d"), smoothing=0.1)}, momentum=0.9, alpha=0.3
    )
    whole = batch(6, seed=1)
    own = slice(rank * 6 // world, (rank + 1) * 6 // world)
    b = Batch(pixels=whole.pixels[own], image_id=whole.image_id[own], targets={"label": whole.targets["label"][own]})
    assert world_size() == world
    out = task(b, 0)
    out.loss.backward()
    grads = {}
    for name, p in task.named_parameters():
        if p.grad is not None:
            total = p.grad / world
            if world > 1:
                torch.distributed.all_reduce(total)
            grads[name] = total
    if rank == 0:
        torch.save(grads, folder / f"grads-{world}.pt")


def test_two_processes_give_the_gradients_of_one(tmp_path):
    for world in (1, 2):
        place = tmp_path / str(world)
        place.mkdir()
        on_processes(world, work, place)
    one, two = (torch.load(tmp_path / str(w) / f"grads-{w}.pt", weights_only=True) for w in (1, 2))
    assert one.keys() == two.keys()
    assert "heads.class.out.weight" in one
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6, msg=name)


# ---- the config --------------------------------------------------------------------------------------------------


def test_the_config_on_the_kinds_takes_two_steps(tmp_path):
    exp = load_experiment("configs/pretrain/classify.py:openmoji(size=36, kinds=4, steps=2)")
    exp = replace(exp, data=replace(exp.data, global_batch=4), run=replace(exp.run, save_every_steps=0))
    numbers = train(exp, tmp_path / "run", save_model=hub.save)
    assert (numbers["class.n"], numbers["class.classes"]) == (20, 4)
