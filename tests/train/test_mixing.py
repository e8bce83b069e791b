"""Mixup, CutMix and erasing: pixels by their shares, the same draws on any number of processes, and what is refused."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from mmkit.config import dump, load_experiment, override, rebuild
from mmkit.errors import UserError
from mmkit.heads.image_classify import ImageClassify
from mmkit.heads.itc import ITC
from mmkit.hub import folder as hub
from mmkit.task import Task
from mmkit.train.loop import train
from mmkit.train.mixing import Mixing
from mmkit.types import Batch
from tests.examples import VOCAB, batch
from tests.sizes import albef_tiny, vision_tiny

NAMES = ("a", "b", "c", "d")
HEADS = {"class": ImageClassify(vision_tiny().spec, NAMES)}


def pictures(size=5, side=32):
    pixels = torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(0))
    return Batch(pixels=pixels, image_id=torch.arange(size), targets={"label": torch.arange(size) % 4})


def changed(mixing, b=None, seed=1, step=2, before=0):
    return mixing.for_heads(HEADS)(b or pictures(), seed, step, before)


def hot(b):
    return torch.nn.functional.one_hot(b.targets["label"], 4).float()


def test_mixup_is_a_weighted_mean_with_the_neighbour():
    b, out = pictures(), changed(Mixing(mixup=0.8))
    share = out.targets["label"][1, 1]
    assert 0 < share < 1
    torch.testing.assert_close(out.targets["label"], share * hot(b) + (1 - share) * hot(b).roll(1, 0))
    torch.testing.assert_close(out.pixels, share * b.pixels + (1 - share) * b.pixels.roll(1, 0))


def test_cutmix_takes_a_rectangle_of_the_neighbour():
    b, out = pictures(), changed(Mixing(cutmix=1.0))
    own = (out.pixels == b.pixels).all(1)
    other = (out.pixels == b.pixels.roll(1, 0)).all(1)
    assert (own ^ other).all()
    share = own[0].float().mean()
    assert 0 < share < 1
    torch.testing.assert_close(out.targets["label"], share * hot(b) + (1 - share) * hot(b).roll(1, 0))
    rows, columns = other[0].any(1), other[0].any(0)
    assert torch.equal(other[0], rows[:, None] & columns)


def test_one_of_both_for_a_batch_as_often_as_told():
    kinds = []
    for step in range(60):
        out = changed(Mixing(mixup=1.0, cutmix=1.0, switch=0.25, probability=0.8), step=step)
        if torch.equal(out.pixels, pictures().pixels) and torch.equal(out.targets["label"], hot(pictures())):
            kinds.append("none")
        else:
            kinds.append("cut" if (out.pixels == pictures().pixels).all(1).any() else "mix")
    assert 4 <= kinds.count("none") <= 22
    assert 4 <= kinds.count("cut") <= 22
    assert kinds.count("mix") > kinds.count("cut")
    assert "mix" not in {"cut" if (changed(Mixing(mixup=1.0, cutmix=1.0, switch=1.0), step=s).pixels
                                   == pictures().pixels).all(1).any() else "mix" for s in range(8)}  # fmt: skip


def test_erasing_puts_noise_into_rectangles_of_some():
    b = pictures(40)
    out = changed(Mixing(erase=0.5), b)
    touched = (out.pixels != b.pixels).any(1)
    erased = touched.flatten(1).any(1)
    assert 10 <= erased.sum() <= 30
    assert torch.equal(out.targets["label"], b.targets["label"])
    for place in touched[erased]:
        assert torch.equal(place, place.any(1)[:, None] & place.any(0))
        assert 0.01 < place.float().mean() < 0.4
    noise = out.pixels.transpose(0, 1)[:, touched]
    assert noise.std() > 0.8
    assert not torch.equal(noise[0], noise[1])


def test_draws_follow_from_seed_and_step_and_disturb_nothing():
    both = Mixing(mixup=0.8, erase=0.5)
    state = torch.get_rng_state()
    first = changed(both)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.pixels, changed(both).pixels)
    assert not torch.equal(first.pixels, changed(both, step=3).pixels)
    assert not torch.equal(first.pixels, changed(both, seed=9).pixels)
    whole, b = changed(Mixing(erase=0.5), pictures(8)), pictures(8)
    parts = [
        changed(Mixing(erase=0.5), Batch(pixels=b.pixels[i : i + 4], image_id=b.image_id[i : i + 4],
                                         targets={"label": b.targets["label"][i : i + 4]}), before=i).pixels
        for i in (0, 4)
    ]  # fmt: skip
    assert torch.equal(torch.cat(parts), whole.pixels)


def test_the_loss_is_that_of_the_shares_in_training_alone():
    torch.manual_seed(0)
    model = vision_tiny()
    head = ImageClassify(model.spec, NAMES, smoothing=0.1)
    task = Task(model, {"class": head}, momentum=0.9, alpha=0.0, seed=1, change=Mixing(mixup=0.8).for_heads(HEADS))
    b, out = pictures(), changed(Mixing(mixup=0.8))
    logits = head.out(model.encode_image(out.pixels).x[:, 0])
    shares = 0.9 * out.targets["label"] + 0.1 / 4
    found = task.train()(b, 2)
    torch.testing.assert_close(found.loss, -(shares * logits.log_softmax(1)).sum(1).mean())
    right = (logits.argmax(1) == out.targets["label"].argmax(1)).float().mean()
    torch.testing.assert_close(found.logs["class/accuracy"], right)
    f = task.features(b, 2)
    assert torch.equal(f.teacher.batch.pixels, f.batch.pixels)
    assert torch.equal(task.eval().features(b, 2).batch.pixels, b.pixels)


def test_what_cannot_be_mixed_is_refused():
    spec = albef_tiny(VOCAB).spec
    with pytest.raises(UserError, match="itc: reads words, and captions cannot be mixed"):
        Mixing(mixup=0.2).for_heads({**HEADS, "itc": ITC(spec, queue_size=0)})
    with pytest.raises(UserError, match="0 heads learn from shares"):
        Mixing(cutmix=0.2).for_heads({})
    with pytest.raises(UserError, match="2 heads learn from shares"):
        Mixing(cutmix=0.2).for_heads({**HEADS, "b": HEADS["class"]})
    Mixing(erase=0.2).for_heads({"itc": ITC(spec, queue_size=0)})(batch(2), 0, 0, 0)
    for wrong in ({"mixup": -1.0}, {"switch": 1.1}, {"probability": -0.1}, {"erase": 2.0}, {"cutmix": -1.0}):
        with pytest.raises(UserError, match="mixing: "):
            Mixing(**wrong)
    b = pictures()
    with pytest.raises(UserError, match="unequal size"):
        changed(Mixing(erase=0.5), replace(b, pixel_mask=torch.ones(5, 32, 32, dtype=torch.bool)))
    with pytest.raises(UserError, match="clips"):
        changed(Mixing(mixup=0.5), replace(b, pixels=b.pixels[:, :, None]))


def test_a_run_mixes_and_another_tunes_its_tower(tmp_path):
    """By the configs, with layer-wise decay; the run's JSON holds both."""
    small = ["data.global_batch=4", "run.steps=2", "run.save_every_steps=0", "run.trackers=[]", "data.workers=0"]
    spec = "configs/pretrain/classify.py:openmoji(kinds=3, size=36, mixup=0.8, cutmix=1.0)"
    exp = override(load_experiment(spec), [*small, "evals={}"])
    assert dump(rebuild(dump(exp))) == dump(exp)
    assert train(exp, tmp_path / "run", save_model=hub.save)["step"] == 2
    for name in "ab":
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (40, 40), (40 * i, 0, 0)).save(tmp_path / "pictures" / name / f"{i}.png")
    where = tmp_path / "pictures"
    given = f"train='{where}', test='{where}', start='{tmp_path}/run', depth=4, res=36"
    spec = f"configs/pretrain/classify.py:fine_tune({given})"
    exp = override(load_experiment(spec), [*small, "run.epochs=null", "optim.warmup_epochs=null"])
    assert exp.model.keywords["drop_path"] == 0.1
    assert dump(rebuild(dump(exp))) == dump(exp)
    assert train(exp, tmp_path / "tuned")["step"] == 2
    with pytest.raises(UserError, match="captions cannot be mixed"):
        Task(albef_tiny(VOCAB), {}, change=exp.data.mixing().for_heads({"itc": ITC(albef_tiny(VOCAB).spec, 0)}))
