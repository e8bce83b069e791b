"""Grounding DINO as a head: what is asked, chunks of phrases and their rules, batches, training, refusals."""

from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest
import torch

from mmkit.config import load_experiment, override, validate
from mmkit.data.images.transforms import EvalTransform, TrainTransform
from mmkit.data.images.view import View
from mmkit.data.loader import PairDataset
from mmkit.data.openmoji.scenes import Scenes
from mmkit.data.targets import Given, RawTargets
from mmkit.data.texts.prompts import Prompter, checked, phrases_in
from mmkit.errors import UserError
from mmkit.inference.detecting import finder_of
from mmkit.inference.predictor import Predictor
from mmkit.nn.boxes import iou
from mmkit.task import Task
from mmkit.types import Batch
from projects.grounding.head import GroundingDINO
from projects.grounding.merging import Answers, phrase_scores, without_doubles
from projects.grounding.model import towers
from projects.grounding.targets import Asking

NAMES = ("cat", "dog", "st. bernard", "red canoe", "container", "containernumber")


class Letters:
    """A tokenizer in which a letter is a token; no [SEP] at the end, as ALBEF's."""

    vocab_size, pad_id, unk_id, cls_id, sep_id, mask_id = 130, 0, 1, 2, 3, None
    special_ids = frozenset((0, 1, 2, 3))

    def encode(self, text, max_tokens, kind="caption"):
        return [2, *(ord(letter) for letter in text if letter != " ")][:max_tokens]


class Framed(Letters):
    """Ends texts by [SEP]."""

    def encode(self, text, max_tokens, kind="caption"):
        return [*super().encode(text, max_tokens, kind), self.sep_id]


def task(seed=0, **more):
    torch.manual_seed(seed)
    model = towers(
        130, image_size=(32, 48), max_tokens=20, patch=8, image_depth=1, image_width=16, image_heads=2, text_depth=1,
        text_width=16, text_heads=2,
    )  # fmt: skip
    own = {"width": 16, "heads": 2, "hidden": 16, "enhancer": 1, "decoder": 2, "queries": 4, "scale": 0.5, **more}
    return Task(model, {"ground": GroundingDINO(model.spec, NAMES, **own)}, momentum=None)


def predictor(t):
    return Predictor(t.model, dict(t.heads.items()), Letters(), EvalTransform(size=(32, 48)), max_tokens=20, threads=1)


def pictures(count=2):
    return [Scenes(split="test", n=count, size=48, plain=True, people=0.0)[i].image for i in range(count)]


def encoder(**more):
    return Asking(Given(tokenizer=Letters()), NAMES, **more)


def batch(prompt_rows, boxes, labels, of):
    return Batch(
        pixels=torch.randn(len(prompt_rows), 3, 32, 48), image_id=torch.arange(len(prompt_rows)),
        targets={
            "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4), "labels": torch.tensor(labels),
            "box_of": torch.tensor(of), "prompt": prompts(prompt_rows),
        },
    )  # fmt: skip


def prompts(rows):
    prompter = Prompter(Letters())
    return prompter.prompt([[prompter.tokens(phrase) for phrase in row] for row in rows])


# ---- prompts -----------------------------------------------------------------------------------------------------


def test_phrases_are_told_apart_by_building_and_not_by_searching():
    prompt = prompts([["a", "st. a", "ab"]])
    assert prompt.ids[0].tolist() == [2, 97, 46, 115, 116, 46, 97, 46, 97, 98, 46]
    assert prompt.phrase[0].tolist() == [-1, 0, -1, 1, 1, 1, 1, -1, 2, 2, -1]
    assert prompt.positions[0].tolist() == [0, 0, 1, 0, 1, 2, 3, 4, 0, 1, 2]
    reads = prompt.reads[0]
    assert reads[3].nonzero()[:, 0].tolist() == [3, 4, 5, 6, 7]
    assert reads[0].nonzero()[:, 0].tolist() == [0]


def test_chunks_are_even_numbered_through_and_never_longer_than_may_be():
    prompter = Prompter(Letters(), max_tokens=16)
    found = prompter.chunks(["ab", "cd", "ef", "gh", "ij"], 3)
    assert [sorted(set(one.phrase[0].tolist()) - {-1}) for one in found] == [[0, 1, 2], [3, 4]]
    found = prompter.chunks(["abcdefgh", "abcdefg", "a"], 3)
    assert [sorted(set(one.phrase[0].tolist()) - {-1}) for one in found] == [[0], [1, 2]]
    assert max(one.ids.shape[1] for one in found) <= 16
    assert [Prompter(Letters(), room).fitting([[5, 6], [7, 8]]) for room in (6, 7)] == [1, 2]  # [CLS] and twice three
    assert [Prompter(Framed(), room).fitting([[5, 6], [7, 8]]) for room in (7, 8)] == [1, 2]  # and [SEP]


def test_what_is_asked_for():
    assert phrases_in("a dog. a red  canoe.") == phrases_in(" a dog.a red canoe") == ["a dog", "a red canoe"]
    with pytest.raises(UserError, match="nothing to look for"):
        phrases_in(" . ")
    with pytest.raises(UserError, match="'Dog' is asked for twice"):
        checked(["dog", "Dog"], "here")
    with pytest.raises(UserError, match="'abcd' has 4 tokens, and this model reads at most 3"):
        Prompter(Letters(), longest=4).tokens("abcd")
    assert len(Prompter(Letters(), longest=4).sentence([1, 5, 6, 7], {})) == 4
    with pytest.raises(UserError, match="a text of 5 tokens, and this model reads at most 4"):
        Prompter(Letters(), longest=4).sentence([1, 5, 6, 7, 8], {})
    exp = load_experiment("projects/grounding/config.py:openmoji")
    with pytest.raises(UserError, match=r"data\.targets\.longest = 32 is more than model\.max_tokens = 16"):
        validate(override(exp, ["model.max_tokens=16", "data.max_tokens=16"]))


# ---- what is found -----------------------------------------------------------------------------------------------


def test_the_label_is_the_phrase_that_was_asked_whatever_the_chunks():
    t = task(phrases=2).eval()
    found = predictor(t).detect(pictures(), phrases=NAMES)
    head = t.heads["ground"]
    for one in found:
        assert set(one.names) <= set(NAMES)
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
    head.prompt_phrases = 1  # a phrase reads nothing of the others, but the picture does: each alone is a reference
    alone = predictor(t).detect(pictures(), phrases=["st. bernard"])
    assert {name for one in alone for name in one.names} == {"st. bernard"}


def test_a_picture_and_a_prompt_alone_are_as_in_a_batch():
    t = task(phrases=3).eval()
    p = predictor(t)
    together = p.detect(pictures(3), phrases=NAMES)
    for image, one in zip(pictures(3), together, strict=True):
        single = p.detect([image], phrases=NAMES)[0]
        torch.testing.assert_close(torch.tensor(single.boxes), torch.tensor(one.boxes), atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(torch.tensor(single.scores), torch.tensor(one.scores), atol=1e-5, rtol=1e-4)
        assert single.names == one.names


def test_words_of_a_phrase_do_not_know_of_other_phrases():
    model = task().eval().model
    alone, beside = prompts([["dog"]]), prompts([["cat", "dog", "st. bernard"]])
    x, y = model.encode_prompt(alone).x[0], model.encode_prompt(beside).x[0]
    torch.testing.assert_close(x[alone.phrase[0] == 0], y[beside.phrase[0] == 1])


def test_a_phrase_scores_what_its_tokens_score_on_average():
    logits = torch.tensor([[[0.0, 100.0, -100.0, 100.0]]])
    spells = torch.tensor([[[True, True, False, False], [False, False, True, True], [False, False, False, True]]])
    torch.testing.assert_close(phrase_scores(logits, spells), torch.tensor([[[0.75, 0.5, 1.0]]]))


def test_one_object_that_two_chunks_found_is_the_better_one():
    box = [0.0, 0.0, 10.0, 10.0]
    found = Answers(
        torch.tensor([box, [1.0, 0.0, 11.0, 10.0], box, [20.0, 0.0, 30.0, 10.0], [0.0, 0.0, 10.0, 5.0]]),
        torch.tensor([0.5, 0.9, 0.4, 0.3, 0.2]), torch.tensor([0, 3, 1, 4, 5]), torch.tensor([0, 1, 0, 1, 1]),
    )  # fmt: skip
    left = without_doubles(found)
    assert left.labels.tolist() == [3, 4, 5]  # 0 and 1 are of the other chunk and overlap 3; 5 overlaps by a half
    at = [[0.0, 0, 10, 10], [1.2, 0, 11.2, 10], [2.4, 0, 12.4, 10], [0.0, 0, 10, 10]]
    row = Answers(torch.tensor(at), torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.arange(4), torch.tensor([0, 1, 0, 0]))
    assert without_doubles(row).labels.tolist() == [0, 2, 3]  # what is gone takes nothing, nor does one's own chunk
    of_one = without_doubles(found._replace(chunk=torch.zeros(5, dtype=torch.int64)))
    assert of_one.labels.tolist() == [3, 0, 1, 4, 5]


def test_more_objects_than_queries_are_the_best_of_each_chunk():
    t = task(phrases=3, one_answer=True, queries=2).eval()
    found = predictor(t).detect(pictures(1), phrases=NAMES)[0]
    assert len(found.boxes) <= 2 * 2
    out = t(batch([["cat", "dog"]], [[i, i, i + 9, i + 9] for i in range(5)], [0, 1, 0, 1, 0], [0] * 5), 0)
    assert out.loss.isfinite()


def test_a_query_answers_for_every_phrase_and_a_picture_has_the_best():
    for most, count in ((100, 8), (5, 5)):
        head = (t := task(most=most).eval()).heads["ground"]
        found = head.asked([prompts([["cat", "dog"]])], ["cat", "dog"]).predict(t.features(batch([[]], [], [], []), 0))
        assert len(found.scores) == count


def test_each_picture_has_boxes_of_its_own_phrases_alone():
    t = task().eval()
    rows = [["cat", "dog"], ["st. bernard"]]
    found = t.heads["ground"].locate(t.features(batch(rows, [], [], []), 0), prompts(rows))
    assert [set(found.labels[found.of == row].tolist()) for row in (0, 1)] == [{0, 1}, {0}]


def test_a_head_that_was_given_no_classes_must_be_asked():
    t = task().eval()
    head = t.heads["ground"]
    head.classes = ()
    with pytest.raises(UserError, match="say what, by --text or --classes"):
        predictor(t).detect(pictures(1))


def test_classes_keep_the_numbers_under_which_the_data_published_them():
    t = task(ids=(11, 12, 13, 14, 15, 16)).eval()
    data = SimpleNamespace(object_names=["dog", "Red_Canoe", "cat"], object_ids=[18, 90, 17])
    finder = finder_of(predictor(t), phrases=["red canoe", "dog"], source=data)
    assert (finder.classes, finder.ids) == (("red canoe", "dog"), (90, 18))
    assert finder_of(predictor(t), phrases=["dog", "lamp"], source=data).ids == (1, 2)
    assert finder_of(predictor(t), source=data).ids == (11, 12, 13, 14, 15, 16)
    t.heads["ground"].classes = ()
    assert finder_of(predictor(t), source=data).classes == ("dog", "Red_Canoe", "cat")


# ---- what is learned ---------------------------------------------------------------------------------------------


def test_parts_are_finite_and_reach_every_parameter():
    t = task()
    made = batch([["cat", "dog"], ["st. bernard"]], [[2, 3, 20, 17], [25, 8, 45, 30]], [1, 0], [0, 0])
    out = t(made, 0)
    assert {name for name in out.losses if "." in name} == {"ground.label", "ground.box", "ground.giou"}
    out.loss.backward()
    still = {n for n, p in t.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert not {n for n in still if not n.startswith("model.image.norm")}
    told = t.count([made], 0, torch.device("cpu"))
    assert not any(told.differ([out.counts]).values())
    assert told.totals["ground.label"] == 3  # the empty picture counts as one


def test_under_bfloat16_logits_and_losses_are_float32():
    t = task()
    made = batch([["cat", "dog"]], [[2, 3, 20, 17]], [1], [0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = t(made, 0)
        found, start = t.heads["ground"].find(t.features(made, 0), made.targets["prompt"])
    assert found.logits.dtype == start.logits.dtype == found.boxes.dtype == out.loss.dtype == torch.float32
    assert out.loss.isfinite()


def test_micro_batches_are_as_one_batch_whatever_the_length_of_prompts():
    rows = [["cat", "dog"], ["st. bernard", "red canoe", "cat"]]
    whole = batch(rows, [[2, 3, 20, 17], [25, 8, 45, 30]], [1, 2], [0, 1])
    a, b = (
        replace(whole, pixels=whole.pixels[i : i + 1], image_id=whole.image_id[i : i + 1], targets={
            "boxes": whole.targets["boxes"][i : i + 1], "labels": whole.targets["labels"][i : i + 1],
            "box_of": torch.zeros(1, dtype=torch.int64), "prompt": prompts(rows[i : i + 1]),
        })
        for i in range(2)
    )  # fmt: skip
    t = task()
    torch.testing.assert_close(t(whole, 0).loss, (t(a, 0).loss + t(b, 0).loss) / 2, atol=1e-5, rtol=1e-4)


def check_it_learns_scenes_by_heart(t, steps, sure):
    """Three pictures that are asked for the same three phrases: what has a score above ``sure`` is what they show."""
    phrases, boxes = ["cat", "dog", "red canoe"], [[2, 3, 20, 17], [25, 8, 45, 30], [10, 10, 30, 28], [4, 2, 30, 14]]
    made = batch([phrases, [*phrases[1:], "cat"], ["red canoe", *phrases[:2]]], boxes, [1, 0, 1, 2], [0, 0, 1, 2])
    optimiser = torch.optim.AdamW(t.parameters(), lr=3e-3, weight_decay=0)
    for step in range(steps):
        optimiser.zero_grad()
        t(made, step).loss.backward()
        torch.nn.utils.clip_grad_norm_(t.parameters(), 0.5)
        optimiser.step()
    t.eval()
    finder = finder_of(predictor(t), phrases=phrases)
    found = finder.predict(t.features(made, 0))
    kept = found.scores > sure
    said = [(int(of), finder.classes[label]) for of, label in zip(found.of[kept], found.labels[kept], strict=True)]
    assert sorted(set(said)) == [(0, "cat"), (0, "dog"), (1, "red canoe"), (2, "dog")]
    assert (iou(found.boxes[kept], torch.tensor(boxes).float()).amax(1) > 0.6).all()


@pytest.mark.slow
def test_it_overfits_its_scenes_and_tells_phrases_apart():
    check_it_learns_scenes_by_heart(task(enhancer=1, side=0.3, width=32, hidden=64), steps=250, sure=0.4)


def test_what_it_refuses():
    spec = task().model.spec
    with pytest.raises(UserError, match="reads pictures alone"):
        GroundingDINO(replace(spec, text_width=0))
    with pytest.raises(UserError, match="heads=3 of 2"):
        GroundingDINO(spec, heads=3)


# ---- detection as grounding --------------------------------------------------------------------------------------


def sample(boxes, seed=0, **more):
    view = View(whole=(48, 32), size=(48, 32), paint=lambda picture: None, moves=())
    said = {"boxes": [{"name": NAMES[label], "box": box} for box, label in boxes], "view": view}
    return encoder(**more).encode(said, Random(seed))


def test_every_name_that_is_shown_is_asked_for_and_labels_are_its_place():
    boxes = [([1, 1, 9, 9], 3), ([10, 1, 19, 9], 2), ([20, 1, 29, 9], 3)]
    lengths = set()
    for seed in range(20):
        one = sample(boxes, seed, phrases=4)
        assert [one["chosen"][label] for label in one["labels"]] == [3, 2, 3]
        assert len(set(one["chosen"])) == len(one["chosen"]) <= 4
        lengths.add(len(one["chosen"]))
    assert {2, 4} <= lengths
    assert {len(sample([], seed, phrases=3)["chosen"]) for seed in range(30)} == {1, 2, 3}
    assert {tuple(sample(boxes, seed, phrases=2)["labels"]) for seed in range(20)} == {(0, 1, 0), (1, 0, 1)}
    assert {int(sample(boxes[:1], seed, phrases=3)["labels"][0]) for seed in range(20)} == {0, 1, 2}
    boxes += [([30, 1, 39, 9], 0)]
    few = [sample(boxes, seed, phrases=2) for seed in range(20)]  # of three kinds any two
    assert {frozenset(one["chosen"]) for one in few} == {frozenset(pair) for pair in ((0, 2), (0, 3), (2, 3))}
    assert {one["left_out"] for one in few} == {1, 2}
    boxes.pop()
    made = encoder(phrases=4).collate([sample(boxes, 1, phrases=4), sample([], 2, phrases=4)])
    assert len(made["prompt"].ids) == 2
    assert made["box_of"].tolist() == [0, 0, 0]


def test_a_box_whose_name_does_not_fit_the_prompt_is_left_out_and_counted():
    one = sample([([1, 1, 9, 9], 4), ([10, 1, 19, 9], 5)], 0, max_tokens=18)
    assert len(one["labels"]) == len(one["boxes"]) == 1
    assert one["left_out"] == 1


def test_names_that_are_unknown_are_never_asked_for():
    asked_for = {i for seed in range(20) for i in sample([], seed, phrases=6, unknown=("dog",))["chosen"]}
    assert asked_for == {0, 2, 3, 4, 5}
    one = sample([([1, 1, 9, 9], 1), ([10, 1, 19, 9], 0)], 0, phrases=6, unknown=("dog",))
    assert 1 not in one["chosen"]
    assert ([one["chosen"][label] for label in one["labels"]], one["left_out"]) == ([0], 1)


@pytest.mark.parametrize("more", [{"phrases": 0}, {"unknown": NAMES}])
def test_there_must_be_something_to_ask_for(more):
    with pytest.raises(UserError, match="needs the names of the classes"):
        encoder(**more)


def test_records_need_no_caption():
    record = replace(Scenes(split="test", n=1, size=48, plain=True, people=0.0)[0], captions=())
    names = tuple(box["name"] for box in record.targets["boxes"])
    targets = Asking(Given(tokenizer=Letters()), names)
    made = PairDataset(
        source=(record,), transform=TrainTransform(size=(32, 48)), tokenizer=Letters(), max_tokens=20, targets=targets
    )  # fmt: skip
    sample = made[0, 0]
    assert sample.ids is None
    assert len(sample.targets["labels"]) == len(names)
    with pytest.raises(UserError, match="no caption"):
        replace(made, targets=RawTargets())[0, 0]
