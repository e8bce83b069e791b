"""Each probe's head against a plain one, written out."""

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from mmkit.data.images.transforms import EvalTransform
from mmkit.data.sources.class_folder import ClassFolder
from mmkit.data.video.samplers import Sampler
from mmkit.data.video.transforms import ClipTransform
from mmkit.evals.probe import linear
from mmkit.evals.probe.attentive import attentive
from mmkit.evals.probe.evaluate import Probe, apart
from mmkit.evals.probe.knn import knn
from mmkit.evals.probe.result import ProbeResult, Reading
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.video import video
from mmkit.models.sizes.vision import vision
from tests.evals.parts import alike
from tests.sizes import vision_tiny


def drawn(n, width=8, classes=3, seed=0, apart=1.0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=g)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    return centres[labels] * apart + torch.randn(n, width, generator=g), labels


def plain_knn(keys, labels, queries, classes, k):
    found = []
    for query in queries:
        cosine = [float(torch.cosine_similarity(key, query, dim=0)) for key in keys]
        nearest = sorted(range(len(keys)), key=lambda i: -cosine[i])[:k]
        votes = [0.0] * classes
        for i in nearest:
            votes[int(labels[i])] += math.exp(cosine[i] / 0.07)
        found.append(max(range(classes), key=lambda c: votes[c]))
    return torch.tensor(found)


@pytest.mark.parametrize("k", [1, 5, 30])
def test_neighbours_vote_as_in_a_plain_loop(k, monkeypatch):
    (keys, labels), (queries, _) = drawn(30), drawn(25, seed=1)
    scaled = keys * torch.rand(30, 1) * 9  # only directions count
    wanted = plain_knn(keys, labels, queries, 3, k)
    assert torch.equal(knn(scaled, labels, queries, 3, (k,))[k], wanted)
    monkeypatch.setattr("mmkit.evals.probe.knn.CHUNK", 7)  # chunked = whole
    together = knn(keys, labels, queries, 3, (1, 5, 30))
    assert list(together) == [1, 5, 30]
    assert torch.equal(together[k], wanted)


def test_no_more_neighbours_than_there_are():
    keys, labels = drawn(15)
    assert list(knn(keys, labels, keys, 3)) == [10, 15]
    assert len(set(plain_knn(keys, labels, keys, 3, 1).tolist()) - set(labels.tolist())) == 0


@pytest.mark.parametrize("n", [40, 600])
def test_heads_trained_at_once_are_those_trained_alone(n):
    """By torch's SGD with its cosine, one ``nn.Linear`` after another; of 600 pictures a step takes 256."""
    (x, labels), (test, _) = drawn(n), drawn(20, seed=2)
    rates, steps = (0.01, 0.3, 1.0), 7
    heads = linear.train(x, labels, 3, rates=rates, steps=steps, seed=4)
    begun = torch.empty(3, 8, 3).normal_(0.0, 0.01, generator=torch.Generator().manual_seed(4))
    batch = min(256, n)
    for i, rate in enumerate(rates):
        one = nn.Linear(8, 3)
        with torch.no_grad():
            one.weight.copy_(begun[i].T)
            one.bias.zero_()
        sgd = torch.optim.SGD(one.parameters(), lr=rate * batch / 256, momentum=0.9)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
        for rows in linear.order(n, steps, batch, seed=4):
            loss = nn.functional.cross_entropy(one(x[rows]), labels[rows])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            falling.step()
        torch.testing.assert_close(heads.weights[i], one.weight.T)
        torch.testing.assert_close(heads.biases[i], one.bias)
        assert torch.equal(heads(test)[i], one(test).argmax(1))


def test_each_picture_comes_once_before_any_comes_again():
    rows = linear.order(10, 7, 4, seed=0).flatten()
    assert sorted(rows[:10].tolist()) == sorted(rows[10:20].tolist()) == list(range(10))
    assert rows.tolist() == linear.order(10, 7, 4, seed=0).flatten().tolist() != linear.order(10, 7, 4, 1).tolist()


def test_standardised_features_are_batch_normalised():
    x = drawn(50)[0] * 7 + 3
    norm = nn.BatchNorm1d(8, affine=False, eps=1e-6, momentum=None).train()
    norm(x)
    scale = linear.Scale.of(x, standard=True)
    torch.testing.assert_close(scale(x), norm(x))
    assert torch.equal(linear.Scale.of(x, standard=False)(x), x)


def test_the_attentive_head_finds_what_one_token_says():
    """Which of the tokens says it differs from picture to picture, so that their mean says little."""
    g = torch.Generator().manual_seed(0)

    def pictures(n):
        labels = torch.randint(2, (n,), generator=g)
        x = torch.randn(n, 6, 16, generator=g)
        at = torch.randint(6, (n,), generator=g)
        x[torch.arange(n), at, 0] = 6.0
        x[torch.arange(n), at, 1] = 6.0 * (2 * labels - 1)
        return x, labels

    (x, labels), (test, wanted) = pictures(256), pictures(64)
    state = torch.get_rng_state()
    found = attentive(x, labels, test, 2, epochs=15)
    assert (found == wanted).float().mean() > 0.9
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found, attentive(x, labels, test, 2, epochs=15))


def test_a_share_of_each_class_is_held_out():
    labels = torch.tensor([0] * 10 + [1] * 4 + [2] * 25)
    kept, held = apart(labels, 3, seed=0)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(39))
    assert torch.bincount(labels[held], minlength=3).tolist() == [2, 0, 5]
    assert not torch.equal(held, apart(labels, 3, seed=1)[1])


def test_of_equal_rates_the_lower_loss_is_chosen():
    worse, better, best = (
        Reading(held_out=0.5, loss=2.0),
        Reading(held_out=0.5, loss=1.0),
        Reading(held_out=0.6, loss=9.0),
    )
    assert max([worse, better], key=Reading.order) is better
    assert max([better, best, worse], key=Reading.order) is best
    result = ProbeResult(
        classes=("a", "b"), labels=torch.tensor([0, 1]), trained_on=4, attentive=None,
        by={"linear": {"cls": (worse, torch.tensor([0, 0])), "mean": (better, torch.tensor([0, 1]))}},
    )  # fmt: skip
    assert result.best("linear")[0] == "mean"
    assert result.metrics()["linear.top1"] == 1.0


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_first_token_that_stands_for_nothing_is_no_class_token(pooling, tmp_path):
    """As the registers of towers of others, which are pooled by the mean."""
    model = vision_tiny()
    model.spec = replace(model.spec, pooling=pooling)
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.new("RGB", (32, 32), colour).save(tmp_path / name / f"{i}.png")
    predictor = Predictor(model, {}, None, EvalTransform(size=32), 0)
    probe = Probe(source=ClassFolder(tmp_path), steps=3, attentive=False)
    result = probe.evaluate(predictor)
    assert alike(probe, result.metrics()) == {"n", "classes", "trained_on", "chance"}
    assert alike(probe, {"attentive.top1": 1.0}) == {"attentive.top1"}
    assert set(result.by["knn"]) == ({"cls", "mean"} if pooling == "first" else {"mean"})


def test_a_probe_of_clips_counts_clips(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.new("RGB", (16, 16), (9 * i, 0, 99)).save(tmp_path / name / f"{i}.png")
    model = video(image_size=16, frames=2, tubelet=1, patch=8, depth=1, width=16, heads=2)
    transform = ClipTransform(frame=EvalTransform(size=16), sampler=Sampler(how="linear", frames=2))
    probe = Probe(source=ClassFolder(tmp_path), steps=1, attentive=False)
    for shows, words in ((transform, "clips"), (EvalTransform(size=16), "pictures")):
        tower = model if shows is transform else vision(image_size=16, patch=8, depth=1, width=16, heads=2)
        result = probe.evaluate(Predictor(tower, {}, None, shows, 0))
        assert result.table().title == f"probe: 2 {words} of 2 classes, trained on 14"
