"""What an evaluator cannot measure is said by its ``check``, which a run calls before its first step."""

from functools import partial

import pytest

from mmkit.errors import UserError
from mmkit.evals.classification import Classification
from mmkit.evals.grounding import Grounding
from mmkit.evals.retrieval import Retrieval
from mmkit.evals.zeroshot import ZeroShot
from tests.evals.parts import Pictures, predictor
from tests.evals.test_vqa import predictor as answering
from tests.sizes import vilt_tiny


@pytest.mark.parametrize("evaluator", [ZeroShot, Retrieval, Grounding])
def test_what_cannot_be_measured_is_said_before_training(evaluator):
    evaluator(source=partial(Pictures, 5)).check(predictor())
    with pytest.raises(UserError, match="no records"):
        evaluator(source=partial(Pictures, 0)).check(predictor())
    with pytest.raises(UserError, match="batch_size=0: must be at least 1"):
        evaluator(source=partial(Pictures, 5), batch_size=0)
    with pytest.raises(UserError, match="the ending says the form"):
        evaluator(source=partial(Pictures, 5), predictions="found.txt").check(predictor())
    if evaluator is not Grounding:
        with pytest.raises(UserError, match="cannot match or re-rank"):
            evaluator(source=partial(Pictures, 5), rerank_top=2).check(predictor(heads=("itc",)))
        with pytest.raises(UserError, match="cannot match"):  # and it has no joint space to compare in
            evaluator(source=partial(Pictures, 5)).check(predictor(heads=(), model=vilt_tiny))


def test_a_classification_is_checked_before_training():
    with pytest.raises(UserError, match="no head 'label'"):
        Classification(source=partial(Pictures, 5)).check(predictor())
    with pytest.raises(UserError, match="no records"):
        Classification(source=partial(Pictures, 0)).check(answering("classes"))
