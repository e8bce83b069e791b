"""Two processes give the loss and the gradients of one with the joined batch, and three the metrics of one."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.distributed as dist

from mmkit.data.images.transforms import EvalTransform
from mmkit.data.openmoji.pairs import Pairs
from mmkit.data.texts.pieces import SentencePieceTokenizer
from mmkit.evals.classification import Classification
from mmkit.inference.predictor import Predictor
from mmkit.task import Task
from projects.nlvr2.data import PairTargets
from projects.nlvr2.head import PairClassify, TextAssignment
from projects.nlvr2.test_nlvr2 import pair_model, with_second
from tests.examples import VOCAB
from tests.several import on_processes

SAMPLES = 6
SOURCE = Pairs(split="test", n=11, kinds=40, size=32, plain=True, sentences=("both", "count"), people=0.0)


def learn(rows):
    model = pair_model()
    heads = {"label": PairClassify(model.spec), "assignment": TextAssignment(model.spec)}
    task = Task(model, heads, momentum=0.9, alpha=0.4)
    whole = with_second(SAMPLES)
    names = ("pixels", "ids", "mask", "image_id", "caption_id")
    part = {name: getattr(whole, name)[rows] for name in names}
    targets = {name: value[rows] for name, value in whole.targets.items()}
    loss = task(replace(whole, **part, targets=targets, masked=None), 0).loss
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in task.named_parameters() if p.grad is not None}


def measure():
    model, words = pair_model(), SentencePieceTokenizer.train(SOURCE.captions(), vocab_size=VOCAB)
    with torch.no_grad():  # larger weights, so that predictions differ between samples
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.ndim > 1 else None
    predictor = Predictor(model, {"label": PairClassify(model.spec)}, words, EvalTransform(size=32), max_tokens=16)
    return Classification(source=SOURCE, targets=partial(PairTargets), batch_size=2)(predictor)


def work(rank, world, folder):
    share = SAMPLES // world
    found = learn(slice(rank * share, (rank + 1) * share))
    for value in found.values():
        dist.all_reduce(value)
        value /= world
    torch.save({"learned": found, "measured": measure()}, folder / f"{rank}.pt")


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_are_as_one(world, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    learned, measured = learn(slice(None)), measure()
    torch.set_num_threads(threads)
    on_processes(world, work, tmp_path)
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["measured"] == measured
        assert found["learned"].keys() == learned.keys()
        for name, value in learned.items():
            torch.testing.assert_close(
                found["learned"][name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
