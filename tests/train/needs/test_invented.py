"""What a plan makes up: boxes and phrases in the form of the run's own encoder, and clips."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from mmkit.config import load_experiment
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.objects import Objects
from mmkit.data.phrases import Phrases
from mmkit.errors import UserError
from mmkit.train.needs import decoding
from mmkit.train.needs.ask import Question, forecasts
from mmkit.train.needs.invented import BOXES, InventedWords, invented_targets
from mmkit.train.needs.samples import make_batch
from mmkit.train.needs.trial import Words, in_numbers, make_shapes, passed
from projects.nlvr2.data import PairTargets
from tests.train.fakes import tiny

CLASSES = ("dog", "red canoe", "cat")


def of(encoder, size=3, **data):
    exp = tiny()
    return invented_targets(replace(exp, data=replace(exp.data, targets=encoder, image_size=32, **data)), size, 60)


def test_boxes_lie_in_the_picture_and_have_all_classes():
    found = of(partial(Objects, classes=CLASSES))
    assert found["box_counts"] == [BOXES] * 3
    assert found["left_out"] == [0] * 3
    boxes = found["boxes"]
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert boxes.min() >= 0
    assert boxes.max() <= 32
    assert set(found["labels"].tolist()) == {0, 1, 2}
    assert found["sizes"].tolist() == [[32, 32]] * 3
    assert of(partial(Objects, classes=()))["labels"].tolist() == [0] * 3 * BOXES
    covered = of(partial(Objects, classes=CLASSES, masks=True))["masks"]
    for mask, box in zip(covered, boxes.long().tolist(), strict=True):
        rows, columns = (seen.nonzero() for seen in (mask.any(1), mask.any(0)))
        assert [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1] == box
    assert of(None) == {}
    with pytest.raises(UserError, match="do not say"):
        of(partial(Objects), train=partial(list))


def test_each_phrase_has_its_words_and_its_box():
    found = of(partial(Phrases, max_tokens=64, classes=CLASSES), 2)
    assert found["phrases"][:BOXES].count("red canoe") == found["labels"][:BOXES].tolist().count(1) > 0
    assert found["phrase_boxes"].tolist() == [[i, i] for i in range(2 * BOXES)]
    assert set(found["phrase_tokens"][:, 0].tolist()) == set(range(2 * BOXES))


def test_pieces_of_words_tell_their_characters():
    words, text = InventedWords(30), "a canoeist, a dog"
    ids, spans = words.encode_with_offsets(text, 6)
    assert [text[first:last] for first, last in spans] == ["", "a", "canoe", "ist,", "a", "dog"]
    assert len(ids) == 6
    assert ids[0] == words.cls_id
    assert all(5 <= number < 30 for number in ids[1:])
    assert words.encode(text, None) == ids
    assert words.encode(text, 2) == ids[:2]


@pytest.mark.parametrize(("config", "head"), [
    ("projects/detection/config.py:openmoji(size=48, kinds=5)", "detect"),
    ("projects/grounding/config.py:openmoji(size=48, kinds=5)", "ground"),
])  # fmt: skip
def test_detectors_and_what_reads_prompts_are_planned(config, head):
    (found,) = forecasts(load_experiment(config), Question(records=1000))
    assert found.passed.flops > 0
    assert found.slope > 0
    assert any(f"a step of {head} depends on values" in note for note in found.notes)


def test_a_prompt_has_the_size_of_the_run_s():
    exp = load_experiment("projects/grounding/config.py:openmoji(size=48, phrases=7)")
    prompt = invented_targets(exp, 4, 500)["prompt"]
    assert prompt.ids.shape[0] == 4
    assert int(prompt.phrase.max()) == 6
    assert int(prompt.ids.max()) < 500


def test_a_second_picture_is_read_and_made_ready(monkeypatch):
    exp = load_experiment("projects/nlvr2/config.py:openmoji(start='scratch', size=24, kinds=5)")
    exp = replace(exp, teacher=None, data=replace(exp.data, transform=partial(TrainTransform, flip=0.0)))
    words = Words(vocab_size=60)
    shapes = passed(make_shapes(exp, words), exp, 2, gpu=True, precision="no", words=words)
    assert in_numbers(exp, words, (2,), gpu=True, precision="no")[0].flops == shapes.flops
    batch = make_batch(exp, {}, 3, True, 60)
    assert batch.targets["second"].shape == batch.pixels.shape == (3, 3, 24, 24)
    assert batch.targets["label"].tolist() == [1, 1, 1]
    seen = []
    encode = PairTargets.encode
    monkeypatch.setattr(PairTargets, "encode", lambda *given: seen.append(encode(*given)["second"].shape))
    assert decoding.pictures_a_second(exp, 0.0) > 0
    assert seen == [(3, 24, 24)] * 2


def test_clips_are_counted_as_clips(monkeypatch):
    exp = load_experiment("configs/pretrain/video.py:mini")
    assert make_batch(exp, {}, 2, True).pixels.shape == (2, 3, 4, 64, 64)
    seen = []

    class Seen(decoding.PairDataset):
        def __getitem__(self, at):
            seen.append(super().__getitem__(at).pixels.bytes.shape)

    monkeypatch.setattr(decoding, "PairDataset", Seen)
    assert decoding.pictures_a_second(exp, 0.0) > 0
    assert seen == [torch.Size([3, 4, 64, 64])] * 2
    opened = exp.data.transform.keywords["sampler"]
    rated = replace(exp.data, transform=partial(exp.data.transform, sampler=replace(opened, rate=2.0)))
    assert decoding.pictures_a_second(replace(exp, data=rated), 0.0) > 0
