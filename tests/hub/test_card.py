"""The model card: its example runs for every kind of model; what it says follows from the model and its training."""

import re
from functools import partial

import pytest
import torch
import yaml

import mmkit
from mmkit.config.as_json import dump
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.images.variable_size import KeepShape
from mmkit.data.openmoji.questions import Questions
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.records import JsonLines
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.classify import Classify
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.heads.sigmoid import Sigmoid
from mmkit.hub import folder as hub
from mmkit.hub.pretrained import Pretrained
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.albef import albef
from projects.nlvr2.head import PairClassify
from projects.nlvr2.model import pair_mini
from tests.evals.parts import tokenizer
from tests.hub.test_folder import IMAGES
from tests.sizes import albef_tiny, dual_tiny, siglip_tiny, vilt_tiny
from tests.train.fakes import tiny

ALBEF = partial(albef_tiny, image_size=32, max_tokens=16)
WITHOUT_SPACE = partial(
    albef, image_size=32, max_tokens=16, patch=8, image_depth=1, image_width=32, image_heads=2, text_depth=1,
    fusion_depth=1, text_width=32, text_heads=2, embed_dim=0,
)  # fmt: skip
DECODER = partial(AnswerDecoder, answers=("red", "blue", "green"), depth=1, heads=2, max_tokens=8)
ZERO_SHOT, VQA = "zero-shot-image-classification", "visual-question-answering"
KINDS = {
    "ALBEF": (ALBEF, {"itc": partial(ITC, queue_size=4), "itm": partial(ITM), "mlm": partial(MLM)}, ZERO_SHOT),
    "CLIP": (partial(dual_tiny), {"itc": partial(ITC, queue_size=0)}, ZERO_SHOT),
    "SigLIP": (partial(siglip_tiny), {"sigmoid": partial(Sigmoid)}, ZERO_SHOT),
    "ViLT": (partial(vilt_tiny), {"itm": partial(ITM, negatives="mixed", pooler=True)}, None),
    "classifier of answers": (ALBEF, {"answer": partial(AnswerClassifier, answers=("red", "blue"))}, VQA),
    "decoder of answers": (ALBEF, {"answer": DECODER}, VQA),
    "decoder without answers": (ALBEF, {"answer": partial(DECODER, answers=())}, VQA),
    "entailment": (ALBEF, {"label": partial(Classify, classes=("no", "maybe", "yes"))}, None),
    "two pictures": (partial(pair_mini, image_size=24, max_tokens=16), {"label": partial(PairClassify)}, None),
    "words only": (ALBEF, {"mlm": partial(MLM)}, None),
    "no joint space": (WITHOUT_SPACE, {"mlm": partial(MLM)}, None),
}
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def saved(folder, make_model=ALBEF, heads=None, **changes):
    """A tiny model's folder, with the experiment that would have trained it."""
    heads = {"itm": partial(ITM)} if heads is None else heads
    words = tokenizer()
    torch.manual_seed(0)
    model = make_model(words.vocab_size)
    built = {name: head(model.spec) for name, head in heads.items()}
    vilt = make_model.func is vilt_tiny
    side = 24 if make_model.func is pair_mini else 32
    transform = KeepShape(size=32, multiple=8) if vilt else EvalTransform(size=side)
    experiment = dump(tiny(model=make_model, heads=heads, **changes))
    hub.save(folder, Predictor(model, built, words, transform, 12), experiment)
    return folder


def card_of(folder, **options):
    text = str(Pretrained.from_pretrained(folder).generate_model_card(**options))
    return text, yaml.safe_load(text.split("---")[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_runs_and_the_task_fits(kind, tmp_path, monkeypatch, capsys):
    make_model, heads, pipeline = KINDS[kind]
    folder = saved(tmp_path / "run", make_model, heads)
    monkeypatch.chdir(tmp_path)
    IMAGES[0].save("photo.jpg")
    text, data = card_of(folder)
    assert data.get("pipeline_tag") == pipeline
    example = EXAMPLE.search(text)[1]
    exec(compile(example, f"the card of {kind}", "exec"), {})
    assert capsys.readouterr().out
    calls = {
        "answer": "answers" in kind,
        "encode_text": kind in ("ALBEF", "CLIP", "SigLIP", "words only"),
        "match": kind in ("ALBEF", "ViLT"),
        "logits": kind == "entailment",
    }
    for name, expected in calls.items():
        assert (f".{name}(" in example) == expected, name
    assert all(f"| parameters.{part} |" in text for part in ("model.image",) if pipeline)
    assert not re.search(r"\{\w*\}", text), "a place that was not filled in"


def test_what_has_no_task_on_the_hub_has_a_tag(tmp_path):
    assert "image-text-retrieval" in card_of(saved(tmp_path / "a", *KINDS["ViLT"][:2]))[1]["tags"]
    assert "image-text-classification" in card_of(saved(tmp_path / "b", *KINDS["entailment"][:2]))[1]["tags"]


def test_training_and_licence_are_those_of_the_run(tmp_path):
    run = tmp_path / "runs/a"
    (run / "checkpoints/step-00000070").mkdir(parents=True)
    for name in ("meta.json", "task.safetensors", "state.pt"):
        (run / "checkpoints/step-00000070" / name).write_text("{}")
    (run / "data.json").write_text('{"records": 60000}')
    saved(run, heads=KINDS["ALBEF"][1], data={"train": partial(Scenes, split="train", n=60_000)})
    text, data = card_of(run, repository="me/mine")
    assert data["license"] == "cc-by-sa-4.0"
    for line in (
        "- Data: mmkit.data.openmoji.scenes:Scenes", "- Records: 60,000", "- Steps: 70", "- Objectives: itc, itm, mlm",
        "- Started from: at random", "OpenMoji pictures: CC BY-SA 4.0, openmoji.org",
    ):  # fmt: skip
        assert line in text
    assert "OWNER" not in text
    vqa = saved(
        tmp_path / "runs/b", heads=KINDS["decoder of answers"][1], init={"model": "runs/a"},
        data={"train": partial(Questions, split="train", n=9)},
    )  # fmt: skip
    text, data = card_of(vqa)
    assert data["license"] == "cc-by-sa-4.0"
    assert "- Started from: model = runs/a (70 steps on mmkit.data.openmoji.scenes:Scenes)" in text


def test_an_unknown_licence_is_said_to_be_unknown_and_can_be_set(tmp_path):
    run = saved(tmp_path / "run", data={"train": partial(JsonLines, path="coco.jsonl")})
    text, data = card_of(run)
    assert data["license"] == "unknown"
    assert "mmkit.data.records:JsonLines coco.jsonl: unknown: set it" in text
    text, data = card_of(run, licence="apache-2.0")
    assert data["license"] == "apache-2.0"
    assert "unknown" not in text.split("## Licence")[1]


def test_several_licences_and_others_weights_are_named(tmp_path):
    run = saved(
        tmp_path / "run", data={"train": partial(Scenes, split="train", n=9)},
        init={"image": "timm:deit_base_patch16_224", "text": "hf:google-bert/bert-base-uncased"},
    )  # fmt: skip
    text, data = card_of(run)
    assert data["license"] == "other"
    assert data["base_model"] == ["google-bert/bert-base-uncased"]
    for part in ("CC BY-SA", "timm:deit_base_patch16_224: apache-2.0", "hf:google-bert/bert-base-uncased: unknown"):
        assert part in text.split("## Licence")[1]


def test_load_takes_what_a_card_was_written_for(tmp_path):
    folder = saved(tmp_path / "run")
    Pretrained.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert mmkit.load(tmp_path / "copy").can_match()
