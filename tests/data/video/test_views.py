"""Several views of a clip in a test: which frames, which crops, and what becomes of their answers."""

import numpy as np
import pytest
import torch

from mmkit.data.clip import Clip
from mmkit.data.collate import Sample
from mmkit.data.images.centre_crop import CentreCrop
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.records import Record
from mmkit.data.video.opening import open_clip
from mmkit.data.video.samplers import Sampler, Views, views_named
from mmkit.data.video.transforms import ClipTransform
from mmkit.data.video.views import check_views, views_of
from mmkit.errors import UserError
from mmkit.evals.image_classes import ImageClasses
from mmkit.heads.image_classify import ImageClassify
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.video import video


def test_clips_are_spread_from_the_start_to_the_end():
    stride = Sampler(how="stride", frames=3, stride=2)
    assert [stride.fixed(11, None, (i, 4))[0] for i in range(4)] == [0, 2, 4, 6]
    assert stride.fixed(11, None, (3, 4)) == [6, 8, 10]
    assert stride.fixed(11, None, (0, 1)) == stride.fixed(11) == [3, 5, 7]
    parts = Sampler(how="segments", frames=2)
    assert [parts.fixed(8, None, (i, 2)) for i in range(2)] == [[1, 5], [3, 7]]
    assert parts.fixed(8, None, (0, 1)) == parts.fixed(8) == [2, 6]
    rated = Sampler(how="stride", frames=2, rate=1.0)
    assert [rated.fixed(90, 30.0, (i, 2)) for i in range(2)] == [[0, 30], [30, 60]]


def wide(count=4):
    """Frames of 12 x 6: the number of the frame in red, the column in green."""
    array = np.zeros((count, 6, 12, 3), np.uint8)
    array[..., 0] = np.arange(count)[:, None, None]
    array[..., 1] = 20 * np.arange(12)
    return array


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("frame", [
    EvalTransform(size=6, resample="bilinear"), CentreCrop(size=6, resample="bilinear"),
    CentreCrop(size=4, window=4, to=6, resample="bilinear"),
])  # fmt: skip
def test_crops_stand_along_the_longer_side(frame, turned):
    side = frame.size
    array = wide().transpose(0, 2, 1, 3) if turned else wide()
    transform = ClipTransform(frame=frame, sampler=Sampler(how="segments", frames=2))
    found = views_of(Views(clips=2, crops=3), transform, open_clip(Clip(np.ascontiguousarray(array))))
    assert len(found) == 6
    seen = [pixels.bytes.numpy() for pixels in found]
    assert [one[0, :, 0, 0].tolist() for one in seen[::3]] == [[0, 2], [1, 3]]
    assert [one.shape for one in seen] == [(3, 2, side, side)] * 6
    columns = [(one[1, 0, :, 0] if turned else one[1, 0, 0]) // 20 for one in seen[:3]]
    assert [line.tolist() for line in columns] == [
        list(range(at, at + side)) for at in (0, (12 - side) // 2, 12 - side)
    ]


def test_crops_of_a_square_stand_side_by_side():
    frame = CentreCrop(size=2, window=2, to=6, resample="bilinear")
    transform = ClipTransform(frame=frame, sampler=Sampler(how="segments", frames=2))
    found = views_of(Views(clips=1, crops=3), transform, open_clip(Clip(np.ascontiguousarray(wide()[:, :, :6]))))
    columns = [one.bytes.numpy()[1, 0, 0] // 20 for one in found]
    assert [line.tolist() for line in columns] == [[0, 1], [2, 3], [4, 5]]


def test_one_view_is_the_transform_s_own():
    for frame in (EvalTransform(size=5), CentreCrop(size=5, to=6)):
        transform = ClipTransform(frame=frame, sampler=Sampler(how="segments", frames=2))
        (found,) = views_of(views_named("1x1"), transform, open_clip(Clip(wide())))
        assert torch.equal(found.normalised(), transform(open_clip(Clip(wide()))))


@pytest.mark.parametrize(("name", "says"), [
    ("4", "give CLIPSxCROPS"), ("4x3x2", "give CLIPSxCROPS"), ("4x2", "one crop of each or three"),
    ("0x1", "at least one"),
])  # fmt: skip
def test_what_is_no_name_is_refused(name, says):
    with pytest.raises(UserError, match=says):
        views_named(name)


def test_a_model_without_several_views_is_told():
    four, whole = views_named("4x3"), Sampler(how="linear", frames=2)
    with pytest.raises(UserError, match="this model reads pictures"):
        check_views(four, EvalTransform(size=6))
    linear = ClipTransform(frame=EvalTransform(size=6), sampler=whole)
    with pytest.raises(UserError, match=r"'linear' takes its frames from the whole video.*give 1x3"):
        check_views(four, linear)
    check_views(views_named("1x3"), linear)
    own = ClipTransform(frame=lambda picture: picture, sampler=Sampler(how="segments", frames=2))
    with pytest.raises(UserError, match="no crops; give 4x1"):
        check_views(four, own)
    check_views(views_named("4x1"), own)


def test_the_logits_of_all_views_are_averaged_or_their_probabilities():
    torch.manual_seed(3)
    model = video(image_size=8, frames=2, tubelet=1, depth=1, width=16, heads=2, patch=4)
    head = ImageClassify(model.spec, ("a", "b", "c"))
    for parameter in (*model.parameters(), *head.parameters()):
        parameter.data.mul_(4 if parameter.ndim > 1 else 1)
    transform = ClipTransform(frame=EvalTransform(size=8), sampler=Sampler(how="segments", frames=2))
    predictor = Predictor(model, {"class": head}, None, transform, 0)
    clips = [Clip(np.random.default_rng(i).integers(0, 256, (7, 9, 14, 3), np.uint8)) for i in range(3)]
    source = [Record(image=c, captions=(), image_id=f"{c.frames.sum()}", key="", targets={"label": "a"}) for c in clips]
    six = [views_of(views_named("2x3"), transform, open_clip(clip)) for clip in clips]
    each = torch.stack([torch.stack([model_logits(predictor, head, seen) for seen in views]) for views in six])
    for name, wanted in (("2x3", each.mean(1).softmax(1)), ("2x3:softmax", each.softmax(2).mean(1))):
        found = ImageClasses(source=source, views=name, batch_size=2).evaluate(predictor)
        torch.testing.assert_close(found.scores, wanted.sort(1, descending=True).values)
        assert found.to_json()["views"] == name
        assert f"classification: 3 clips, 3 classes, the mean of {name} views each" in str(found.table().title)
        for one, chances in zip(predictor.classify(clips, views=name, top=3, batch_size=2), wanted, strict=True):
            assert [kind for kind, _ in one] == [head.classes[i] for i in chances.argsort(descending=True)]
            assert [value for _, value in one] == pytest.approx(sorted(chances.tolist(), reverse=True), rel=1e-5)
    alone = ImageClasses(source=source, batch_size=2).evaluate(predictor)
    assert "views" not in alone.to_json()
    assert predictor.classify(clips) != predictor.classify(clips, views="2x3")
    with pytest.raises(UserError, match="give CLIPSxCROPS"):
        predictor.classify(clips, views="two")
    predictor.transform = EvalTransform(size=8)
    with pytest.raises(UserError, match="this model reads pictures"):
        predictor.classify(clips, views="2x3")
    predictor.transform = transform
    same = ImageClasses(source=source, views="1x1").evaluate(predictor)
    torch.testing.assert_close(same.scores, alone.scores)


def model_logits(predictor, head, seen):
    with predictor.inference():
        return head.predict(predictor.features([Sample(pixels=seen, image_id=0, key="")]))[0]
