"""Small models for the page: one that compares and matches, and one that answers from a list."""

import torch

from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.inference.predictor import Predictor
from tests.evals.parts import predictor

ANSWERS = ("yes", "no", "red")


def answering() -> Predictor:
    base = predictor(seed=1)
    torch.manual_seed(2)
    head = AnswerClassifier(base.model.spec, ANSWERS)
    return Predictor(base.model, {"answer": head}, base.tokenizer, base.transform, base.max_tokens)
