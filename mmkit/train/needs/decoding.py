"""How many training pictures one core makes ready in a second, measured here within one: time of this process alone.

Of a run on clips: how many clips, whose frames are JPEGs; to decode a video takes longer, by how much its codec says.
"""

from __future__ import annotations

import io
import time
from functools import partial

import numpy as np
from PIL import Image

from mmkit.config import Experiment
from mmkit.data.clip import Clip
from mmkit.data.images.size import height_width
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.loader import PairDataset
from mmkit.data.records import Record
from mmkit.train.needs.samples import sampler_of

SECONDS = 1.0


def photograph(height: int, width: int) -> bytes:
    """A JPEG with edges and shades as a photograph has them: about 0.4 bytes a pixel."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), np.uint8)
    grown = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = np.clip(grown + draw.integers(-12, 13, (height, width, 1)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=85)
    return file.getvalue()


def pictures_a_second(exp: Experiment, seconds: float = SECONDS) -> float:
    """From the bytes of a JPEG, a third larger than the model's pictures on each side, to what the loader sends.

    Of a run on clips from as many of them as the model reads of one.
    """
    height, width = (round(side * 4 / 3) for side in height_width(exp.data.image_size))
    frame, sampler = photograph(height, width), sampler_of(exp)
    image = frame if sampler is None else Clip([frame] * sampler.frames, rate=sampler.rate)
    record = Record(image=image, captions=("a picture",), image_id="0", key="the plan's picture")
    transform = (exp.data.transform or partial(TrainTransform))(size=exp.data.image_size)
    dataset = PairDataset(source=(record,), transform=transform, tokenizer=None, max_tokens=0)
    start, done = time.process_time(), 0
    while time.process_time() - start < seconds or done < 2:
        dataset[done, 0]
        done += 1
    return done / (time.process_time() - start)
