"""One, two and three processes give the same metrics, and one that fails does not leave the others waiting."""

import json
import logging
from functools import partial

import pytest
import torch

from mmkit.errors import UserError
from mmkit.evals.classification import Classification
from mmkit.evals.evaluator import joined, own_units
from mmkit.evals.image_classes import ImageClasses
from mmkit.evals.metrics import Evaluation
from mmkit.evals.retrieval import Retrieval
from mmkit.evals.vqa import VQA
from mmkit.evals.zeroshot import ZeroShot
from mmkit.ranks import world_size
from tests.evals.parts import Pictures, predictor
from tests.evals.test_image_classes import sorting
from tests.evals.test_metrics import Order, Right
from tests.evals.test_vqa import Questions
from tests.evals.test_vqa import predictor as answering
from tests.several import on_processes
from tests.sizes import vilt_tiny


class Gathering(Order):
    """As a metric of torchmetrics: where it is not told otherwise, it would gather what all have already."""

    sync_on_compute = True

    def compute(self):
        assert not (self.sync_on_compute and world_size() > 1)
        return super().compute()


class Said(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


METRICS = {"right": Right(), "order": Gathering()}


def evaluate():
    source, model = Pictures(17), predictor(1)
    retrieval = Retrieval(source=source, rerank_top=4, batch_size=3, chunk=5, pair_batch=6)(model)
    zeroshot = ZeroShot(source=source, templates=("a {} box", "{}"), rerank_top=3, batch_size=3)(model)
    few = Retrieval(source=Pictures(2), rerank_top=2, batch_size=8)(model)  # fewer units than processes
    one_stream = predictor(heads=("mixed",), model=vilt_tiny)  # without a joint space: every pair is judged
    decoder = answering("decoder")
    found = {
        "retrieval": retrieval, "zeroshot": zeroshot, "few": few,
        "answers": VQA(source=Questions(17), batch_size=3)(decoder),
        "written": VQA(source=Questions(7), batch_size=2, generate=True)(decoder),
        "sorted": VQA(source=Questions(17), batch_size=3)(answering("classifier")),
        "classes": Classification(source=Questions(11), batch_size=4)(answering("classes")),
        "metrics": Evaluation(source=Questions(11), head="label", batch_size=2, metrics=METRICS)(answering("classes")),
        "some": Classification(source=Questions(11, broken=2), bad=0.2, batch_size=2)(answering("classes")),
        "some pictures": Retrieval(source=Pictures(11, broken=7), bad=0.2, batch_size=2, rerank_top=3)(model),
        "pictures": ImageClasses(source=Pictures(11, broken=7), bad=0.2, batch_size=2)(sorting()),
        "every pair": Retrieval(source=Pictures(7), batch_size=2, pair_batch=5)(one_stream),
        "every class": ZeroShot(source=Pictures(7), batch_size=2)(one_stream),
    }  # fmt: skip
    return found


def predict(folder):
    """Every evaluator's file; which process made what must not be seen."""
    pictures, questions = Pictures(11), Questions(11)
    makers = {
        "r": (partial(Retrieval, source=pictures, rerank_top=3, chunk=4), predictor(1)),
        "z": (partial(ZeroShot, source=pictures, rerank_top=3), predictor(1)),
        "v": (partial(VQA, source=questions, generate=True), answering("decoder")),
        "c": (partial(Classification, source=questions), answering("classes")),
    }
    for name, (make, model) in makers.items():
        make(batch_size=2, predictions=folder / f"{name}.json")(model)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in makers}


def work(rank, world, folder):
    warned = logging.getLogger("mmkit.evals.evaluator")
    warned.addHandler(said := Said())
    found = evaluate()
    warned.removeHandler(said)
    assert bool(said.lines) == (rank == 0)  # what was left out is said by one process
    files = predict(folder / "many")
    try:
        Retrieval(source=Pictures(9, broken=8), batch_size=4)(predictor())
        message = "no error"
    except UserError as error:
        message = str(error)
    repeated = "no error"
    try:
        joined([(0, (torch.zeros(2),))], 2 * world)
    except RuntimeError as error:
        repeated = str(error)
    (folder / f"{rank}.json").write_text(json.dumps([found, message, repeated, files]))


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_gives_the_same_metrics(world, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wanted, files = evaluate(), predict(tmp_path / "one")
    torch.set_num_threads(threads)
    on_processes(world, work, tmp_path)
    for rank in range(world):
        found, message, repeated, same = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == wanted  # to the last bit
        assert same == files
        assert "picture 8: not a picture" in message
        assert "lost or repeated" in repeated


def test_units_cover_everything_once(monkeypatch):
    for world in (1, 2, 3, 5):
        seen = []
        for rank in range(world):
            monkeypatch.setattr("mmkit.evals.evaluator.rank", lambda rank=rank: rank)
            monkeypatch.setattr("mmkit.evals.evaluator.world_size", lambda world=world: world)
            seen += [i for _, items in own_units(17, 4) for i in items]
        assert sorted(seen) == list(range(17))


def test_lost_items_are_an_error():
    with pytest.raises(RuntimeError, match="2 results for 3 items"):
        joined([(0, (torch.zeros(1),)), (2, (torch.zeros(1),))], 3)
    with pytest.raises(RuntimeError, match="3 results for 3 items"):
        joined([(0, (torch.zeros(1),)), (1, (torch.zeros(1),)), (1, (torch.zeros(1),))], 3)


def test_units_are_joined_in_their_order():
    first, second = torch.arange(2), torch.tensor([[5.0]])
    found = joined([(3, (second[0].long(), second)), (1, (first, torch.zeros(2, 1)))], 3)
    assert [part.tolist() for part in found] == [[0, 1, 5], [[0.0], [0.0], [5.0]]]
