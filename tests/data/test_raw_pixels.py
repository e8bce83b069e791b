"""Pictures travel as bytes and are normalised once, on the device: to the bit what a transform's own call gives."""

import pickle
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from mmkit.data.collate import Collator, Sample, of_pictures
from mmkit.data.images.centre_crop import CentreCrop
from mmkit.data.images.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Blank,
    BlankTrain,
    EvalTransform,
    TrainTransform,
    look,
)  # fmt: skip
from mmkit.data.images.variable_size import KeepShape, KeepShapeTrain, stack_pixels
from mmkit.data.loader import PairDataset, StepSampler, make_loader
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.show.batch import grid, to_image
from mmkit.evals.metrics import Evaluation
from mmkit.features import Features
from mmkit.types import Normalise, RawPixels
from tests.evals.parts import Pictures, predictor
from tests.examples import batch as texts
from tests.examples import task
from tests.sizes import albef_tiny, vilt_tiny

EVAL = {
    "squashed": EvalTransform(size=(20, 28)),
    "another factor": EvalTransform(size=24, mean=(3.0, 4.0, 5.0), std=(2.0, 0.3, 7.0), factor=1 / 31),
    "cropped": CentreCrop(size=24, to=28, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "with a border": CentreCrop(size=32, fit="none", fill=(9, 8, 7)),
    "its shape": KeepShape(size=24, multiple=8),
    "grey": Blank(EvalTransform(size=16)),
}
TRAIN = {
    "plain": TrainTransform(size=24),
    "erased": TrainTransform(size=(24, 40), erase=0.6, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "its shape": KeepShapeTrain(size=24, multiple=8, randaugment=(2, 7)),
    "grey": BlankTrain(TrainTransform(size=16, erase=0.5)),
}


@pytest.fixture(scope="module")
def images():
    rng, sizes = np.random.default_rng(0), ((40, 60), (64, 30), (33, 33))
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def bits(x):
    """What tells 0 from -0 too."""
    assert x.dtype == torch.float32
    return x.contiguous().view(torch.int32)


def by_hand(raw):
    """As it was before pictures travelled as bytes: NumPy, one picture at a time, on the CPU."""
    pixels = raw.bytes.numpy().astype(np.float32)
    full = np.float32(1 / raw.normalise.factor)
    pixels -= (full * np.array(raw.normalise.mean, np.float32))[:, None, None]
    pixels /= (full * np.array(raw.normalise.std, np.float32))[:, None, None]
    left, top, right, bottom = raw.erased
    pixels[:, top:bottom, left:right] = 0
    return torch.from_numpy(pixels)


def check(raws, called, canvas=None):
    """The batch of these holds bytes, and on the device the floats of ``called``, with 0 beside them."""
    batch = Collator(canvas=canvas)([Sample(pixels=raw, image_id=0, key="") for raw in raws])
    floats, mask = stack_pixels(called, canvas)
    assert batch.pixels.dtype == torch.uint8
    assert 4 * batch.pixels.nbytes == floats.nbytes
    sent = pickle.loads(pickle.dumps(batch)).to("cpu")
    assert torch.equal(bits(sent.pixels), bits(floats))
    assert sent.normalise is sent.erased is None
    assert sent.pixel_mask is mask is None or torch.equal(sent.pixel_mask, mask)
    assert torch.equal(bits(sent.to("cpu").pixels), bits(floats))  # once, however often it is moved
    for raw, picture in zip(raws, called, strict=True):
        assert raw.shape == picture.shape
        assert torch.equal(bits(by_hand(raw)), bits(picture))
    return batch


@pytest.mark.parametrize("name", EVAL)
def test_a_batch_for_evaluation_becomes_what_the_transform_gives(name, images):
    transform = EVAL[name]
    raws, called = [look(transform, image) for image in images], [transform(image) for image in images]
    batch = check(raws, called)
    assert (batch.pixel_mask is None) == (name != "its shape")
    assert batch.erased is None


@pytest.mark.parametrize("name", TRAIN)
def test_a_batch_for_training_becomes_what_the_transform_gives(name, images):
    transform, made, called = TRAIN[name], [], []
    for seed, image in enumerate(images * 4):
        one, other = Random(seed), Random(seed)
        made.append(look(transform, image, "on the left", one))
        called.append(transform(image, "on the left", other))
        assert one.random() == other.random()
    assert [caption for _, caption in made] == [caption for _, caption in called]
    raws, floats = ([pixels for pixels, _ in found] for found in (made, called))
    batch = check(raws, floats, (40, 40) if name == "its shape" else None)
    erased = [any(raw.erased) for raw in raws]
    assert (batch.erased is not None) == any(erased) == (name in ("erased", "grey"))
    if any(erased):
        assert not all(erased)
        assert [(picture == 0).any().item() for picture in floats] == erased


def test_the_loader_gives_bytes_and_every_model_sees_the_floats_once():
    transform = TrainTransform(size=32, erase=0.7)
    data = PairDataset(source=Scenes(n=12, size=48), transform=transform, tokenizer=None, max_tokens=0, seed=3)
    [batch] = make_loader(data, StepSampler(12, rank_batch=6, steps=1, seed=3), workers=1)
    assert (batch.pixels.dtype, batch.pixels.nbytes) == (torch.uint8, 6 * 3 * 32 * 32)
    called = PairDataset(
        source=data.source, transform=lambda *given: transform(*given), tokenizer=None, max_tokens=0, seed=3
    )
    [floats] = make_loader(called, StepSampler(12, rank_batch=6, steps=1, seed=3))
    assert batch.keys == floats.keys
    assert torch.equal(bits(batch.to("cpu").pixels), bits(floats.pixels))
    assert floats.to("cpu").pixels is floats.pixels
    trained = task(["image"], momentum=0.9)
    f = trained.features(batch.to("cpu"), 0)
    assert f.batch.pixels is f.teacher.batch.pixels
    assert torch.equal(bits(Features(trained.model, batch).batch.pixels), bits(floats.pixels))  # one that was not moved
    shown = grid(batch, None), grid(floats, None)
    assert shown[0].tobytes() == shown[1].tobytes()


@pytest.mark.parametrize("heads", [["image"], ["itc", "itm"], ["image", "mlm"]])
def test_a_step_that_counts_first_reads_bytes_too(heads, images):
    raw = of_pictures([look(EvalTransform(size=32), image) for image in images])
    both = replace(texts(3), pixels=raw.pixels, normalise=raw.normalise)
    t = task(heads, momentum=None).eval()
    found, wanted = (t.count([b], 0, torch.device("cpu")).totals for b in (both, both.to("cpu")))
    assert found == wanted
    assert torch.equal(t(both, 0).loss, t(both.to("cpu"), 0).loss)


def test_pixels_that_someone_made_float_are_left_as_they_are(images):
    batch = of_pictures([look(EvalTransform(size=8), image) for image in images])
    own = torch.randn(3, 3, 8, 8)
    assert replace(batch, pixels=own).to("cpu").pixels is own


def test_frames_are_normalised_as_pictures():
    frames = torch.randint(256, (2, 3, 5, 8, 6), dtype=torch.uint8)
    normalise = Normalise(mean=IMAGENET_MEAN, std=IMAGENET_STD, factor=1 / 255)
    each = torch.stack([normalise(frame) for frame in frames.unbind(2)], 2)
    assert torch.equal(bits(normalise(frames)), bits(each))


@dataclass(frozen=True, kw_only=True)
class Halved(CentreCrop):
    """One of the user's own that changes the call."""

    def __call__(self, image):
        return super().__call__(image) / 2


class Bytes(EvalTransform):
    """One of the user's own that changes the bytes, and with them the call."""

    def raw_pixels(self, image):
        raw = super().raw_pixels(image)
        return raw._replace(bytes=255 - raw.bytes)


class Alone:
    """One that knows nothing of bytes."""

    def __call__(self, image):
        return torch.full((3, 4, 4), 0.5)


def test_the_users_own_transforms_are_asked_for_what_they_change(images):
    image = images[0]
    halved = look(Halved(size=16), image)
    assert torch.equal(halved, CentreCrop(size=16)(image) / 2)
    assert torch.equal(look(Blank(Halved(size=16)), image), Blank(Halved(size=16))(image))
    turned = look(Bytes(size=16), image)
    assert torch.equal(turned.bytes, 255 - look(EvalTransform(size=16), image).bytes)
    assert torch.equal(turned.normalised(), Bytes(size=16)(image))
    assert torch.equal(look(Alone(), image), torch.full((3, 4, 4), 0.5))
    assert torch.equal(look(lambda image: torch.ones(3, 2, 2), image), torch.ones(3, 2, 2))
    assert isinstance(look(EvalTransform(size=16), image), RawPixels)


def test_pictures_of_several_kinds_share_a_batch_as_floats(images):
    one, other = EvalTransform(size=16), EvalTransform(size=16, mean=IMAGENET_MEAN)
    for pictures in ([look(one, images[0]), look(other, images[1])], [other(images[0]), look(one, images[1])]):
        batch = of_pictures(pictures)
        assert batch.normalise is batch.erased is None
        floats = [p.normalised() if isinstance(p, RawPixels) else p for p in pictures]
        assert torch.equal(bits(batch.to("cpu").pixels), bits(torch.stack(floats)))


@pytest.mark.parametrize(
    ("model", "transform"),
    [(albef_tiny, CentreCrop(size=32, to=36)), (vilt_tiny, KeepShape(size=32, multiple=8))],
)
def test_a_model_in_use_sees_the_same(model, transform, images, monkeypatch):
    made = predictor(heads=("mixed",), model=model)
    seen, encode = [], made.model.encode_image
    monkeypatch.setattr(made.model, "encode_image", lambda *given: seen.append(given) or encode(*given))
    made.transform = transform
    bytes_, tokens = made.pixels(images[0]), list(made.image_tokens(images))
    made.transform = partial(type(transform).__call__, transform)
    floats, other = made.pixels(images[0]), list(made.image_tokens(images))
    assert (bytes_.bytes.dtype, floats.dtype) == (torch.uint8, torch.float32)
    assert torch.equal(tokens[0].x, other[0].x)
    for one, two in zip(*seen, strict=True):
        assert torch.equal(one, two)
    assert seen[0][0].dtype == torch.float32


def test_an_evaluation_sees_the_same(monkeypatch):
    made, seen = predictor(), []
    to = torch.Tensor.to
    for transform in (made.transform, lambda image: EvalTransform(size=32)(image)):
        made.transform = transform
        moved = []
        monkeypatch.setattr(torch.Tensor, "to", lambda x, *a, moved=moved, **k: moved.append(x) or to(x, *a, **k))
        monkeypatch.setattr(made, "heads", {"label": Says(seen)})
        Evaluation(source=Pictures(5), head="label", metrics={}, batch_size=5)(made)
        [pixels] = [x for x in moved if x.ndim == 4]
        assert pixels.dtype == (torch.uint8 if isinstance(transform, EvalTransform) else torch.float32)
    assert torch.equal(bits(seen[0]), bits(seen[1]))


class Says(torch.nn.Module):
    """A head that keeps what it was shown."""

    reads = ("image",)

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def predict(self, f):
        self.seen.append(f.batch.pixels)
        return torch.zeros(len(f.batch), 2)


def test_the_mean_colour_is_shown_where_a_picture_was_erased(images):
    raw = look(TRAIN["erased"], images[0], "", Random(1))[0]._replace(erased=(2, 3, 9, 7))
    shown = np.asarray(to_image(raw.normalised(), IMAGENET_MEAN, IMAGENET_STD))
    assert (shown[3:7, 2:9] == [round(255 * value) for value in IMAGENET_MEAN]).all()
    rest = np.ones(shown.shape[:2], bool)
    rest[3:7, 2:9] = False
    assert np.array_equal(shown[rest], raw.bytes.numpy().transpose(1, 2, 0)[rest])
