"""``mmkit info``: what it says of models, checkpoints and files, of mmkit and of others."""

import json
import math
import shlex
import shutil
from functools import partial

import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

import mmkit
from mmkit.cli.main import main
from mmkit.convert.layouts.known import LAYOUTS
from mmkit.data.openmoji.hypotheses import Hypotheses
from mmkit.data.openmoji.pairs import Pairs
from mmkit.data.openmoji.questions import Questions
from mmkit.data.openmoji.scenes import Scenes, Singles
from mmkit.data.records import JsonLines
from mmkit.data.sources.easy_vqa import EasyVQA
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.open import open_records, open_source
from mmkit.hub import folder as hub
from mmkit.hub.files import CONFIG, read_json
from mmkit.hub.info import describe
from mmkit.hub.pretrained import Pretrained
from mmkit.train.loop import train
from tests.convert.conftest import tokenizer  # noqa: F401  # a fixture
from tests.hub.test_card import KINDS, saved
from tests.models import family
from tests.parity.oracle import cases, files, load, under
from tests.train.fakes import Squares, tiny, weights

WORDS = 60
SMALL = {
    "vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
TOWER = {name: value for name, value in SMALL.items() if name != "vocab_size"} | {"image_size": 32, "patch_size": 8}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


# ---- mmkit's own -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run that was really trained, with teacher and queue."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(tiny(run={"steps": 3}), folder, save_model=hub.save)
    return folder


def parts(folder):
    model = mmkit.load(folder)
    named = {f"parameters.model.{name}": count(child) for name, child in model.model.named_children()}
    return named | {f"parameters.heads.{name}": count(head) for name, head in model.heads.items()}


@pytest.mark.parametrize("form", ["", "model.safetensors", "config.json"])
def test_a_run_and_its_own_files(run, form):
    facts = describe(str(run / form))
    expected = {
        "kind": "a model of mmkit", "model": "mmkit.models.sizes.albef:albef", "heads": "itm, mlm",
        "image_size": "32", "max_tokens": 12, "preprocessing": "mmkit.data.images.transforms:EvalTransform",
        "tokenizer": "sentencepiece, trained on its captions, 60 words", "training.steps": 3, "training.records": 40,
        "training.data": "tests.train.fakes:Squares", "training.heads": "itc, itm, mlm", "training.init": "at random",
        "licence": "tests.train.fakes:Squares: unknown: set it",
    }  # fmt: skip
    assert {name: facts[name] for name in expected} == expected
    named = parts(run)
    assert named.items() <= facts.items()
    assert facts["parameters"] == sum(named.values())


@pytest.mark.parametrize(
    "form", ["checkpoints/step-00000003", "checkpoints", *(f"checkpoints/step-00000003/{n}" for n in (
        "task.safetensors", "state.pt", "meta.json"))],
)  # fmt: skip
def test_a_checkpoint_counts_teacher_and_queues_apart(run, form):
    facts = describe(str(run / form))
    assert "training checkpoint" in facts["kind"]
    assert parts(run).items() <= facts.items()
    assert facts["parameters"] == sum(parts(run).values())
    held = weights(run)
    teacher = sum(value.numel() for name, value in held.items() if name.startswith("ema."))
    queues = sum(v.numel() for n, v in held.items() if ".queue." in n and not n.endswith("_extra_state"))
    assert facts["training_only.teacher"] == teacher > 20_000
    assert facts["training_only.queues"] == queues == 13 * (2 * 16 + 2)
    assert (facts["step"], facts["training.steps"], facts["training.records"]) == (3, 3, 40)
    assert facts["heads"] == "itc, itm, mlm"
    assert facts["image_size"] == "32"
    assert str(run) in facts["use"]


def test_a_run_that_saved_no_model_is_described_by_its_checkpoint(run, tmp_path):
    shutil.copytree(run / "checkpoints", tmp_path / "young/checkpoints")
    facts = describe(str(tmp_path / "young"))
    assert facts["step"] == 3
    assert facts["image_size"] == "32"
    assert "mmkit.load" not in facts["use"]


@pytest.mark.parametrize("name", ["model.safetensors", "task.safetensors"])
def test_weights_without_what_belongs_to_them(run, name, tmp_path):
    shutil.copy(next(run.rglob(name)), tmp_path / name)
    facts = describe(str(tmp_path / name))
    assert facts["kind"] == "weights of a model of mmkit, without its config.json"
    assert facts["parameters"] == sum(parts(run).values())
    assert ("training_only.teacher" in facts) == (name == "task.safetensors")


def test_each_save_records_its_own_step(tmp_path):
    train(tiny(run={"steps": 4, "stop_after_steps": 2, "save_every_steps": 1}), tmp_path, save_model=hub.save)
    assert read_json(tmp_path / CONFIG)["training"]["steps"] == 2
    train(tiny(run={"steps": 4, "save_every_steps": 1}), tmp_path, resume=True, save_model=hub.save)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "metrics.jsonl").unlink()
    assert describe(str(tmp_path))["training.steps"] == 4


OPENMOJI = "OpenMoji pictures: CC BY-SA 4.0, openmoji.org"
COCO = partial(JsonLines, path="coco.jsonl")
SQUARES = "tests.train.fakes:Squares: unknown: set it"
UNKNOWN = "mmkit.data.records:JsonLines coco.jsonl: unknown: set it"
DATA = {
    "scenes": (partial(Scenes, split="train", n=9), OPENMOJI),
    "singles": (partial(Singles), OPENMOJI),
    "questions": (partial(Questions, split="train", n=9), OPENMOJI),
    "pairs": (partial(Pairs, split="train", n=9), OPENMOJI),
    "hypotheses": (partial(Hypotheses, split="train", n=9), OPENMOJI),
    "easy-VQA": (partial(EasyVQA, split="train"), "easy-VQA: MIT"),
    "records": (COCO, UNKNOWN),
    "opened": (partial(open_records, path="coco.jsonl"), "coco.jsonl: unknown: set it"),
    "of any form": (
        partial(Joined, parts=tuple(partial(open_source, spec=name, wants=("label",)) for name in ("a.csv", "b.csv"))),
        "a.csv: unknown: set it; b.csv: unknown: set it",
    ),
    "of one's own": (partial(Joined, parts=(partial(Questions), partial(Squares))), f"{OPENMOJI}; {SQUARES}"),
    "joined": (partial(Joined, parts=(partial(Questions, split="train", n=9), COCO)), f"{OPENMOJI}; {UNKNOWN}"),
}


@pytest.mark.parametrize("name", DATA)
def test_the_licence_follows_the_data(name, tmp_path):
    train_on, licence = DATA[name]
    assert describe(str(saved(tmp_path / "run", data={"train": train_on})))["licence"] == licence


def test_the_licence_follows_what_a_run_started_from(tmp_path):
    saved(tmp_path / "runs/a", data={"train": DATA["scenes"][0]})
    saved(tmp_path / "runs/b", data={"train": DATA["easy-VQA"][0]}, init={"model": "runs/a"})
    last = saved(tmp_path / "other/c", data={"train": COCO}, init={"model": str(tmp_path / "runs/b/model.safetensors")})
    shutil.rmtree(tmp_path / "runs")  # what was saved knows it by itself
    assert describe(str(last))["licence"] == f"{UNKNOWN}; easy-VQA: MIT; {OPENMOJI}"
    Pretrained.from_pretrained(last).save_pretrained(tmp_path / "copy")
    assert describe(str(tmp_path / "copy"))["licence"] == describe(str(last))["licence"]


def test_of_what_a_folder_says_that_it_started_from_nothing_is_read(tmp_path):
    saved(tmp_path / "runs/a", data={"train": DATA["scenes"][0]})
    last = saved(tmp_path / "runs/b", data={"train": COCO}, init={"model": str(tmp_path / "runs/a")})
    config = read_json(last / CONFIG)
    assert describe(str(last))["licence"] == f"{UNKNOWN}; {OPENMOJI}"
    (last / CONFIG).write_text(json.dumps({k: v for k, v in config.items() if k != "training"}))
    assert describe(str(last))["licence"] == f"{UNKNOWN}; {tmp_path / 'runs/a'}: unknown: set it"


def test_what_a_run_started_from_and_is_gone_is_unknown(tmp_path):
    run = saved(tmp_path / "run", data={"train": DATA["scenes"][0]}, init={"model": "runs/gone"})
    assert describe(str(run))["licence"] == f"{OPENMOJI}; runs/gone: unknown: set it"


# ---- of others -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Tiny models of transformers, timm and open_clip, as these save them."""
    root = tmp_path_factory.mktemp("theirs")
    text = SMALL | {"max_position_embeddings": 16}
    roberta = transformers.RobertaConfig(**SMALL, type_vocab_size=1, max_position_embeddings=18)
    models = {
        "bert": transformers.BertForMaskedLM(transformers.BertConfig(**text)),
        "roberta": transformers.RobertaModel(roberta),
        "roberta-mlm": transformers.RobertaForMaskedLM(roberta),
        "distilbert": transformers.DistilBertModel(
            transformers.DistilBertConfig(vocab_size=WORDS, dim=32, n_layers=1, n_heads=2, hidden_dim=32)
        ),
        "vilt-transformers": transformers.ViltForImageAndTextRetrieval(
            transformers.ViltConfig(**SMALL, image_size=64, patch_size=32)
        ),
        "clip-transformers": transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=TOWER, projection_dim=16)
        ),
        "siglip-transformers": transformers.SiglipModel(
            transformers.SiglipConfig(text_config=text | {"projection_size": 32}, vision_config=TOWER)
        ),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
    (root / "roberta alone").mkdir()
    shutil.copy(root / "roberta/model.safetensors", root / "roberta alone")
    models["vit"] = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3)
    (root / "vit").mkdir()
    torch.save(models["vit"].state_dict(), root / "vit/vit.pth")
    for name in ("clip", "siglip"):
        config, models[name] = family.CONFIGS[name], family.theirs(name)
        (root / name).mkdir()
        state = {key: value.clone() for key, value in models[name].state_dict().items()}
        save_file(state, root / name / "open_clip_model.safetensors")
        preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "size": 32, "resize_mode": "squash"}
        (root / name / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
        )
    return root, models


FOREIGN = [
    "bert", "vit", "vilt-transformers", "clip", "clip-transformers", "siglip", "siglip-transformers",
]  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_layouts_of_others(name, theirs):
    root, models = theirs
    facts = describe(str(root / name))
    assert facts["layout"] == name
    assert facts["parameters"] == count(models[name])  # a tied matrix once
    inner = [value for key, value in facts.items() if key.startswith("parameters.")]
    assert len(inner) > 1
    assert sum(inner) == facts["parameters"]
    assert str(root / name) in facts["use"]
    assert {"preprocessing", "tokenizer", "training.data", "training.steps", "licence", "what"} <= facts.keys()
    if name in ("bert", "vit"):
        assert facts["use"].startswith("init=")
    else:
        assert facts["use"].startswith(f"mmkit convert {name} {root / name} OUT")
        assert facts["image_size"] == ("64" if name.startswith("vilt") else "32")
        assert "words" in facts["tokenizer"]
    if name in ("clip", "siglip"):
        assert facts["also"] == f"--model open_clip:{root / name} in every command, as it is"
        assert facts["preprocessing.std"] == "0.25, 0.25, 0.25"


@pytest.mark.parametrize(("name", "said"), [
    ("roberta", "a RoBERTa"), ("roberta-mlm", "a RoBERTa"), ("roberta alone", "a RoBERTa"),
    ("distilbert", "a DistilBERT"),
])  # fmt: skip
def test_what_no_layout_covers_is_not_called_a_bert(name, said, theirs):
    facts = describe(str(theirs[0] / name))
    assert facts["what"].startswith(said)
    assert "no layout" in facts["what"]
    assert facts["layout"] == "unknown"
    assert "init" not in facts["use"]


def test_the_card_and_the_config_beside_a_file_are_read(theirs, tmp_path):
    folder = tmp_path / "bert"
    shutil.copytree(theirs[0] / "bert", folder)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# BERT\n")
    (folder / "vocab.txt").write_text("[PAD]\n")
    facts = describe(str(folder))
    assert facts["licence"] == "apache-2.0 (its model card)"
    assert facts["tokenizer"] == "vocab.txt beside the weights"
    timms = {"pretrained_cfg": {"mean": [0.5], "input_size": [3, 32, 32], "license": "mit"}}
    shutil.copytree(theirs[0] / "vit", tmp_path / "vit")
    (tmp_path / "vit/config.json").write_text(json.dumps(timms))
    facts = describe(str(tmp_path / "vit"))
    assert facts["licence"] == "mit (its config.json)"
    assert facts["preprocessing"] == "input_size [3, 32, 32]; mean [0.5]"


def test_of_several_weights_in_a_file_it_is_said_which_flag_takes_them(theirs, tmp_path, capsys):
    state = torch.load(theirs[0] / "vit/vit.pth")
    torch.save({"model": state, "model_ema": state, "params_ema": state, "epoch": 2}, tmp_path / "x.pth")
    facts = describe(str(tmp_path / "x.pth"))
    assert facts["weights"] == "under model; others by mmkit convert --weights model_ema|params_ema"
    torch.save({"model": state, "epoch": 2}, tmp_path / "one.pth")
    assert "weights" not in describe(str(tmp_path / "one.pth"))
    assert "--weights" not in capsys.readouterr().err  # said once, among the facts


ORACLES = {
    "albef": cases(lambda names: "sd.text_encoder.cls.predictions.bias" in names)[0],
    **{
        layout: files(f"albef_{kind}_tiny.safetensors")[0]
        for layout, kind in {
            "albef-retrieval": "retrieval", "albef-vqa": "vqa", "albef-ve": "ve", "albef-nlvr2": "nlvr",
            "albef-assignment": "nlvr_pretrain",
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", ORACLES)
def test_official_albef_and_the_command_that_converts_it(layout, tokenizer, tmp_path):  # noqa: F811
    meta, x = load(ORACLES[layout])
    path = tmp_path / "the file.pth"
    state = under(x, "sd.")
    torch.save({"model": state, "epoch": 29}, path)
    facts = describe(str(path))
    assert facts["layout"] == layout
    assert facts["training.steps"] == "epoch 29"
    assert facts["licence"].startswith("BSD-3-Clause")
    apart = {key: value for key, value in facts.items() if key.startswith("training_only.")}
    assert ("training_only.teacher" in apart) == any("_m." in name for name in state)
    assert ("training_only.queues" in apart) == ("image_queue" in state)
    arguments = shlex.split(facts["use"])
    assert arguments[:2] == ["mmkit", "convert"]
    assert arguments[3:5] == [str(path), "OUT"]
    answers = tmp_path / "answer_list.json"
    answers.write_text('["yes", "no"]')
    given = {"OUT": str(tmp_path / "out"), "answer_list.json": str(answers)}
    assert "--image-heads" in facts["first"]  # what else is to be given, before anything is converted
    words = ["--tokenizer", tokenizer(meta["bert"]["vocab_size"]), "--image-heads", "2", "--text-heads", "2"]
    assert main([given.get(word, word) for word in arguments[1:]] + words) == 0
    made = describe(str(tmp_path / "out"))
    assert facts["parameters"] == made["parameters"]
    rest = tmp_path / "out/training_state.safetensors"
    if rest.is_file():
        kept = describe(str(rest))
        assert "only training needs" in kept["kind"]
        assert kept["parameters"] == 0
        assert kept["training_only.teacher"] == sum(
            math.prod(v.shape) for k, v in load_file(rest).items() if k.startswith("ema.")
        )
    assert made["vocab_size"] == meta["bert"]["vocab_size"]
    assert made["image_size"] == str(meta["vit"]["image"])


def test_official_vilt_and_every_other_layout_has_a_test_here(tmp_path):
    assert {*FOREIGN, *ORACLES, "vilt"} == {layout.name for layout in LAYOUTS}
    ours = saved(tmp_path / "ours", *KINDS["ViLT"][:2])
    assert main(["convert", "vilt", str(ours), str(tmp_path / "vilt.ckpt"), "--reverse"]) == 0
    facts = describe(str(tmp_path / "vilt.ckpt"))
    assert facts["layout"] == "vilt"
    assert facts["licence"].startswith("Apache-2.0")
    assert facts["parameters"] == describe(str(ours))["parameters"]
    assert facts["use"].startswith(f"mmkit convert vilt {tmp_path / 'vilt.ckpt'} OUT")


# ---- open_clip by name -----------------------------------------------------------------------------------------


def test_a_name_of_open_clip_needs_no_weights(caplog):
    facts = describe("open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert facts["kind"] == "a model of open_clip"
    assert facts["parameters"] == 151_277_313
    assert facts["parameters"] == sum(v for k, v in facts.items() if k.startswith("parameters."))
    assert facts["parameters.visual"] == 87_849_216
    assert facts["image_size"] == "(224, 224)"
    assert facts["max_tokens"] == 77
    assert "49408" in facts["tokenizer"]
    assert "laion2b_s34b_b79k" in facts["training.data"]
    assert facts["use"].startswith("--model open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert "laion/CLIP-ViT-B-32-laion2B-s34B-b79K" in facts["weights"]
    assert "randomly" not in caplog.text


def test_a_folder_of_open_clip_as_it_is(theirs):
    root, models = theirs
    facts = describe(f"open_clip:{root / 'clip'}")
    assert facts["parameters"] == count(models["clip"])
    assert facts["image_size"] == "(32, 32)"


# ---- what is no checkpoint -------------------------------------------------------------------------------------


def test_what_cannot_be_described_is_said(run, tmp_path, capsys):
    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    Image.new("RGB", (9, 7)).save(tmp_path / "b.pt", "PNG")
    Image.new("RGB", (9, 7)).save(tmp_path / "c.jpg")
    (tmp_path / "d.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    (tmp_path / "c.txt").write_text("words, and more of them")
    (tmp_path / "d.safetensors").write_bytes(b"")
    (tmp_path / "e.pth").write_bytes(b"this was never a checkpoint")
    for name in ("empty", "pictures"):
        (tmp_path / name).mkdir()
    shutil.copy(tmp_path / "a.png", tmp_path / "pictures/1.png")
    shutil.copytree(run, tmp_path / "cut", ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "cut/preprocessing.json").unlink()
    shutil.copytree(run, tmp_path / "torn")
    (tmp_path / "torn/config.json").write_text("{")
    said = {
        "nowhere": "no such file or folder",
        "a.png": "a picture (.png), no checkpoint",
        "b.pt": "a picture (.png)",
        "c.jpg": "a picture (.jpg)",
        "d.eps": "PostScript, no checkpoint",
        "c.txt": "neither a safetensors file nor one that torch.save wrote",
        "d.safetensors": "an empty file",
        "e.pth": "damaged: neither a safetensors file nor one that torch.save wrote",
        "empty": "an empty folder",
        "pictures": "holds no weights, but 1.png",
        "cut": "preprocessing.json: damaged or missing",
        "torn": "config.json: damaged",
    }
    for name, message in said.items():
        assert main(["info", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"mmkit: error: {tmp_path / name}")
        assert message in error
    assert main(["info", str(run.parent)]) == 2
    assert f"give one of: {run}" in capsys.readouterr().err


def test_the_command_shows_everything_whole(run, tmp_path, capsys):
    deep = tmp_path / ("a-rather-long-name-of-a-folder-" * 4) / "run"
    shutil.copytree(run, deep)
    assert main(["info", str(deep), "--json", str(tmp_path / "facts.json")]) == 0
    facts, out = json.loads((tmp_path / "facts.json").read_text()), capsys.readouterr().out
    assert facts["training"]["steps"] == facts["training.steps"] == 3
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines.keys() == {name for name, value in facts.items() if not isinstance(value, dict)}
    assert lines["use"] == facts["use"]
    assert lines["parameters"] == f"{facts['parameters']:,}"
