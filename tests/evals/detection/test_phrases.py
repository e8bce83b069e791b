"""Expressions and phrases of captions, each asked of its own picture: Flickr30k's two protocols against a plain
reference, RefCOCO's accuracy, chance, intervals, what is cut, what is refused."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmkit.data.images.transforms import EvalTransform
from mmkit.data.openmoji.expressions import Expressions
from mmkit.data.records import ByNumber, Record
from mmkit.data.text_files import stable_id
from mmkit.data.texts.prompts import Prompter
from mmkit.errors import UserError
from mmkit.evals.detection.asking import questions_of, rows_for
from mmkit.evals.detection.phrases import Phrases
from mmkit.evals.intervals import drawn
from mmkit.heads.base import Detections, Locates
from mmkit.inference.predictor import Predictor
from projects.grounding.model import towers
from tests.evals.detection.test_evaluate import Knows
from tests.evals.parts import alike

CAPTIONS = ("a man in a hat", "two dogs", "a man sees two dogs by a lake")
BOXES = [[0, 0, 20, 30], [30, 5, 50, 25], [35, 8, 60, 40], [2, 2, 12, 10]]


class Letters:
    """A letter is a token, and knows its place."""

    vocab_size, pad_id, unk_id, cls_id, sep_id, mask_id = 130, 0, 1, 2, 3, None
    special_ids = frozenset((0, 1, 2, 3))

    def encode(self, text, max_tokens, kind="caption"):
        return self.encode_with_offsets(text, max_tokens)[0]

    def encode_with_offsets(self, text, max_tokens, kind="caption"):
        pairs = [(2, (0, 0)), *((ord(c), (i, i + 1)) for i, c in enumerate(text) if c != " ")][:max_tokens]
        return [i for i, _ in pairs], [span for _, span in pairs]


def boxes_for(image, letters, count=12):
    """What the head finds of a phrase in a picture: true boxes moved by chance, best first."""
    rng = np.random.default_rng([image % 2**32, *letters])
    return np.array(BOXES, float)[rng.integers(4, size=count)] + rng.normal(0, 2.5, (count, 4))


class Draws(nn.Module):
    """Says of each phrase what ``boxes_for`` draws for the letters that spell it."""

    needs_words, classes, ids, prompt_tokens, prompt_phrases = False, (), (), 64, 40

    def __init__(self, sentences):
        super().__init__()
        self.sentences = sentences

    def predict(self, f):
        raise NotImplementedError

    def asked(self, prompts, classes, ids=()):
        raise NotImplementedError

    def locate(self, f, prompt):
        assert len(prompt.ids) == len(f.batch.image_id) == len(f.image.x)
        rows = []
        for row, phrases in enumerate(prompt.phrase):
            for number in range(int(phrases.max()) + 1):
                letters = prompt.ids[row][phrases == number].tolist()
                found = boxes_for(int(f.batch.image_id[row]), letters)
                rows += [(box, 1 - 0.01 * i, number, row) for i, box in enumerate(found.tolist())]
        boxes, scores, labels, of = (torch.tensor(part) for part in zip(*rows, strict=True))
        return Detections(boxes, scores, labels, of)


@dataclass(frozen=True)
class Photos(ByNumber):
    """Pictures of 64 x 48 with captions of which phrases name boxes."""

    n: int = 10

    def __len__(self):
        return self.n

    def _at(self, index):
        def phrase(caption, words, boxes, *types):
            first = CAPTIONS[caption].index(words)
            return {"caption": caption, "spans": [(first, first + len(words))], "boxes": boxes, "types": types}

        phrases = [
            phrase(0, "a man", [0], "people"), phrase(0, "a hat", [3], "clothing", "other"),
            phrase(1, "two dogs", [1, 2], "animals"), phrase(2, "two dogs", [1, 2], "animals"),
            phrase(2, "a lake", [], "scene"), phrase(2, "a man", [0], "people"),
        ]  # fmt: skip
        boxes = [{"name": "it", "box": box} for box in BOXES]
        targets = {"boxes": boxes, "phrases": phrases}
        return Record(image=Image.new("RGB", (64, 48)), captions=CAPTIONS, image_id=f"{index}", key=f"photo {index}",
                      targets=targets)  # fmt: skip


def predictor(sentences=False):
    torch.manual_seed(0)
    model = towers(
        130, image_size=(48, 64), max_tokens=40, patch=16, image_depth=1, image_width=16, image_heads=2, text_depth=1,
        text_width=16, text_heads=2,
    )  # fmt: skip
    head = Draws(sentences)
    assert isinstance(head, Locates)
    return Predictor(model, {"ground": head}, Letters(), EvalTransform(size=(48, 64)), max_tokens=40, threads=1)


def overlap(a, b):
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, wide) * max(0, high)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def reference(merged, k, kind=None):
    """Flickr30k Entities' recall as GLIP's evaluation counts it, phrase by phrase."""
    hits = []
    for index in range(10):
        targets = Photos()[index].targets
        for one in targets["phrases"]:
            if not one["boxes"] or (kind is not None and kind not in one["types"]):
                continue
            own = [BOXES[i] for i in one["boxes"]]
            if merged:
                own = [[min(b[0] for b in own), min(b[1] for b in own), max(b[2] for b in own), max(b[3] for b in own)]]
            (first, last), text = one["spans"][0], CAPTIONS[one["caption"]]
            letters = [ord(c) for c in text[first:last] if c != " "]
            found = boxes_for(stable_id(f"{index}"), letters).clip(0, (64, 48, 64, 48))
            hits.append(any(overlap(box, true) >= 0.5 for box in found[:k] for true in own))
    return sum(hits) / len(hits)


@pytest.mark.parametrize("sentences", [False, True])
@pytest.mark.parametrize("rule", ["any-box", "merged-box"])
def test_flickrs_protocols_equal_a_plain_reference(rule, sentences):
    result = Phrases(source=Photos(), rule=rule, batch_size=4).evaluate(predictor(sentences))
    assert (result.n, result.phrases, result.cut) == (10, 50, 0)
    left = alike(Phrases(source=Photos(), rule=rule), result.metrics())
    assert {name.rpartition(".")[2] for name in left} == {"n", "phrases", "cut", "chance"}
    for name, k in (("r1", 1), ("r5", 5), ("r10", 10), ("r_all", 12)):
        assert result.values[name] == pytest.approx(reference(rule == "merged-box", k))
    for kind in ("people", "animals", "other", "clothing"):
        assert result.values[f"type.{kind}.r1"] == pytest.approx(reference(rule == "merged-box", 1, kind))
    assert "type.scene.r1" not in result.values
    assert 0 < result.values["r1"] < result.values["r_all"]


def test_the_protocols_differ_where_a_phrase_has_two_boxes():
    any_box, merged = (
        Phrases(source=Photos(), rule=rule).evaluate(predictor()).values for rule in ("any-box", "merged-box")
    )
    assert any_box["type.animals.r10"] > merged["type.animals.r10"]
    assert any_box["type.people.r10"] == merged["type.people.r10"]
    assert any_box["chance"] == pytest.approx((1 + 1 + 2 + 2 + 1) / 5 / 4)


def test_an_expression_is_right_by_its_best_box_and_bare_ones_stand_beside():
    source = Expressions(split="test", n=12, size=48, plain=True)
    result = Phrases(source=source, rule="referring", rounds=20).evaluate(predictor())
    assert (result.n, result.phrases) == (12, 12)
    assert result.values["bare.chance"] == 0.5
    left = alike(Phrases(source=source, rounds=20), result.metrics())
    assert left == {"n", "phrases", "cut", "chance", "bare.chance"}
    assert {"acc50_low", "bare.acc50_high"} <= alike(Phrases(source=source), result.metrics())
    assert result.values["chance"] == pytest.approx(1 / 3)
    said = result.to_json()
    assert said["rule"] == "referring"
    assert said["bare"]["acc50_low"] <= said["bare"]["acc50"] <= said["bare"]["acc50_high"]
    bare = Phrases(source=replace(source, bare=True), rule="referring").evaluate(predictor())
    assert bare.values["acc50"] == said["bare"]["acc50"]
    assert not any(name.startswith("bare") for name in bare.values)


def test_the_best_box_alone_counts_and_splits_are_told_apart(tmp_path):
    @dataclass(frozen=True)
    class Refs(Photos):
        def _at(self, index):
            found = boxes_for(stable_id("same"), [ord(c) for c in "adog"]).clip(0, (64, 48, 64, 48)).tolist()
            far = next(box for box in found if overlap(box, found[0]) < 0.5)
            boxes = [{"name": "a dog", "box": far if index else found[0]}]
            return replace(super()._at(index), image_id="same", targets={"boxes": boxes, "split": f"test{'AB'[index]}"})

    told = tmp_path / "told.jsonl"
    result = Phrases(source=Refs(n=2), rule="referring", predictions=told, rounds=5).evaluate(predictor())
    first, second = (json.loads(line) for line in told.read_text().splitlines())
    assert result.values["split.testA.acc50"] == first["acc50"] == 1.0
    assert result.values["split.testB.acc50"] == second["acc50"] == 0.0
    assert (result.n, result.phrases) == (1, 2)  # two expressions of one picture
    assert "chance" not in result.values  # nothing to choose from
    assert result.values["acc50_low"] == result.values["acc50_high"]  # one picture: nothing is drawn
    assert len(first["found"]) == 10


def test_a_half_is_enough_and_less_is_not():
    class Half(Draws):
        def locate(self, f, prompt):
            return Detections(torch.tensor([[0.0, 0, 10, self.high]]), torch.ones(1), torch.zeros(1).long(),
                              torch.zeros(1).long())  # fmt: skip

    @dataclass(frozen=True)
    class One(Photos):
        def _at(self, index):
            return replace(super()._at(index), targets={"boxes": [{"name": "it", "box": [0, 0, 10, 20]}]})

    p = predictor()
    for high, right in ((10, 1.0), (9.9, 0.0)):
        p.heads["ground"] = Half(False)
        p.heads["ground"].high = high
        assert Phrases(source=One(n=1)).evaluate(p).values["acc50"] == right
    p.heads["ground"].locate = lambda f, prompt: Detections(
        torch.tensor([[30.0, 30, 40, 40], [0, 0, 10, 20]]), torch.tensor([0.9, 0.8]), *torch.zeros(2, 2).long()
    )  # fmt: skip
    assert Phrases(source=One(n=1)).evaluate(p).values["acc50"] == 0.0  # the second is right, and the best is not


def test_phrases_that_share_words_or_do_not_fit_get_rows_of_their_own():
    record = Photos()[0]
    phrases = [{"caption": 0, "spans": [span], "boxes": [0]} for span in ((0, 14), (9, 14), (0, 5))]
    (question,) = questions_of(replace(record, targets={**record.targets, "phrases": phrases}), "any-box")
    prompter = Prompter(Letters(), 64, 40)
    assert [numbers for _, numbers in rows_for(question, prompter, True, 40)] == [[0], [1, 2]]
    assert [numbers for _, numbers in rows_for(question, prompter, False, 2)] == [[0, 1], [2]]
    words, numbers = rows_for(question, Prompter(Letters(), 64, 4), True, 40)[0]  # reads "am" of it
    assert ([phrase for *_, phrase in words], numbers) == ([-1, 0, 0, 0], [0])


def test_a_phrase_that_is_not_read_is_missed_and_counted():
    p = predictor(sentences=True)
    p.max_tokens = 6  # reads "aman" and "i"
    result = Phrases(source=Photos(n=1), rule="any-box").evaluate(p)
    assert (result.phrases, result.cut) == (5, 2)
    told = Phrases(source=Photos(n=1), rule="any-box").evaluate(predictor(sentences=True))
    assert told.cut == 0
    p.max_tokens = 1
    bare = Phrases(source=Expressions(split="test", n=2, kinds=30, size=48)).evaluate(p)
    assert (bare.phrases, bare.cut) == (2, 2)  # without its relation an expression is none of the phrases


def test_an_interval_draws_whole_pictures():
    hits, pictures = [1.0] * 50 + [0.0] * 50, ["a"] * 50 + ["b"] * 50
    assert drawn(hits, pictures, 100) == (0.0, 1.0)
    of = [[1.0, 0.0, 0.7], [0.5], [0.1, 0.2], [0.9], [0.0, 0.3, 0.3, 0.4]]  # each counts as often as it has members
    draws = np.random.default_rng(0).integers(5, size=(41, 5))
    means = sorted(np.mean([value for i in row for value in of[i]]) for row in draws)
    values, pictures = zip(*((value, i) for i, own in enumerate(of) for value in own), strict=True)
    assert drawn(values, pictures, 41) == pytest.approx((means[1], means[39]))
    assert means[0] < means[1] < means[2] < means[38] < means[39] < means[40]
    low, high = drawn(hits, list(range(100)), 200)
    assert 0.35 < low < 0.45 < 0.55 < high < 0.65
    assert drawn(hits, list(range(100)), 200) == (low, high)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rule": "refer"}, "there are referring, any-box, merged-box"),
        ({"rounds": 1}, "give at least two"),
        ({"source": replace(Photos(), n=1), "rule": "merged-box", "head": "nose"}, "no head 'nose'"),
    ],
)
def test_what_it_refuses(change, said):
    with pytest.raises(UserError, match=said):
        Phrases(**{"source": Photos(), **change}).check(predictor())


def test_records_without_phrases_and_models_with_classes_of_their_own_are_refused():
    record = Photos()[0]
    with pytest.raises(UserError, match='no "phrases"'):
        questions_of(replace(record, targets={"boxes": []}), "any-box")
    for caption in (3, -1, "0", None):
        with pytest.raises(UserError, match="there are captions 0 to 2"):
            questions_of(replace(record, targets={"boxes": [], "phrases": [{"caption": caption}]}), "any-box")
    named = [{"name": "a dog", "box": [1, 1, 9, 9]}]
    for places in ((0, 1), (-1,), ("0",)):
        with pytest.raises(UserError, match=r'"alike": .* is none of the 1 boxes'):
            questions_of(replace(record, targets={"boxes": named, "bare": "it", "alike": places}), "referring")
    nothing = [{"caption": 0, "spans": [(0, 5)], "boxes": []}]

    @dataclass(frozen=True)
    class Nothing(Photos):
        def _at(self, index):
            return replace(record, targets={"boxes": [], "phrases": nothing})

    with pytest.raises(UserError, match="nothing to measure"):
        Phrases(source=Nothing(), rule="any-box").evaluate(predictor())

    p = predictor()
    p.heads["ground"] = Knows()
    with pytest.raises(UserError, match="finds classes of its own"):
        Phrases(source=Photos()).check(p)
