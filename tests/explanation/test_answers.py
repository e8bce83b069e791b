"""Explaining an answer: chosen from a list, written word by word, or a class; nothing in the heads is made for it."""

import pytest
import torch

from mmkit.errors import UserError
from mmkit.explanation.explain import explain, explain_pairs
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.classify import Classify
from tests.evals.parts import predictor
from tests.explanation.test_gradcam import noise, three

ANSWERS = ("red", "a green square", "blue")


def answering(head) -> object:
    model = predictor(3, heads=(), model=three)
    torch.manual_seed(1)
    made = head(model.model.spec)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3) if parameter.ndim > 1 else None
    model.heads = {"answer": made}
    return model


def decoder(spec):
    return AnswerDecoder(spec, ANSWERS, depth=2, heads=2, dropout=0.0)


def test_the_score_is_that_of_the_model():
    model = answering(lambda spec: AnswerClassifier(spec, ANSWERS))
    (wanted,) = model.answer([noise(1)], ["a red box"], top=3)
    for answer, probability in wanted:
        found = explain(model, noise(1), "a red box", answer=answer)
        assert (found.target, found.score) == (f"answer: {answer}", pytest.approx(probability, abs=1e-6))
    assert explain(model, noise(1), "a red box").target == f"answer: {wanted[0][0]}"  # its own, where none is given


def test_a_written_answer():
    model = answering(decoder)
    scores = [explain(model, noise(1), "a red box", answer=answer).score for answer in ANSWERS]
    (wanted,) = model.answer([noise(1)], ["a red box"], top=3)
    for answer, probability in wanted:  # of these three, each read whole
        assert scores[ANSWERS.index(answer)] / sum(scores) == pytest.approx(probability, rel=1e-4)
    # an answer of one's own, which the decoder can write as well; and answers of unequal length in one pass
    found = list(explain_pairs(model, [noise(1)] * 3, ["a red box"] * 3, answers=["pink", *ANSWERS[:2]]))
    assert [e.score for e in found[1:]] == [pytest.approx(score, rel=1e-4) for score in scores[:2]]
    assert all(e.sentence.raw.sum() > 0 for e in found)
    assert not torch.allclose(found[1].sentence.grid, found[2].sentence.grid)
    # the decoder reads all fused states: words matter in the last layer too
    assert sum(word.share for word in explain(model, noise(1), "a red box", answer="pink", layer=2).words) > 0.99


def test_a_class():
    names = ("contradiction", "neutral", "entailment")
    model = answering(lambda spec: Classify(spec, names))
    scores = [explain(model, noise(1), "a red box", answer=name).score for name in names]
    assert sum(scores) == pytest.approx(1)

    own = explain(model, noise(1), "a red box")  # its own class, where none is given
    assert own.target == f"answer: {names[scores.index(max(scores))]}"
    assert own.score == pytest.approx(max(scores))
    with pytest.raises(UserError, match=r"answer 'yes': not among .* which are contradiction, neutral, entailment"):
        explain(model, noise(1), "a red box", answer="yes")
    for empty in ("", " "):
        with pytest.raises(UserError, match=f"answer '{empty}': give a text"):
            explain(model, noise(1), "a red box", answer=empty)


def test_each_pair_gets_its_own_class():
    model = answering(lambda spec: Classify(spec, ("a", "b", "c")))
    pictures, texts = [noise(i) for i in range(5)], ["a red box", "blue", "a green square", "red", "a pink tile"]
    found = list(explain_pairs(model, pictures, texts, batch_size=2))
    wanted = [
        max((explain(model, p, t, answer=n).score, n) for n in "abc")[1] for p, t in zip(pictures, texts, strict=True)
    ]
    assert [e.target for e in found] == [f"answer: {name}" for name in wanted]


def test_a_decoder_without_a_list_writes_its_own_answer():
    model = answering(lambda spec: AnswerDecoder(spec, (), depth=2, heads=2, dropout=0.0))
    with torch.no_grad():
        (wanted,) = model.answer([noise(1)], ["a red box"], generate=True)
    assert wanted[0][0].strip()
    assert explain(model, noise(1), "a red box").target == f"answer: {wanted[0][0]}"


def test_the_gradient_is_that_of_the_answer():
    model = answering(lambda spec: AnswerClassifier(spec, ANSWERS))
    head = model.heads["answer"]
    wanted = explain(model, noise(1), "a red box", target=lambda fused: head.logits(fused)[:, 2])
    assert torch.allclose(explain(model, noise(1), "a red box", answer="blue").sentence.raw, wanted.sentence.raw)


def test_an_answer_that_it_does_not_know():
    model = answering(lambda spec: AnswerClassifier(spec, ANSWERS))
    with pytest.raises(UserError, match="answer 'pink': not among the answers of this model, which are red, a green"):
        explain(model, noise(1), "a red box", answer="pink")
