"""What a head can do is asked by protocol, in one place: each head of mmkit, and one of a user's that names none."""

import json
import sys

import pytest
import torch
from torch import nn

from mmkit.cli.vqa import answering_stage
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.base import Answers, Classifies, Guesses, Head, Matches, Predicts, Scores, Writes
from mmkit.heads.classify import Classify
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.heads.sigmoid import Sigmoid
from mmkit.inference.answering import candidates_of
from tests.evals.parts import predictor
from tests.examples import VOCAB, batch
from tests.sizes import albef_tiny

ALL = (Answers, Classifies, Guesses, Matches, Predicts, Scores, Writes)
CAN = {
    ITC: (), Sigmoid: (), ITM: (Matches, Predicts), MLM: (Guesses, Predicts, Scores),
    Classify: (Classifies, Predicts, Scores), AnswerClassifier: (Answers, Predicts, Scores),
    AnswerDecoder: (Answers, Writes),
}  # fmt: skip
MORE = {Classify: {"classes": 3}, AnswerClassifier: {"answers": ["yes", "no"]}, AnswerDecoder: {"depth": 1, "heads": 2}}


@pytest.mark.parametrize("kind", CAN, ids=lambda kind: kind.__name__)
def test_what_each_head_can_do(kind):
    head = kind(albef_tiny(VOCAB).spec, **MORE.get(kind, {}))
    assert tuple(can for can in ALL if isinstance(head, can)) == CAN[kind]
    assert issubclass(kind, Answers) == (Answers in CAN[kind])  # asked of classes too, before any is made
    assert not head.also_reads


@pytest.mark.parametrize("kind", [ITM, MLM, Classify, AnswerClassifier], ids=lambda kind: kind.__name__)
def test_what_is_predicted_is_what_the_loss_is_of(kind):
    torch.manual_seed(0)
    model = albef_tiny(VOCAB).eval()
    head = kind(model.spec, **MORE.get(kind, {})).eval()
    f = Features(model, batch(4))
    found = head.predict(f)
    if kind is MLM:
        wanted = head.logits(f.masked, model.word_embeddings)
    elif kind is ITM:
        wanted = head.match_logits(f.fused.first)
    else:
        wanted = head.logits(f.fused)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


class Own(Head):
    """Of a user's: no class of mmkit's but the base."""

    classes = ("a", "b")

    def predict(self, f):
        return torch.zeros(len(f.batch), 2)


def test_a_predictor_finds_the_first_head_that_can_and_says_which_there_are():
    made = predictor()
    own, other = Own(), Own()
    made.heads = {**made.heads, "own": own, "other": other}
    assert made.head_that(Classifies) is own
    assert made.has(Classifies)
    assert not made.has(Answers)
    with pytest.raises(
        UserError,
        match=r"^this model has no head that answers; its heads are: itc \(ITC\), itm \(ITM\), own \(Own\), o",
    ):
        made.head_that(Answers)
    made.heads = {}
    with pytest.raises(UserError, match=r"^this model can't; its heads are: none. Do this$"):
        made.head_that(Answers, "can't", "Do this")


def test_answers_become_ids_for_the_head_that_ranks_them():
    made = predictor()
    spec, words = made.model.spec, made.tokenizer
    writes = AnswerDecoder(spec, depth=1, heads=2, max_tokens=5)
    ids, mask = candidates_of(writes, words, ["red", "a red box and a blue one"])
    assert mask.sum(1).max() == ids.shape[1] <= 5
    assert ids[0, 0] == words.cls_id
    assert [ids[row, int(mask[row].sum()) - 1].item() for row in (0, 1)] == [words.sep_id] * 2
    assert bool((ids[~mask] == words.pad_id).all())
    chooses = AnswerClassifier(spec, ["yes", "no", "perhaps"])
    ids, mask = candidates_of(chooses, words, ["perhaps", "yes"])
    assert (ids.tolist(), mask.tolist()) == ([[2], [0]], [[True], [True]])
    for head in (writes, chooses):
        with pytest.raises(UserError, match="no list of answers to rank"):
            candidates_of(head, words, ())


def test_the_stage_that_answers_is_found_by_its_heads(tmp_path):
    def saved(folder, target):
        folder.mkdir(parents=True)
        heads = {"one": {"target": target, "args": {"words": "answers"}}}
        config = {
            "format": "mmkit",
            "experiment": {},
            "model": {"target": "mmkit.models.sizes.albef:albef"},
            "heads": heads,
        }
        (folder / "config.json").write_text(json.dumps(config))

    saved(tmp_path / "run", "mmkit.heads.itm:ITM")
    saved(tmp_path / "run" / "later", "mmkit.heads.answers.decoder:AnswerDecoder")
    saved(tmp_path / "run" / "other", "mmkit.heads.mlm:MLM")
    assert answering_stage(str(tmp_path / "run")) == str(tmp_path / "run" / "later")
    assert answering_stage(str(tmp_path / "run" / "later")) == str(tmp_path / "run" / "later")
    saved(tmp_path / "run" / "two", "mmkit.heads.answers.classifier:AnswerClassifier")
    assert answering_stage(str(tmp_path / "run")) == str(tmp_path / "run")  # which of them is not said


def test_a_user_s_head_is_asked_only_where_it_is_allowed(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("class Says:\n    def rank(self, fused, candidates, top=1): ...\n")
    folder = tmp_path / "run"
    folder.mkdir()
    target = "mine:Says"
    config = {
        "format": "mmkit",
        "experiment": {},
        "model": {"target": "x:y"},
        "heads": {"a": {"target": target, "args": {}}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    saved_beside = tmp_path / "run" / "stage"
    saved_beside.mkdir()
    config["heads"] = {"a": {"target": "mmkit.heads.answers.decoder:AnswerDecoder", "args": {}}}
    (saved_beside / "config.json").write_text(json.dumps(config))
    assert answering_stage(str(folder)) == str(folder)  # nobody knows: loading it asks for --allow
    assert "mine" not in sys.modules
    assert answering_stage(str(folder), ["mine"]) == str(folder)  # it answers itself


def test_modules_that_are_no_heads_can_do_nothing():
    assert not any(isinstance(nn.Linear(2, 2), can) for can in ALL)
