import json
import re
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from mmkit.data.records import Record
from mmkit.data.show.boxes import COLOURS
from mmkit.errors import UserError
from mmkit.evals.zeroshot import ZeroShot
from mmkit.inference.detecting import Found
from mmkit.report import chart
from mmkit.report.collect import collect_classified, collect_examples, collect_objects
from mmkit.report.make import Report
from mmkit.report.page import Page, result_rows, write_report
from mmkit.report.run_folder import Curve, Panel, facts, panels, read_events
from tests.evals.parts import Pictures, predictor


@pytest.fixture
def folder(tmp_path):
    """What a run leaves behind."""
    plan = {
        "event": "plan", "step": 0, "time": 100.0, "name": "tiny", "records": 1234, "steps": 30,
        "batch": {"rank_batch": 8, "accumulation_steps": 1, "global_batch": 8, "world": 1}, "device": "cpu",
        "precision": "no", "threads": 1, "parameters": {"model": [5000, 5000], "ema": [0, 5000]},
    }  # fmt: skip
    events = [plan]
    for step in range(1, 31):
        events.append({
            "event": "train", "step": step, "time": 100.0 + step, "loss": 9 / step, "losses.itc": 5 / step,
            "itc.chance": 4.0, "itm.accuracy": 0.7, "itm.chance_accuracy": 2 / 3, "losses.itm": 0.6,
        })  # fmt: skip
    for step in (15, 30):
        events.append({
            "event": "eval", "step": step, "time": 140.0, "retrieval.t2i_r1": 0.5, "retrieval.i2t_r1": 0.25,
            "retrieval.rerank.t2i_r1": 0.75, "retrieval.rerank.i2t_r1": 0.6, "retrieval.images": 13,
            "retrieval.texts": 26, "retrieval.chance_r1": 0.0625, "retrieval.chance_i2t_r1": 0.125,
        })  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    (tmp_path / "versions.json").write_text('{"torch": "9.9"}')
    (tmp_path / "command.txt").write_text("mmkit train <x> & co\n")
    return tmp_path


class Checker(HTMLParser):
    """Collects what a page asks the network for, its text, and whether its tags close."""

    VOID = frozenset(("meta", "img", "br", "line", "polyline", "circle"))

    def __init__(self):
        super().__init__()
        self.open, self.links, self.text, self.images = [], [], [], 0

    def handle_starttag(self, tag, attrs):
        self.images += tag == "img"
        self.links += [
            v for k, v in attrs if k in ("src", "href", "srcset", "data") and not v.startswith("data:image/")
        ]
        assert tag not in ("script", "link", "iframe")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(path) -> Checker:
    page = Checker()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert page.links == []
    assert not re.search(r"url\(|@import", path.read_text(encoding="utf-8"))
    return page


def test_the_page_of_a_run(folder):
    report = Report(
        name="a <run>", source=partial(Pictures, 13),
        zeroshot={"unseen": partial(ZeroShot, source=partial(Pictures, 13))},
        titles={"unseen": "never seen", "itc": "Contrast"}, attribution="Emoji by OpenMoji, CC BY-SA 4.0",
        shown=3, classified=6,
    )  # fmt: skip
    metrics = report(predictor(), folder)
    page = checked(folder / "report.html")
    text = " ".join(" ".join(page.text).split())
    assert page.images == 3 + 3 * 5 + 6
    for wanted in (
        "a <run>", "50.0 %", "75.0 %", "6.2 %", "12.5 %", "never seen: top\u20111", "Contrast",
        "13 pictures, 11 classes", "CC BY-SA 4.0", "mmkit train <x> & co", "torch 9.9", "1,234", "chance 4.000", "✓",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert metrics["unseen.n"] == 13


def test_a_run_without_examples_has_a_page_too(folder):
    page = checked(write_report(folder, Page(name="bare")))
    assert page.images == 0
    assert "Learning curves" in page.text


def test_examples_are_the_best_and_the_right_are_marked():
    model, source = predictor(1), Pictures(13)
    found = collect_examples(model, source, shown=4, top=13, rerank_top=5)
    records = [source[i] for i in range(13)]
    texts = [c for r in records for c in r.captions]
    assert (found.images, found.texts, len(found.by_picture), len(found.by_text)) == (13, len(texts), 4, 4)
    for query in found.by_text:
        relevant = [query.text in r.captions for r in records]
        assert sum(a.right for a in query.answers) == sum(relevant)
        assert query.answers[query.place - 1].right
        assert not any(a.right for a in query.answers[: query.place - 1])
        chances = [a.probability for a in query.answers]
        assert chances[:5] == sorted(chances[:5], reverse=True)
        assert chances[5:] == [None] * 8
        rest = [a.similarity for a in query.answers[5:]]
        assert rest == sorted(rest, reverse=True)
        assert min(a.similarity for a in query.answers[:5]) >= rest[0]
    for query in found.by_picture:
        own = next(r.captions for r in records if r.captions[0] == query.text)
        said = {text for r in records if not set(r.captions).isdisjoint(own) for text in r.captions}
        assert query.answers[query.place - 1].right
        assert not any(a.right for a in query.answers[: query.place - 1])
        assert {a.text for a in query.answers if a.right} <= said
        for answer in query.answers[:3]:
            wanted = model.match([query.image], [answer.text]).item()
            assert answer.probability == pytest.approx(wanted, abs=1e-5)
            cosine = (model.encode_image([query.image]) @ model.encode_text([answer.text]).T).item()
            assert answer.similarity == pytest.approx(cosine, abs=1e-5)
        assert {a.text for a in query.answers if a.right} <= set(texts)
        assert own


def test_the_best_are_sought_among_the_first_records():
    found = collect_examples(predictor(1), Pictures(13), shown=20, pool=5, top=99)
    assert (found.images, len(found.by_picture), len(found.by_picture[0].answers)) == (5, 5, found.texts)
    assert collect_examples(predictor(1), Pictures(3), shown=1).images == 3


def test_a_model_that_cannot_match_shows_cosines(folder):
    found = collect_examples(predictor(heads=("itc",)), Pictures(13), shown=2)
    assert found.rerank_top is None
    assert all(a.probability is None for q in found.by_picture for a in q.answers)
    checked(write_report(folder, Page(name="dual", examples=found)))


def test_the_matching_head_is_not_asked_where_it_is_left_out(folder):
    found = collect_examples(predictor(1), Pictures(13), shown=2, rerank_top=None)
    assert found.rerank_top is None
    answers = [a for q in (*found.by_picture, *found.by_text) for a in q.answers]
    assert {a.probability for a in answers} == {None}
    report = Report(name="young", source=Pictures(13), shown=2, rerank_top=None)
    report(predictor(1), folder)
    assert "put in order by the probability" not in (folder / "report.html").read_text()


def test_classified_pictures_are_those_of_the_result():
    result = ZeroShot(source=Pictures(13))
    found = collect_classified(Pictures(13), result.evaluate(predictor()), shown=13)
    assert [c.label for c in found][:3] == ["red", "green", "blue"]
    assert sum(c.right for c in found) / 13 == pytest.approx(result(predictor())["top1"])
    assert {len(c.best) for c in found} == {3}
    source = Pictures(13, broken=4)
    result = ZeroShot(source=source, bad=0.2).evaluate(predictor())
    left = [i for i in range(13) if i != 4]
    found = collect_classified(source, result, shown=13)
    assert [c.image.size for c in found] == [source[i].image.size for i in left]
    assert [c.label for c in found] == [source[i].targets["label"] for i in left]


def test_panels_have_their_chance_levels(folder):
    found = {p.title: p for p in panels(read_events(folder), {"itc": "Contrast"})}
    assert [c.name for c in found["Contrast"].curves] == ["measured", "chance"]
    assert found["Contrast"].curves[1].points[0] == (1.0, 4.0)
    assert found["itm: accuracy"].curves[1].points[-1] == (30.0, pytest.approx(2 / 3))
    assert {c.name for c in found["retrieval: R@1"].curves} == {"text to image", "re-ranked", "chance"}


def test_a_chart_puts_points_where_they_belong():
    panel = Panel(title="t", unit="u", curves=(Curve(name="a", points=((0.0, 0.0), (10.0, 4.0), (20.0, 2.0))),))
    svg = chart.line_chart(panel)
    points = re.search(r'polyline class="line0" points="([^"]*)"', svg)[1].split()
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in points)
    assert x0 == chart.LEFT
    assert x2 == chart.WIDTH - chart.RIGHT
    assert x1 == pytest.approx((x0 + x2) / 2)
    assert y0 == chart.HEIGHT - chart.BOTTOM
    assert y1 == chart.TOP
    assert y2 == pytest.approx((y0 + y1) / 2)
    assert "t, u: a from 0.000 to 2.000" in svg


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.0007), (0, 123456), (-3, 5), (0, 7.7)])
def test_ticks_are_round_and_cover(low, high):
    found = chart.ticks(low, high, 4)
    assert found[0] <= low
    assert found[-1] >= high * (1 - 1e-9)
    assert 3 <= len(found) <= 8


def test_long_curves_are_thinned_and_keep_their_end():
    points = [(float(i), float(torch.sin(torch.tensor(i / 900)))) for i in range(10_000)]
    found = chart.thinned(points)
    assert len(found) <= 400
    assert found[-1] == points[-1]
    assert max(y for _, y in found) == pytest.approx(1, abs=1e-3)


def test_damaged_files_are_named(folder, tmp_path):
    assert ("records", "1,234") in facts(folder, read_events(folder))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:34: damaged line"):
        read_events(folder)
    with pytest.raises(UserError, match=r"metrics\.jsonl: missing"):
        write_report(tmp_path / "none", Page(name="x"))


def test_a_re_ranking_that_does_harm_is_said():
    retrieval = {"t2i_r1": 0.516, "i2t_r1": 0.5, "rerank.t2i_r1": 0.014, "rerank.i2t_r1": 0.5, "chance_r1": 0.002}
    metrics = {f"r.{name}": value for name, value in (retrieval | {"texts": 9, "images": 9}).items()}
    first, second = result_rows(metrics, {})
    assert first.note == "9 texts, 9 pictures; re-ranking lowers it"
    assert second.note == "9 texts, 9 pictures"
    assert [row.note for row in result_rows(metrics, {}, "clips")][1] == "9 texts, 9 clips"
    found = {"z.top1": 0.5, "z.rerank.top1": 0.4, "z.n": 3, "z.classes": 2, "z.chance": 0.5}
    assert [row.note for row in result_rows(found, {})] == ["3 pictures, 2 classes; re-ranking lowers it"]
    assert [row.note for row in result_rows(found, {}, "clips")] == ["3 clips, 2 classes; re-ranking lowers it"]


class Scene:
    """One picture with a box."""

    object_names = ("dog", "cat")

    def __len__(self):
        return 1

    def __getitem__(self, i):
        boxes = [{"label": 1, "box": (4, 4, 20, 20)}]
        image = Image.new("RGB", (32, 24), "white")
        return Record(image=image, captions=(), image_id="0", key="row 0", targets={"boxes": boxes})


class Finder:
    """Finds a dog for sure, and hardly a cat."""

    def detect(self, images):
        boxes, scores, labels = np.array([[0, 0, 30, 20.0], [4, 4, 9, 9]]), np.array([0.9, 0.2]), np.array([0, 1])
        return [Found(boxes=boxes, scores=scores, labels=labels, size=(32, 24), classes=("dog", "cat"))] * len(images)


def test_objects_are_shown_beside_what_is_there(folder):
    [one] = collect_objects(Finder(), Scene())
    assert one.said == "dog 0.90"
    assert one.found.size == one.there.size == (320, 240)
    found, there = ({tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3)} for image in (one.found, one.there))
    assert COLOURS[0] in found
    assert COLOURS[1] not in found
    assert COLOURS[1] in there
    assert one.there.getpixel((4 * 10, 20 * 10 - 1)) == COLOURS[1]
    text = write_report(folder, Page(name="x", objects=[one])).read_text()
    assert "Objects found" in text
    assert "dog 0.90" in text
    assert "Objects found" not in write_report(folder, Page(name="x")).read_text()


def test_average_precision_has_a_row_and_a_panel():
    numbers = {"n": 5, "boxes": 9, "classes": 2, "ap": 0.25, "ap50": 0.5, "chance_ap": 0.01}
    [row] = result_rows({f"detection.{key}": value for key, value in numbers.items()}, {"detection": "boxes"})
    assert (row.title, row.measure, row.value, row.chance) == ("boxes", "average precision", 0.25, 0.01)
    assert "5 pictures, 9 boxes" in row.note
    assert "50.0" in row.note
    events = [
        {"event": "eval", "step": step, "time": 1.0} | {f"detection.{key}": value for key, value in numbers.items()}
        for step in (1, 2)
    ]
    [panel] = panels(events, {})
    assert panel.title == "detection: average precision"
    assert {one.name for one in panel.curves} == {"chance", "AP", "AP50"}
