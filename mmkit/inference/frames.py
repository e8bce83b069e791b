"""Clips by a model that was trained on pictures: frame by frame, and the mean of the embeddings (CLIP4Clip)."""

from __future__ import annotations

from mmkit.data.video.opening import reads_clips
from mmkit.data.video.samplers import Sampler, sampler_named
from mmkit.data.video.transforms import ClipTransform
from mmkit.errors import UserError
from mmkit.inference.predictor import Predictor
from mmkit.models.frames import OverFrames


def over_frames(predictor: Predictor, how: str | Sampler) -> Predictor:
    """The predictor for clips, in place. how: which frames, a ``Sampler`` or its name with a number, "segments:12".

    It compares clips and texts in the joint space, and does nothing else; what is found without learning order is the
    same for shuffled frames. UserError for a model that reads clips already, or has no joint space.
    """
    if reads_clips(predictor.transform):
        raise UserError("--frames: this model reads clips, by the sampler that it was trained with; leave it out")
    sampler = how if isinstance(how, Sampler) else sampler_named(how)
    predictor.model, predictor.heads = OverFrames(predictor.model), {}
    predictor.transform = ClipTransform(frame=predictor.transform, sampler=sampler)
    return predictor
