"""Heat maps of clips: a map for each frame that the model saw, against the picture's and a computation by hand."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from mmkit.data.clip import Clip
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.video.opening import open_clip
from mmkit.data.video.samplers import Sampler
from mmkit.data.video.transforms import ClipTransform
from mmkit.errors import UserError
from mmkit.evals.grounding import Grounding
from mmkit.explanation import film
from mmkit.explanation.explain import explain
from mmkit.explanation.maps import Evidence, HeatMap, Word
from mmkit.explanation.picture import Style
from mmkit.models.sizes.dual import clip
from mmkit.models.sizes.video import albef_video, clip_frames
from tests.evals.parts import predictor
from tests.evals.test_grounding import Boxes
from tests.explanation.test_gradcam import attention_by_hand, noise

SIZES = {
    "image_size": 32, "max_tokens": 12, "patch": 8, "image_depth": 1, "image_width": 32, "image_heads": 2,
    "text_depth": 1, "text_width": 32, "text_heads": 2, "embed_dim": 16,
}  # fmt: skip
TEXT = "a red square"


def reads(model, frames, seed=0, heads=("itc", "itm"), how="linear"):
    made = predictor(seed, heads, model)
    made.transform = ClipTransform(frame=EvalTransform(size=32), sampler=Sampler(how=how, frames=frames))
    return made


def over_clips(tubelet=1, how="spacetime", **more):
    return partial(albef_video, frames=4, tubelet=tubelet, how=how, fusion_depth=2, dropout=0.0, **SIZES, **more)


CLIP = Clip([noise(i, (32, 32)) for i in range(4)])


@pytest.mark.parametrize(("how", "class_tokens"), [("spacetime", 1), ("factorised_attention", 0)])
def test_equal_to_a_computation_by_hand(how, class_tokens):
    model = reads(over_clips(how=how), 4)
    weights, score = attention_by_hand(model, TEXT, model.transform(open_clip(CLIP)), 0)
    wanted = weights.mean(0)[:, class_tokens:].view(-1, 4, 4, 4)  # tokens, frames, rows, columns
    found = explain(model, CLIP, TEXT, target="itm", layer=0)
    assert torch.allclose(found.sentence.raw, wanted.mean(0), atol=1e-7, rtol=1e-4)
    assert found.score == pytest.approx(score, abs=1e-6)
    assert [np.asarray(frame)[0, 0, 0] for frame in found.frames] == [np.asarray(f)[0, 0, 0] for f in CLIP.frames]
    assert found.numbers == (0, 1, 2, 3)
    assert len(found.words) == 3
    assert found.phrase("red square").raw.shape == (4, 4, 4)


def test_the_frames_of_a_tubelet_share_a_map():
    found = explain(reads(over_clips(tubelet=2), 4), CLIP, TEXT, target="itm", layer=0).sentence.raw
    assert found.shape == (4, 4, 4)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])
    assert not torch.equal(found[1], found[2])


def test_the_mean_of_frames_shares_the_evidence_of_the_picture_among_them():
    small = {**SIZES, "patch": 8}
    one = predictor(1, ("itc",), partial(clip, **small))
    wanted = explain(one, noise(1, (32, 32)), TEXT, target="itc").sentence.raw
    over = reads(partial(clip_frames, **small), 3, 1, ("itc",))
    found = explain(over, [noise(1, (32, 32))] * 3, TEXT, target="itc")
    assert found.sentence.raw.shape == (3, 4, 4)
    assert torch.allclose(found.sentence.raw, (wanted / 3).expand(3, -1, -1), atol=1e-8, rtol=1e-3)
    other = explain(over, [noise(1, (32, 32)), noise(2, (32, 32)), noise(1, (32, 32))], TEXT, target="itc").sentence.raw
    assert torch.allclose(other[0], other[2])
    assert not torch.allclose(other[0], other[1])


def test_a_model_whose_tokens_are_times_has_no_maps():
    with pytest.raises(UserError, match=r"one vector for each time.*how='spacetime'"):
        explain(reads(over_clips(how="factorised_encoder"), 4), CLIP, TEXT, target="itm")


def test_boxes_of_pictures_are_not_measured_by_maps_of_frames():
    with pytest.raises(UserError, match="this model reads clips"):
        Grounding(source=Boxes()).evaluate(reads(over_clips(), 4))


def test_the_strongest_place_is_in_one_frame():
    raw = torch.zeros(3, 2, 2)
    raw[1, 1, 0], raw[2, 0, 1] = 4.0, 1.0
    heat = HeatMap(raw, (20, 40), (0, 0, 20, 20))
    assert heat.frame == 1
    x, y = heat.peak
    assert x < 10
    assert y >= 10
    assert heat.pixels.shape == (3, 20, 40)
    assert float(heat.pixels[:, :, 20:].max()) == 0  # what the model did not see
    assert [heat.share(i) for i in range(3)] == [0.0, 1.0, 0.25]
    assert torch.equal(heat.of(2).grid, raw[2])


def test_the_heat_is_drawn_over_its_frame_alone_on_one_scale():
    raw = torch.zeros(3, 1, 1)
    raw[1], raw[2] = 4.0, 2.0
    drawn = np.asarray(film.overlay([Image.new("RGB", (10, 8), "white")] * 3, HeatMap(raw, (8, 10)), 20), int)
    assert drawn.shape == (16, 3 * 20 + 2 * 2, 3)
    none, most, half = (drawn[8, at] for at in (10, 32, 54))
    assert none.tolist() == [255, 255, 255]
    assert most.sum() < half.sum() < none.sum()


def test_a_figure_has_a_row_for_each_word_and_tells_the_frames(monkeypatch):
    told = []
    plain = film.ImageDraw.ImageDraw.text
    monkeypatch.setattr(film.ImageDraw.ImageDraw, "text", lambda pen, at, text, *rest, **more: (
        told.append(text), plain(pen, at, text, *rest, **more)
    ))  # fmt: skip
    model = reads(over_clips(), 4, how="segments")
    found = explain(model, Clip([noise(i % 3, (32, 32)) for i in range(8)]), TEXT, target="itm", layer=0)
    assert found.numbers == (1, 3, 5, 7)
    alone = explain(model, CLIP, TEXT, target="itm", layer=0, words=False).figure()
    whole = found.figure()
    assert [text for text in told if text.startswith("frame")] == [f"frame {i}" for i in (0, 1, 2, 3, 1, 3, 5, 7)]
    assert {"clip", "sentence", "a", "red", "square"} <= set(told)
    assert (whole.height - alone.height) % 3 == 0
    assert whole.height > alone.height
    long = Clip([noise(0, (32, 32))] * 24)
    told.clear()
    explain(reads(over_clips(), 24), long, TEXT, target="itm", words=False).figure()
    assert [text for text in told if text.startswith("frame")] == [f"frame {i}" for i in (0, 3, 6, 9, 13, 16, 19, 23)]


def test_frames_stand_in_a_row_of_their_own_under_their_numbers(monkeypatch):
    told = {}
    monkeypatch.setattr(film.ImageDraw.ImageDraw, "text", lambda pen, at, text, *rest, **more: told.update({text: at}))
    colours = np.array([[255, 0, 0], [0, 0, 255], [0, 128, 0]], np.uint8)
    frames = tuple(Image.new("RGB", (20, 10), tuple(colour.tolist())) for colour in colours)
    nothing = HeatMap(torch.zeros(3, 1, 1), (10, 20))
    words = tuple(Word(text, (i,), nothing, share) for i, (text, share) in enumerate((("red", 0.0049), ("dog", 0.25))))
    found = Evidence(
        picture=frames[0], text="red dog", target="match", score=0.5, layer=0, head=None, sentence=nothing, words=words,
        unseen=("runs",), frames=frames, numbers=(2, 5, 7),
    )  # fmt: skip
    drawn = np.asarray(film.figure(found))
    wide, high, gap = 200, 100, film.GAP  # half of a large one
    rows = [told[text][1] for text in ("clip", "sentence", "red", "dog")]
    tops = [rows[0] - 4, rows[1] - 4, rows[2] - 2, rows[3] - 2]
    assert tops == [tops[0] + i * (high + gap) for i in range(4)]
    for place, (colour, number) in enumerate(zip(colours, found.numbers, strict=True)):
        left = film.MARGIN + film.LABEL + place * (wide + gap)
        assert (drawn[tops[0] : tops[0] + high, left : left + wide] == colour).all()
        heated = np.asarray(film.over_picture(frames[place], nothing.of(place), wide))
        for top in tops[1:]:
            assert (drawn[top : top + high, left : left + wide] == heated).all()
        assert told[f"frame {number}"] == (left, tops[0] - 19)
        assert (drawn[:, left + wide] != colour).any(1).all()
    assert drawn.shape[1] == left + wide + gap + film.MARGIN
    assert told["<1%"] == (film.MARGIN, tops[2] + 26)
    assert told["25%"] == (film.MARGIN, tops[3] + 26)
    first, note, unread = sorted(at[1] for at in told.values())[:3]
    assert (note - first, unread - note) == (30 + 6, 20)
    assert told["frame 2"][1] > unread + 14
    assert film.figure(found, Style(large=100)).width == 2 * film.MARGIN + film.LABEL + 3 * (72 + gap)
