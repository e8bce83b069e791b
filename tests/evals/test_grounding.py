"""Grounding: boxes, the measures, names in captions, and the same numbers on any number of processes."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from mmkit.data.records import JsonLines, Record
from mmkit.errors import UserError
from mmkit.evals import grounding
from mmkit.evals.boxes import best_box, points_at, refer_iou, region_box
from mmkit.evals.grounding import Grounding
from mmkit.evals.intervals import clustered
from mmkit.explanation.gradcam import TokenMaps
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.classify import Classify
from mmkit.heads.mlm import MLM
from tests.evals.parts import COLOURS, alike, predictor
from tests.several import on_processes
from tests.sizes import vilt_tiny

SIZE = (32, 48)  # width and height


class Boxes:
    """``n`` pictures of one to three named boxes, with a caption that says the names or, for each third, does not."""

    splits = ("even", "odd")

    def __init__(self, n: int = 17, **targets) -> None:
        self.n, self.more = n, targets

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Record:
        image = Image.new("RGB", SIZE, (9 * i % 256, 70, 200))
        names = [f"{COLOURS[(i + j) % len(COLOURS)]} box" for j in range(1 + i % 3)]
        boxes = [{"name": name, "box": (8 * j, 4, 8 * j + 12, 30)} for j, name in enumerate(names)]
        for j, (name, entry) in enumerate(zip(names, boxes, strict=True)):
            image.paste(name.split()[0], (8 * j, 4, 8 * j + 12, 30))
            entry["box"] = tuple(float(side) for side in entry["box"])
        caption = "a tile" if i % 3 == 2 else " a ".join(["a", *names])
        return Record(
            image=image, captions=(caption,), image_id=str(i), key=f"row {i}",
            targets={"boxes": boxes, "split": self.splits[i % 2], **self.more},
        )  # fmt: skip


def evaluate():
    return Grounding(source=Boxes(), batch_size=3)(predictor(2))


def work(rank, world, folder):
    found = evaluate()
    try:
        Grounding(source=Boxes(4, boxes=[{"name": "red"}]), batch_size=2)(predictor())
        message = "no error"
    except UserError as error:
        message = str(error)
    (folder / f"{rank}.json").write_text(json.dumps([found, message]))


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_gives_the_same_metrics(world, tmp_path):
    wanted = evaluate()
    on_processes(world, work, tmp_path)
    for rank in range(world):
        found, message = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == wanted
        assert "needs a name and four numbers" in message
    assert wanted["n"] == 33 == wanted["even.n"] + wanted["odd.n"]


def pointing(monkeypatch, place):
    """A model whose maps are hot in the cell ``place(text, number of the token)`` of 6 x 4."""

    def maps(predictor, asked, pictures, image_of, texts, answers=(), hidden=()):
        out = []
        for text in texts:
            ids = predictor.tokenizer.encode(text, predictor.max_tokens)
            heat = torch.zeros(len(ids), 6, 4)
            for token in range(len(ids)):
                row, column = place(text, token)
                heat[token, row, column] = 1.0
            out.append(TokenMaps(heat, tuple(ids), 0.5, "match"))
        return out

    monkeypatch.setattr(grounding, "token_maps", maps)


def one(box, caption="a red box", name="red box", **more):
    class One:
        def __len__(self):
            return 1

        def __getitem__(self, i):
            targets = {"boxes": [{"name": name, "box": box}], **more}
            return Record(image=Image.new("RGB", (32, 48)), captions=(caption,), image_id="0", key="0", targets=targets)

    return One()


def test_measures(monkeypatch):
    pointing(monkeypatch, lambda text, token: (1, 2))  # x 16 to 24, y 8 to 16
    right, wrong = (16, 8, 24, 16), (0, 24, 8, 48)
    found = Grounding(source=one(right, detections=[wrong, right, (0, 0, 32, 48)]), threshold=0.5)(predictor())
    assert found["pointing"] == found["choice"] == found["iou50"] == 1
    assert found["iou"] > 0.6
    assert found["chance"] == pytest.approx(64 / (32 * 48))
    assert found["choice_chance"] == pytest.approx(1 / 3)
    missed = Grounding(source=one(wrong, detections=[wrong, right]))(predictor())
    assert missed["pointing"] == missed["choice"] == missed["iou"] == 0
    nothing = Grounding(source=one(right, detections=[]))(predictor())
    assert nothing["choice"] == nothing["choice_chance"] == 0  # nothing to choose from: missed
    assert Grounding(source=one(right))(predictor())["choice"] == 1  # its own box, then


class Two:
    """Records of which the first two are of one picture; a name each, or two."""

    splits = ("even", "odd")
    boxes = ((16, 8, 24, 16),), ((16, 8, 24, 16), (0, 24, 8, 48)), ((0, 24, 8, 48),), ((0, 24, 8, 48),)

    def __len__(self):
        return 4

    def __getitem__(self, i):
        boxes = [{"name": f"{COLOURS[j]} box", "box": box} for j, box in enumerate(self.boxes[i])]
        return Record(
            image=Image.new("RGB", (32, 48)), captions=("a tile",), image_id=f"picture {i // 2}", key=f"row {i}",
            targets={"boxes": boxes, "split": self.splits[i % 2]},
        )  # fmt: skip


def test_intervals_and_predictions(monkeypatch, tmp_path):
    pointing(monkeypatch, lambda text, token: (1, 2))  # x 16 to 24, y 8 to 16
    file = tmp_path / "p.json"
    found = Grounding(source=Two(), threshold=0.5, predictions=file, batch_size=3)(predictor())
    hits = [1, 1, 0, 0, 0]
    assert found["pointing"] == sum(hits) / 5
    low, high = clustered(torch.tensor(hits).double(), torch.tensor([0, 0, 0, 1, 1]))
    assert (found["pointing_low"], found["pointing_high"]) == pytest.approx((low, high))
    assert (found["iou50_low"], found["iou50_high"]) == pytest.approx((low, high))
    odd = clustered(torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1]))
    assert (found["odd.pointing_low"], found["odd.pointing_high"]) == pytest.approx(odd)
    rows = json.loads(file.read_text())
    assert [row["record"] for row in rows] == ["row 0", "row 1", "row 1", "row 2", "row 3"]
    assert [row["image"] for row in rows] == ["picture 0"] * 3 + ["picture 1"] * 2
    assert [row["text"] for row in rows][1:3] == ["red box", "green box"]
    assert all(not row["in_caption"] and row["peak"][0] in range(16, 24) for row in rows)
    assert [row["iou"] > 0.5 for row in rows] == [bool(hit) for hit in hits]
    assert rows[1]["chosen"] == rows[2]["chosen"] == rows[1]["box"] == [16, 8, 24, 16]
    assert rows[0]["region"] == pytest.approx([16, 8, 24, 16], abs=4)


def test_what_was_clipped_is_named_by_its_record_where_others_are_left_out(monkeypatch, caplog):
    pointing(monkeypatch, lambda text, token: (1, 2))

    class Out(Two):
        boxes = ((16, 8, 24, 16),), ((16, 8, 24, 16),), ((20, 8, 60, 16),), ((0, 24, 8, 48),)

        def __getitem__(self, i):
            record = super().__getitem__(i)
            return replace(record, image=b"damaged") if i == 0 else record

    Grounding(source=Out(), bad=0.5, batch_size=2)(predictor())
    assert "1 boxes reach outside of their pictures, the first in row 2" in caplog.text


def test_names_are_read_in_captions(monkeypatch):
    model = predictor()
    tokens = len(model.tokenizer.encode("a green tile a", 12))
    # hot where the box is for the words after "a green tile a", elsewhere for all others
    pointing(monkeypatch, lambda text, token: (1, 2) if text.startswith("a green") and token >= tokens else (5, 0))
    source = one((16, 8, 24, 16), caption="a green tile a red box")
    assert Grounding(source=source)(model)["pointing"] == 1
    found = Grounding(source=source, in_caption=False)(model)
    assert found["pointing"] == 0
    assert found["in_caption"] == 0
    # not said there: the name alone; said and nothing more: the whole sentence
    for caption in ("a green tile", "red box"):
        assert Grounding(source=one((16, 8, 24, 16), caption=caption))(model)["in_caption"] == 0
    assert Grounding(source=source, target="itc")(model)["in_caption"] == 0  # the similarity has no words


def test_hidden_words_where_the_model_can_guess_them(monkeypatch):
    model, asked_of = predictor(), []
    model.heads["mlm"] = MLM(model.model.spec)
    source = one((16, 8, 24, 16), caption="a green tile a red box")

    def maps(predictor, asked, pictures, image_of, texts, answers=(), hidden=()):
        asked_of.append((asked.target, list(texts), [list(places) for places in hidden]))
        return [TokenMaps(torch.ones(12, 6, 4), (2,), 0.5, "words")] * len(texts)

    monkeypatch.setattr(grounding, "token_maps", maps)
    places = list(
        range(*(len(model.tokenizer.encode(text, 12)) for text in ("a green tile a", "a green tile a red box")))
    )
    result = Grounding(source=source).evaluate(model)
    assert asked_of.pop() == ("mlm", ["a green tile a red box"], [places])
    assert result.asked == {"in captions": ("mlm", 0), "alone": ("itm", 0)}
    assert result.to_json()["asked"]["in captions"] == {"target": "mlm", "layer": 0}
    Grounding(source=source, target="itm")(model)
    assert asked_of.pop() == ("itm", ["a green tile a red box"], [])
    Grounding(source=source, in_caption=False)(model)
    assert asked_of.pop() == ("itm", ["red box"], [])
    Grounding(source=source, in_caption=False, target="mlm")(model)  # all of it is hidden
    assert asked_of.pop() == ("mlm", ["red box"], [list(range(1, len(model.tokenizer.encode("red box", 12))))])


def test_no_evidence_is_no_hit(monkeypatch):
    zero = TokenMaps(torch.zeros(3, 6, 4), (2, 5, 6), 0.5, "match")
    monkeypatch.setattr(grounding, "token_maps", lambda *args, **kwargs: [zero])
    found = Grounding(source=one((0, 0, 32, 48), name="a red box"))(predictor())
    assert found["pointing"] == 0
    assert found["choice"] == 0


def test_problems():
    for boxes, message in [
        (None, 'no "boxes"'),
        ([{"name": "red", "box": (3, 3, 3, 9)}], "with an area"),
        ([{"name": "red", "box": (3, 3, 9)}], "not .left, top, right, bottom."),
        ([{"box": (3, 3, 9, 9)}], "needs a name and four numbers"),
        ([{"name": ",", "box": (3, 3, 9, 9)}], "has no words"),
        (5, 'row 0: "boxes": 5: must be a list'),
        ("red", "row 0: .*must be a list"),
        ([{"name": "red", "box": (40, 3, 60, 9)}], r"row 0: the box \[40.0, .* lies outside of .* 32 x 48 pixels"),
        ([], "no record has"),
    ]:
        with pytest.raises(UserError, match=message):
            Grounding(source=Boxes(2, boxes=boxes))(predictor())
    for boxes in (5, [[1, 2, 3]], [["a", 2, 3, 4]], [None]):
        with pytest.raises(UserError, match='row 0: "detections": '):
            Grounding(source=Boxes(2, detections=boxes))(predictor())
    with pytest.raises(UserError, match="prompt='a'"):
        Grounding(source=Boxes(2), prompt="a")
    with pytest.raises(UserError, match="0 to 0"):
        Grounding(source=Boxes(2), layer=1)(predictor())


def test_a_prompt_may_hold_other_braces(monkeypatch):
    read = []

    def place(text, token):
        read.append(text)
        return 0, 0

    pointing(monkeypatch, place)
    for prompt, wanted in [("{} and {0}", "red box and {0}"), ("{x} {}", "{x} red box"), ("{} {}", "red box red box")]:
        Grounding(source=one((0, 0, 9, 9)), in_caption=False, prompt=prompt)(predictor())
        assert set(read) == {wanted}
        read.clear()


def test_a_box_that_reaches_out_of_its_picture_is_clipped(monkeypatch, caplog):
    pointing(monkeypatch, lambda text, token: (0, 0))
    whole = Grounding(source=one((-500, -3, 900, 48)))(predictor())  # of 32 x 48 pixels
    assert (whole["chance"], whole["pointing"]) == (1, 1)
    assert "1 boxes reach outside of their pictures, the first in 0;" in caplog.text
    caplog.clear()
    assert Grounding(source=one((0, 0, 32.5, 48)))(predictor())["chance"] == 1
    assert not caplog.text  # within a pixel: rounding
    # a candidate to the left of the picture holds nothing of it
    assert best_box(torch.ones(10, 10), [(-8, 0, -1, 10), (0, 0, 1, 1)]) == 1


def test_rows_are_checked_before_any_picture_is_read(monkeypatch, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    good = {"image": "a.png", "boxes": [{"name": "red", "box": [0, 0, 8, 8]}]}
    rows = [good, good, good | {"boxes": 5}]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened = []
    monkeypatch.setattr(grounding, "load_image", opened.append)
    with pytest.raises(UserError, match=r'r\.jsonl:3: "boxes": 5'):
        Grounding(source=JsonLines(tmp_path / "r.jsonl", needs=("boxes",)), batch_size=1)(predictor())
    assert not opened


@pytest.mark.parametrize("head", [lambda spec: Classify(spec, ("no", "yes")), lambda spec: AnswerDecoder(
    spec, ("no", "yes"), depth=1, heads=2, dropout=0.0)])  # fmt: skip
def test_models_that_only_answer(head):
    model = predictor(heads=())
    model.heads = {"label": head(model.model.spec)}
    result = Grounding(source=one((0, 0, 9, 9))).evaluate(model)
    assert {place: target for place, (target, _) in result.asked.items()} == {"alone": "itc"}
    assert result.rates["n"] == 1
    bare = predictor(heads=(), model=vilt_tiny)
    bare.heads = {"label": head(bare.model.spec)}
    with pytest.raises(UserError, match=r"nothing of what could be explained here: itm .* Its heads are: label"):
        Grounding(source=one((0, 0, 9, 9)))(bare)
    with pytest.raises(UserError, match='target="answer": a name is no question'):
        Grounding(source=one((0, 0, 9, 9)), target="answer")


def test_names_alone_by_what_the_model_has():
    def alone(model):
        return Grounding(source=one((0, 0, 9, 9)), in_caption=False).evaluate(model).asked["alone"][0]

    model = predictor()
    model.heads["mlm"] = MLM(model.model.spec)
    assert alone(model) == "itm"  # as published
    del model.heads["itm"]
    assert alone(model) == "mlm"
    assert alone(predictor(heads=("itc",))) == "itc"


def test_splits_without_expressions_are_left_out():
    result = Grounding(source=Boxes(1)).evaluate(predictor())
    assert set(result.by_split) == {"even"}
    constant = {f"{split}{name}" for split in ("", "even.") for name in ("n", "chance", "choice_chance")}
    assert alike(Grounding(source=Boxes(1)), result.metrics()) == constant
    assert not any(name.startswith("odd") for name in result.metrics())


def test_names_that_do_not_fit_are_told(caplog):
    Grounding(source=one((0, 0, 9, 9), name="a red box " * 9), in_caption=False)(predictor())
    assert "1 of 1 texts" in caplog.text
    assert "cut" in caplog.text


def test_overlap_counts_pixels():
    def counted(a, b):
        cells = [{(x, y) for x in range(int(r[0]), int(r[2])) for y in range(int(r[1]), int(r[3]))} for r in (a, b)]
        return len(cells[0] & cells[1]) / len(cells[0] | cells[1])

    generator = torch.manual_seed(0)
    seen = set()
    for _ in range(300):
        sides = torch.randint(0, 12, (2, 4), generator=generator)
        a, b = ((int(r[0]), int(r[1]), int(r[0] + r[2] + 1), int(r[1] + r[3] + 1)) for r in sides)
        wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        assert refer_iou(a, b) == (pytest.approx(counted(a, b)) if wide > 1 and high > 1 else 0)
        seen.add(refer_iou(a, b) > 0)
    assert seen == {True, False}
    assert refer_iou((0, 0, 10, 10), (0, 0, 10, 5)) == 0.5


def test_a_pixel_on_the_edge_lies_inside_on_the_left_and_above_alone():
    inside = {(x, y) for x in range(8) for y in range(8) if points_at((x, y), (2, 3, 5, 7))}
    assert inside == {(x, y) for x in (2, 3, 4) for y in (3, 4, 5, 6)}


def test_best_box():
    heat = torch.zeros(10, 20)
    heat[2:6, 3:7] = 1.0
    # sums 16, 16, 4, 0 over the roots of 16, 200, 4, 9
    assert best_box(heat, [(0, 0, 20, 10), (3, 2, 7, 6), (3, 2, 5, 4), (12, 6, 15, 9)]) == 1
    assert best_box(heat, [(12, 6, 15, 9)]) is None
    assert best_box(heat, []) is None
    assert best_box(heat, [(0, 0, 20, 10), (3, 2, 7, 6)], power=0.0) == 0  # the first of equals


def test_region_of_the_peak():
    heat = torch.zeros(40, 60)
    heat[5:15, 10:30] = 0.6
    heat[8, 20] = 1.0
    heat[30:38, 40:50] = 0.9  # another one, apart
    assert region_box(heat, 0.5) == (10, 5, 30, 15)
    assert region_box(heat, 0.7) == (20, 8, 21, 9)
    large = heat.repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert region_box(large, 0.5) == pytest.approx((80, 40, 240, 120), abs=8)
    assert region_box(torch.zeros(4, 6), 0.5) == (0, 0, 6, 4)


def test_a_model_whose_maps_are_no_numbers_is_refused(monkeypatch):
    """A map of NaN has no region, for which the whole picture stood in: "right" for every large box."""
    broken = TokenMaps(torch.full((9, 6, 4), torch.nan), tuple(range(9)), 0.5, "match")
    monkeypatch.setattr(grounding, "token_maps", lambda *args, **kwargs: [broken])
    with pytest.raises(UserError, match="heat maps hold values that are not finite"):
        Grounding(source=one((0, 0, 32, 48)))(predictor(2))
