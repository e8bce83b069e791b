"""One view for all frames of a clip, and batches of clips."""

from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from mmkit.config.allowed import TRANSFORM
from mmkit.config.as_json import dump, rebuild
from mmkit.data.clip import Clip
from mmkit.data.collate import of_pictures
from mmkit.data.images.transforms import Blank, BlankTrain, EvalTransform, TrainTransform, drawn, look
from mmkit.data.loader import PairDataset, still
from mmkit.data.records import Record
from mmkit.data.video.opening import open_clip, open_for
from mmkit.data.video.samplers import Sampler
from mmkit.data.video.transforms import ClipTrain, ClipTransform
from mmkit.errors import UserError


def noise(n: int = 4, seed: int = 0) -> Clip:
    """Frames of noise."""
    return Clip(np.random.default_rng(seed).integers(0, 256, (n, 20, 24, 3), np.uint8))


def test_every_frame_gets_the_view_of_the_first():
    """The same picture n times stays one; and it is what the picture's own transform makes with these draws."""
    image = Image.fromarray(noise(1).frames[0])
    clip = open_clip(Clip([image] * 4))
    given = {"size": 16, "erase": 1.0, "randaugment": (2, 9)}
    transform, plain = ClipTrain(sampler=Sampler(frames=4), **given), TrainTransform(**given)
    flipped = set()
    for seed in range(12):
        pixels, caption = look(transform, clip, "a dog moves to the left", Random(seed))
        alone, said = look(plain, image, "a dog moves to the left", Random(seed))
        assert tuple(pixels.shape) == (3, 4, 16, 16)
        for i in range(4):
            assert torch.equal(pixels.bytes[:, i], alone.bytes)
        assert pixels.erased == alone.erased != (0, 0, 0, 0)
        assert caption == said
        flipped.add("right" in caption)
    assert flipped == {True, False}


def test_frames_differ_by_the_sampler_and_follow_the_seed():
    transform = ClipTrain(size=20, scale=(1.0, 1.0), flip=0.0, randaugment=None, sampler=Sampler(frames=2))
    clip = open_clip(noise(8))
    one, again = (look(transform, clip, "", Random(3))[0].bytes for _ in range(2))
    assert torch.equal(one, again)
    assert len({look(transform, clip, "", Random(seed))[0].bytes.sum().item() for seed in range(20)}) > 4
    assert drawn(transform, clip, ("",), Random(3))[2].size == (20, 20)


def test_evaluation_sees_the_frames_of_the_sampler_as_pictures():
    transform = ClipTrain(size=16, sampler=Sampler(how="linear", frames=3), randaugment=None).for_eval()
    clip = open_clip(noise(5))
    pixels = transform(clip)
    for i, number in enumerate((0, 2, 4)):
        assert torch.equal(pixels[:, i], EvalTransform(size=16)(clip.take([number])[0]))
    assert transform.resized(8)(clip).shape == (3, 3, 8, 8)
    tested = ClipTrain(size=16, sampler=Sampler(how="headtail", frames=2)).for_eval()
    assert tested.sampler == Sampler(how="uniform", frames=2)
    with pytest.raises(UserError, match="2 frames are read in training"):
        ClipTrain(size=16, sampler=Sampler(frames=2), tested=Sampler(frames=3))


def test_a_batch_of_clips_is_erased_and_normalised_as_each():
    transform = ClipTrain(size=16, sampler=Sampler(frames=2), erase=1.0)
    pictures = [look(transform, open_clip(noise(3, seed)), "", Random(seed))[0] for seed in range(3)]
    batch = of_pictures(pictures)
    assert batch.pixels.dtype == torch.uint8
    assert torch.equal(batch.normalised().pixels, torch.stack([picture.normalised() for picture in pictures]))
    with pytest.raises(UserError, match="clips are of one size and number of frames"):
        of_pictures([pictures[0], pictures[1]._replace(bytes=pictures[1].bytes[:, :1])])


def test_blank_clips_and_questions_that_are_not_mirrored():
    transform = ClipTrain(size=16, sampler=Sampler(frames=2), flip=1.0, randaugment=None)
    assert still(transform).flip == 0.0
    record = Record(image=noise(), captions=("left",), image_id="1", key="1", targets={"question": "left"})
    for made, given in ((BlankTrain(transform), ("", Random(0))), (Blank(transform.for_eval()), ())):
        pixels = look(made, open_for(made, record), *given)
        pixels = pixels[0] if given else pixels
        assert (pixels.bytes == 128).all()
        assert tuple(pixels.shape) == (3, 2, 16, 16)
    dataset = PairDataset(source=(record,), transform=transform, tokenizer=None, max_tokens=0)
    assert torch.equal(dataset[0, 0].pixels.bytes[:, 0], dataset[0, 0].pixels.bytes[:, 0])


def test_the_sampler_is_stored_with_the_model():
    transform = ClipTransform(frame=EvalTransform(size=16), sampler=Sampler(how="linear", frames=3, rate=2.0))
    assert rebuild(dump(transform), TRANSFORM) == transform
