"""Pictures that keep their shape, and batches of them."""

import dataclasses
from random import Random

import pytest
import torch
from PIL import Image

from mmkit.data.collate import Collator, Sample
from mmkit.data.images.variable_size import KeepShape, KeepShapeTrain, fitted, stack_pixels
from mmkit.errors import UserError
from mmkit.heads.itm import ITM
from mmkit.inference.predictor import Predictor
from tests.evals.parts import tokenizer
from tests.examples import task
from tests.sizes import vilt_tiny


@pytest.mark.parametrize(("given", "made"), [
    ((640, 480), (512, 384)), ((480, 640), (384, 512)), ((500, 500), (384, 384)), ((2000, 500), (608, 160)),
    ((100, 75), (512, 384)), ((1333, 800), (608, 352)), ((3000, 10), (608, 32)),
])  # fmt: skip
def test_sizes_are_those_of_the_official_resize(given, made):
    assert fitted(*given, 384, 639, 32) == made


def test_the_transform_keeps_the_shape_and_scales_to_plus_minus_one():
    keep = KeepShape(size=64, multiple=16)
    assert keep.canvas == (96, 96)
    pixels = keep(Image.new("RGB", (200, 100), (255, 0, 0)))
    assert pixels.shape == (3, 48, 96)
    assert pixels[0].unique().item() == 1
    assert pixels[1].unique().item() == -1
    train = KeepShapeTrain(size=64, multiple=16, randaugment=(2, 7))
    assert train.for_eval() == keep
    pixels, caption = train(Image.new("RGB", (100, 200)), "left of it", Random(0))
    assert (pixels.shape, caption) == ((3, 96, 48), "left of it")
    with pytest.raises(UserError, match="shorter side"):
        KeepShape(size=(64, 48))


@pytest.mark.parametrize("kind", [KeepShape, KeepShapeTrain])
def test_sides_that_hold_no_picture_are_refused(kind):
    assert kind(size=32, longest=32).canvas == (32, 32)
    for options in ({"size": 64, "longest": 63}, {"size": 31}, {"size": 40, "multiple": 41}, {"size": (64, 64)}):
        with pytest.raises(UserError, match="at least a multiple and at most longest"):
            kind(**options)
    train = KeepShapeTrain(size=64, longest=70, multiple=8, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert vars(train.for_eval()).items() >= {k: v for k, v in vars(train).items() if k != "randaugment"}.items()


def test_training_augments_and_measuring_does_not():
    image = Image.effect_mandelbrot((80, 60), (-3, -2.5, 2, 2.5), 100).convert("RGB")
    keep = KeepShape(size=32)(image)
    assert torch.equal(KeepShapeTrain(size=32)(image, "", Random(0))[0], keep)
    train = KeepShapeTrain(size=32, randaugment=(2, 9))
    assert sum(not torch.equal(train(image, "", Random(seed))[0], keep) for seed in range(12)) > 4


def test_unequal_pictures_share_a_canvas():
    pictures = [torch.ones(3, 16, 32), torch.ones(3, 24, 8)]
    pixels, mask = stack_pixels(pictures)
    assert pixels.shape == (2, 3, 24, 32)
    assert torch.equal(pixels[:, 0].bool(), mask)
    assert mask.sum((1, 2)).tolist() == [16 * 32, 24 * 8]
    assert stack_pixels(pictures, (32, 48))[0].shape == (2, 3, 32, 48)
    assert stack_pixels([pictures[0]] * 2)[1] is None
    assert stack_pixels([pictures[0]] * 2, (32, 48))[1].shape == (2, 32, 48)
    with pytest.raises(UserError, match=r"unequal shapes \[\(3, 2, 8, 8\), \(3, 8, 8\)\] cannot share a batch"):
        stack_pixels([torch.ones(3, 8, 8), torch.ones(3, 2, 8, 8)])
    with pytest.raises(ValueError, match="canvas"):
        stack_pixels(pictures, (16, 32))


def sample(high, wide, number):
    return Sample(
        pixels=torch.randn(3, high, wide), ids=[2, 7, 9 + number], image_id=number, caption_id=number, key=str(number)
    )


def test_a_batch_of_unequal_pictures_trains_the_model_that_takes_them():
    batch = Collator(pad_id=0, max_tokens=8)([sample(16, 32, 0), sample(24, 8, 1), sample(32, 32, 2)])
    out = task(["itm_mixed"], model=vilt_tiny, momentum=None)(batch.to("cpu"), 0)
    out.loss.backward()
    assert out.loss.isfinite()
    padded = dataclasses.replace(
        batch, pixels=torch.nn.functional.pad(batch.pixels, (0, 8, 0, 16), value=3.0),
        pixel_mask=torch.nn.functional.pad(batch.pixel_mask, (0, 8, 0, 16)),
    )  # fmt: skip
    again = task(["itm_mixed"], model=vilt_tiny, momentum=None)(padded, 0)
    torch.testing.assert_close(again.loss, out.loss, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="one size"):
        task(["itm_mixed"])(batch, 0)


def test_a_predictor_reads_unequal_pictures_as_alone():
    words = tokenizer()
    torch.manual_seed(0)
    model = vilt_tiny(words.vocab_size)
    heads = {"itm": ITM(model.spec, negatives="mixed", pooler=True)}
    predictor = Predictor(model, heads, words, KeepShape(size=32, multiple=8), max_tokens=12)
    images = [Image.effect_noise(size, 60).convert("RGB") for size in ((40, 80), (64, 48), (32, 32))]
    texts = ["a red box", "a blue square", "a green tile of many"]
    together = predictor.match(images, texts)
    alone = torch.cat([predictor.match([image], [text]) for image, text in zip(images, texts, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
