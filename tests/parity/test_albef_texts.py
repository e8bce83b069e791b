"""From files of captions, questions and answers to the token ids of the official ALBEF, by every way that mmkit has."""

import json
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image

from mmkit import explain
from mmkit.data.images.transforms import EvalTransform, TrainTransform
from mmkit.data.loader import PairDataset
from mmkit.data.records import JsonLines
from mmkit.data.sources.published.refcoco import RefCoco
from mmkit.data.sources.published.vqa import VQALines
from mmkit.data.targets import AnswerTokens, Given
from mmkit.data.texts.answers.rules import normalize as normalized
from mmkit.data.texts.huggingface.tokenizer import HuggingFaceTokenizer
from mmkit.data.texts.protocol import Framing
from mmkit.data.texts.tokenizers import load_tokenizer
from mmkit.errors import UserError
from mmkit.evals.retrieval import Retrieval
from mmkit.evals.vqa import VQA
from mmkit.evals.zeroshot import ZeroShot
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.albef import albef
from projects.nlvr2.data import NLVR2
from projects.visual_entailment.data import SNLIVE
from tests.parity.oracle import files, load_words, word_cases

CASES = load_words(word_cases()[0])
LONG = "man rides one big red wave by - the / sea , "  # longer than thirty words when it is said four times
ANSWERS = ("t-shirt", "yes", "u.s.")


def official_caption(tokenizer, text, words=30, tokens=30):
    """By the recorded rules, spelt out: [CLS] and the tokens of the cleaned text."""
    for sign in ",.'!?\"()*#:;~":
        text = text.lower().replace(sign, "")
    text = text.replace("-", " ").replace("/", " ").replace("<person>", "person")
    return tokenizer.encode(" ".join(text.split()[:words]), tokens)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_bytes(files("vocab/vocab.txt")[0].read_bytes())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return folder


@pytest.fixture(scope="module")
def plain(folder):
    """As in folders of 0.1.0: nothing is cleaned."""
    return HuggingFaceTokenizer(folder)


@pytest.fixture(scope="module")
def cleaning(folder, tmp_path_factory):
    """Saved and loaded, as it is with a model."""
    saved = tmp_path_factory.mktemp("saved")
    HuggingFaceTokenizer(folder, Framing(clean="albef")).save(saved)
    return load_tokenizer(saved)


@pytest.fixture
def lines(tmp_path):
    """Records of captions; of questions with answers; by the texts of the official recording, and a long one."""
    Image.new("RGB", (16, 16), (200, 30, 30)).save(tmp_path / "0.png")
    captions = [case["raw"] for case in CASES["captions"] if case["raw"].strip()]
    captions += ["a man , riding a wave !", LONG * 4]
    questions = [case["raw"] for case in CASES["questions"]] + [LONG * 4 + "?"]
    rows = [{"image": "0.png", "caption": text, "image_id": "0"} for text in captions]
    asked = [{"image": "0.png", "question": text, "answers": list(ANSWERS)} for text in questions]
    for name, content in (("captions", rows), ("questions", asked)):
        text = "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def texts_of(tmp_path, name, key):
    return [json.loads(line)[key] for line in (tmp_path / f"{name}.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture
def tiny(cleaning):
    torch.manual_seed(0)
    model = albef(
        cleaning.vocab_size, image_size=16, max_tokens=80, patch=8, image_depth=1, image_width=8, image_heads=2,
        text_depth=1, fusion_depth=1, text_width=8, text_heads=2, embed_dim=8,
    ).eval()  # fmt: skip
    heads = {"itc": ITC(model.spec, queue_size=0), "itm": ITM(model.spec)}
    heads["answer"] = AnswerDecoder(model.spec, ANSWERS, depth=1, heads=2, max_tokens=8).eval()
    return Predictor(model, heads, cleaning, EvalTransform(size=16), max_tokens=30)


@contextmanager
def read_by(predictor):
    """The rows of ids that the model's text tower is given, without padding."""
    rows, real = [], predictor.model.encode_text

    def watched(ids, mask):
        rows.extend(row[kept].tolist() for row, kept in zip(ids, mask, strict=True))
        return real(ids, mask)

    predictor.model.encode_text = watched
    try:
        yield rows
    finally:
        del predictor.model.encode_text


def test_training_reads_the_recorded_ids(lines, cleaning):
    data = PairDataset(
        source=JsonLines(lines / "captions.jsonl"), transform=TrainTransform(size=16, flip=0.0), tokenizer=cleaning,
        max_tokens=25,
    )  # fmt: skip
    expected = [case["input_ids_max25"] for case in CASES["captions"] if case["raw"].strip()]
    found = [data[0, i].ids for i in range(len(data))]
    assert found[: len(expected)] == expected
    assert cleaning.decode(found[len(expected)]) == "a man riding a wave"


def test_training_reads_the_recorded_questions_and_plain_answers(lines, cleaning, plain):
    data = PairDataset(
        source=VQALines(lines / "questions.jsonl"), transform=TrainTransform(size=16), tokenizer=cleaning,
        max_tokens=64, targets=AnswerTokens(Given(tokenizer=cleaning)),
    )  # fmt: skip
    expected = [case["input_ids"] for case in CASES["questions"]]
    found = [data[0, i] for i in range(len(data))]
    assert [sample.ids for sample in found[: len(expected)]] == expected
    assert len(found[-1].ids) > 31  # of a question more than thirty words
    own = found[0].targets["ids"]
    assert own[1] == CASES["answers"][0]["input_ids"]
    assert own == [[*plain.encode(answer, 9), plain.sep_id] for answer in map(normalized, ANSWERS)]
    assert cleaning.encode("t-shirt", 9, "answer") == plain.encode("t-shirt", 9)
    assert cleaning.encode("t-shirt", 9) == plain.encode("t shirt", 9) != plain.encode("t-shirt", 9)


def test_evaluations_read_what_the_official_code_reads(lines, tiny, plain):
    captions = texts_of(lines, "captions", "caption")
    wanted = sorted(official_caption(plain, text) for text in set(captions))
    with read_by(tiny) as rows:
        Retrieval(source=JsonLines(lines / "captions.jsonl"))(tiny)
    assert sorted(rows) == wanted
    with read_by(tiny) as rows:
        tiny.encode_text(captions)
    assert sorted(rows) == sorted(official_caption(plain, text) for text in captions)
    names = ("T-shirt!", "a man , riding a wave !")
    source = [replace(JsonLines(lines / "captions.jsonl")[0], targets={"label": names[0]})]
    with read_by(tiny) as rows:
        ZeroShot(source=source, class_names=names, templates=("a photo of a {}.",))(tiny)
    assert sorted(rows) == sorted(official_caption(plain, f"a photo of a {name}.") for name in names)


def test_questions_are_read_as_the_official_evaluation_reads_them(lines, tiny, plain):
    tiny.max_tokens = tiny.encoder.max_tokens = 80
    questions = texts_of(lines, "questions", "question")
    wanted = [case["input_ids"] for case in CASES["questions"]]
    with read_by(tiny) as rows:
        VQA(source=VQALines(lines / "questions.jsonl"))(tiny)
    assert all(ids in rows for ids in wanted)
    assert max(map(len, rows)) > 31
    with read_by(tiny) as rows:
        tiny.answer([lines / "0.png"] * len(questions), questions)
    assert rows[: len(wanted)] == wanted
    with read_by(tiny) as rows:
        explain(tiny, lines / "0.png", questions[0], answer="yes")
    assert rows[0] == wanted[0]


def test_explanations_show_the_words_that_are_read(lines, tiny):
    found = explain(tiny, lines / "0.png", "a man , RIDING a wave !", target="itm")
    assert [word.text for word in found.words] == ["a", "man", "riding", "a", "wave"]
    long = explain(tiny, lines / "0.png", LONG * 4, target="itm")
    assert len(long.unseen) > 0


def test_sources_that_clean_by_themselves_give_the_same(tmp_path, cleaning, plain):
    """RefCOCO+, NLVR2 and SNLI-VE: thirty words each, cleaned once or twice."""
    text = "The man's hand - <person> / left, " * 8
    Image.new("RGB", (8, 8)).save(tmp_path / "1.jpg")
    (tmp_path / "ref.json").write_text(json.dumps([{"image": "1.jpg", "text": text}]))
    (tmp_path / "ve.jsonl").write_text(
        json.dumps({"Flickr30K_ID": "1", "sentence2": text, "gold_label": "neutral"}) + "\n"
    )
    for side in (0, 1):
        Image.new("RGB", (8, 8)).save(tmp_path / f"dev-1-0-img{side}.png")
    (tmp_path / "nlvr.json").write_text(
        json.dumps({"sentence": text, "label": "True", "identifier": "dev-1-0-0"}) + "\n"
    )
    wanted = official_caption(plain, text, words=30, tokens=512)
    makers = (
        partial(RefCoco, tmp_path / "ref.json", tmp_path), partial(SNLIVE, tmp_path / "ve.jsonl", images=tmp_path),
        partial(NLVR2, tmp_path / "nlvr.json"),
    )  # fmt: skip
    for make in makers:
        assert cleaning.encode(make()[0].captions[0], 512) == wanted
    for make in (partial(makers[0], clean=False), partial(makers[1], words=None), partial(makers[2], words=None)):
        assert cleaning.encode(make()[0].captions[0], 512) == wanted


def test_a_framing_of_another_name_is_refused():
    with pytest.raises(UserError, match="clean='lavis'"):
        Framing(clean="lavis")
