"""How many training pictures one core makes ready in a second, measured here within one: time of this process alone.

Of a run on clips: how many clips, whose frames are JPEGs; to decode a video takes longer, by how much its codec says.
"""

from __future__ import annotations

import time

from mmkit.config import Experiment
from mmkit.data.clip import Clip
from mmkit.data.images.size import height_width
from mmkit.data.loader import PairDataset
from mmkit.data.records import Record
from mmkit.data.targets import RawTargets
from mmkit.train.needs.invented import photograph, transform_of, with_pictures
from mmkit.train.needs.samples import sampler_of

SECONDS = 1.0


def pictures_a_second(exp: Experiment, seconds: float = SECONDS) -> float:
    """From the bytes of a JPEG, a third larger than the model's pictures on each side, to what the loader sends.

    Of a run on clips from as many of them as the model reads of one, and of a run whose targets hold further pictures
    with those.
    """
    height, width = (round(side * 4 / 3) for side in height_width(exp.data.image_size))
    frame, sampler = photograph(height, width), sampler_of(exp)
    image = frame if sampler is None else Clip([frame] * sampler.frames, rate=sampler.rate)
    targets, said = with_pictures(exp, frame) or (RawTargets(), {})
    record = Record(image=image, captions=("a picture",), image_id="0", key="the plan's picture", targets=said)
    dataset = PairDataset(
        source=(record,), transform=transform_of(exp), tokenizer=None, max_tokens=0, targets=targets
    )  # fmt: skip
    start, done = time.process_time(), 0
    while time.process_time() - start < seconds or done < 2:
        dataset[done, 0]
        done += 1
    return done / (time.process_time() - start)
