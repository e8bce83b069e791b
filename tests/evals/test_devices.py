"""Every evaluator gives on a GPU the numbers that it gives on the CPU."""

from functools import partial

import pytest

from mmkit.evals.classification import Classification
from mmkit.evals.grounding import Grounding
from mmkit.evals.retrieval import Retrieval
from mmkit.evals.vqa import VQA
from mmkit.evals.zeroshot import ZeroShot
from tests.evals.parts import Pictures, predictor
from tests.evals.test_grounding import Boxes
from tests.evals.test_vqa import Questions
from tests.evals.test_vqa import predictor as answering

EVALUATORS = {
    "retrieval": (predictor, partial(Retrieval, source=Pictures(17), rerank_top=4, batch_size=3, pair_batch=7)),
    "zeroshot": (predictor, partial(ZeroShot, source=Pictures(26), batch_size=7, rerank_top=3)),
    "grounding": (partial(predictor, 2), partial(Grounding, source=Boxes(), batch_size=3)),
    "classes": (partial(answering, "classes"), partial(Classification, source=Questions(14), batch_size=5)),
    "answers": (partial(answering, "classifier"), partial(VQA, source=Questions(14), batch_size=5)),
    "decoder": (partial(answering, "decoder"), partial(VQA, source=Questions(14), batch_size=5)),
    "written": (partial(answering, "decoder"), partial(VQA, source=Questions(6), generate=True)),
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", EVALUATORS)
def test_a_gpu_gives_the_numbers_of_the_cpu(name):
    model, evaluator = EVALUATORS[name]
    here, there = (evaluator()(model().to(device)) for device in ("cpu", "cuda"))
    assert here.keys() == there.keys()
    for metric, value in here.items():
        assert there[metric] == pytest.approx(value, abs=1e-5), metric
