"""Published forms of boxes, made up at a tiny size: what a record holds, published ids, what is wrong with files."""

import json
import pickle
from collections import Counter
from random import Random

import pytest
from PIL import Image

from mmkit.data.boxes import boxes_in
from mmkit.data.check import check_named
from mmkit.data.images.opening import load_image
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.misplaced import misplaced
from mmkit.data.objects import Objects
from mmkit.data.sources.boxes.coco import Instances
from mmkit.data.sources.open import open_source
from mmkit.data.targets import Given
from mmkit.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Three pictures of 40 x 20, below ``pictures``."""
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 20), (80 * i, 9, 9)).save(tmp_path / f"pictures/{i}.jpg")
    return tmp_path


def written(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def placed(record):
    return [(one["name"], tuple(one["box"])) for one in record.targets["boxes"]]


# -- COCO's form --


def coco(**other):
    """Classes 3 and 90; the second picture has no box; one is a crowd."""
    images = [{"id": 100 + i, "file_name": f"{i}.jpg", "width": 40, "height": 20} for i in range(3)]
    boxes = [(100, 90, [1, 2, 10.5, 8], 0), (102, 3, [0, 0, 40, 20], 1), (100, 3, [20, 5, 4, 4], 0)]
    annotations = [
        {"id": 10 + i, "image_id": image, "category_id": kind, "bbox": box, "iscrowd": crowd, "area": 7.5 + i}
        for i, (image, kind, box, crowd) in enumerate(boxes)
    ]
    return {
        "images": images, "annotations": annotations,
        "categories": [{"id": 90, "name": "toothbrush "}, {"id": 3, "name": "car"}],
    } | other  # fmt: skip


def opened(folder, data=None, name="instances.json", **options):
    path = written(folder / name, coco() if data is None else data)
    return open_source(path, {"boxes"}, images=folder / "pictures", **options)


def test_coco(folder):
    source = opened(folder)
    assert (source.object_names, source.object_ids) == (["car", "toothbrush"], [3, 90])
    assert [source[i].image_id for i in range(len(source))] == ["100", "101", "102"]
    assert source[0].targets["boxes"] == [
        {"name": "toothbrush", "box": (1, 2, 11.5, 10), "label": 1, "area": 7.5, "id": 10},
        {"name": "car", "box": (20, 5, 24, 9), "label": 0, "area": 9.5, "id": 12},
    ]
    assert source[1].targets["boxes"] == []
    assert source[2].targets["boxes"][0]["crowd"] is True
    assert load_image(source[2]).size == (40, 20)
    encoder = Objects(Given(source=source))
    assert encoder.classes == ("car", "toothbrush")
    with pytest.raises(UserError, match="holds boxes, no captions"):
        open_source(folder / "instances.json", {"caption"}, images=folder / "pictures")
    captions = {"images": coco()["images"], "annotations": [{"image_id": 100, "caption": "a"}]}
    with pytest.raises(UserError, match="holds captions, no boxes"):
        opened(folder, captions, "captions.json")


def changed(**entry):
    data = coco()
    data["annotations"][1] |= entry
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(image_id=5), r"instances.json:annotations\[1\]: .*is of none"),
        (changed(category_id=4), r"annotations\[1\]: category_id 4 is of none"),
        (changed(bbox=[1, 2, 3]), r"annotations\[1\]: \"bbox\" needs four numbers"),
        (changed(bbox=[1, 2, -3, 4]), r"annotations\[1\]: .*left, top, width, height"),
        (changed(bbox=[1, 2, float("inf"), 4]), r"annotations\[1\]: .*four finite numbers"),
        (coco(categories=[{"id": 3}, {"id": 90, "name": "a"}]), r"categories\[0\]: a class needs"),
        (coco(categories=[{"id": 3, "name": "A"}, {"id": 90, "name": "a"}]), "'a': name each otherwise"),
        (coco(images=[*coco()["images"], {"id": 100, "file_name": "1.jpg"}]), r"images\[3\]: id 100 is of 0.jpg"),
        (coco(images=[*coco()["images"], {"id": 7, "file_name": "no.jpg"}]), r"images\[3\]: no picture"),
        (coco(images=[*coco()["images"], {"file_name": "no.jpg"}]), r"images\[3\]: a picture needs"),
        ({"images": [], "annotations": [], "categories": []}, "no pictures in it"),
    ],
)
def test_what_is_wrong_with_coco_is_told_by_file_and_row(folder, data, message):
    with pytest.raises(UserError, match=message):
        opened(folder, data)


def test_corners_and_shares_in_place_of_widths_are_refused(folder):
    boxes = [[1, 2, 11, 10], [30, 5, 38, 9], [20, 10, 36, 18]]
    data = coco()
    for entry, box in zip(data["annotations"], boxes, strict=True):
        entry["bbox"] = box
    with pytest.raises(UserError, match=r"instances.json: corners in place of width and height: its boxes look like"):
        opened(folder, data)
    for entry in data["annotations"]:
        entry["bbox"] = [0.1, 0.2, 0.5, 0.5]
    with pytest.raises(UserError, match="shares in place of pixels: all 3 boxes"):
        opened(folder, data)


def test_lvis_takes_names_from_addresses(folder):
    images = [
        {"id": i, "coco_url": f"http://images.cocodataset.org/pictures/{i}.jpg", "neg_category_ids": [90],
         "not_exhaustive_category_ids": []}
        for i in range(3)
    ]  # fmt: skip
    data = coco(
        images=images, annotations=[{"id": 1, "image_id": 2, "category_id": 3, "bbox": [0, 0, 4, 4], "area": 1}]
    )
    data["categories"][0]["frequency"], data["categories"][1]["frequency"] = "r", "f"
    source = open_source(written(folder / "lvis_v1_val.json", data), {"boxes"})
    assert source[2].image == folder / "pictures/2.jpg"
    assert source[2].targets["neg_category_ids"] == [90]
    assert source[2].targets["not_exhaustive_category_ids"] == []
    assert source.frequencies == ["f", "r"]  # in the order of the labels


def test_goldg_has_spans_of_the_raw_caption(folder):
    caption = " A dog, and a dog"
    images = [
        {"id": 1, "file_name": "0.jpg", "caption": caption, "tokens_positive_eval": [[[12, 17]], [[1, 6]]]},
        {"id": 2, "file_name": "0.jpg", "caption": "a cat"},
    ]
    annotations = [
        {"id": i, "image_id": image, "category_id": 1, "bbox": [i, 0, 4, 4], "tokens_positive": spans}
        for i, (image, spans) in enumerate(
            [(1, [[1, 6]]), (1, [[12, 17]]), (1, [[1, 6]]), (2, [[0, 5], ["0", 3], [3, 3], [-1, 2]])]
        )
    ]
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    source = opened(folder, data, "goldg.json")
    first = source[0]
    assert first.captions == (caption,)
    assert first.targets["phrases"] == [
        {"caption": 0, "spans": [(12, 17)], "boxes": [1]}, {"caption": 0, "spans": [(1, 6)], "boxes": [0, 2]},
    ]  # fmt: skip
    assert [caption[a:b] for a, b in ((12, 17), (1, 6))] == ["a dog", "A dog"]
    assert source[1].image_id == first.image_id  # two sentences, one picture
    assert source[1].targets["phrases"] == [{"caption": 0, "spans": [(0, 5)], "boxes": [0]}]
    assert "eval_spans" not in first.targets


def test_a_folder_with_annotations_is_enough(folder, monkeypatch):
    (folder / "pictures").rename(folder / "val2017")
    written(folder / "annotations/instances_val2017.json", coco())
    written(folder / "annotations/captions_val2017.json", {"images": [], "annotations": [{"caption": "a"}]})
    monkeypatch.chdir(folder.parent)
    for split in (None, "val", "val2017"):
        source = open_source(folder.name, {"boxes"}, split=split)
        assert load_image(source[0]).size == (40, 20)
        assert placed(source[0])[1] == ("car", (20, 5, 24, 9))
    written(folder / "annotations/instances_train2017.json", coco())
    with pytest.raises(UserError, match=r"give one of them, or --split: annotations/instances_train2017.json, ann"):
        open_source(folder, {"boxes"})
    with pytest.raises(UserError, match="split 'test' names 0 of them"):
        open_source(folder, {"boxes"}, split="test")
    assert len(open_source(folder, {"boxes"}, split="val")) == 3


def test_a_folder_of_an_annotation_tool(folder):
    (folder / "pictures").rename(folder / "train")
    written(folder / "train/_annotations.coco.json", coco())
    for where in (folder, folder / "train"):
        assert load_image(open_source(where, {"boxes"})[0]).size == (40, 20)
    assert len(open_source(folder, {"boxes"}, split="train")) == 3
    (folder / "train").rename(folder / "shots")
    (folder / "shots/_annotations.coco.json").rename(folder / "mine.json")
    assert load_image(open_source(folder, {"boxes"})[0]).size == (40, 20)
    with pytest.raises(UserError, match="no picture"):
        open_source(folder, {"boxes"}, images=folder)


# -- VOC --


def xml(*objects, name="wrong.jpg"):
    parts = "".join(
        f"<object><name>{label}</name><difficult>{hard}</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
        f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for label, hard, (a, b, c, d) in objects
    )
    return f"<annotation><filename>{name}</filename>{parts}</annotation>"


def voc(folder, first=None):
    (folder / "pictures").rename(folder / "JPEGImages")
    written(folder / "Annotations/0.xml", first or xml(("dog", 0, (1, 1, 40, 20)), ("cat", 1, (5.5, 3, 8, 9))))
    written(folder / "Annotations/1.xml", xml(("dog", 0, (0, 2, 3, 4)), ("dog", 0, (5, 5, 5, 5))))
    written(folder / "Annotations/2.xml", xml())
    written(folder / "ImageSets/Main/val.txt", "2\n1  -1\n")


def test_voc_counts_from_one_and_includes_its_last_pixel(folder, caplog):
    voc(folder)
    source = open_source(folder, {"boxes"})
    assert placed(source[0]) == [("dog", (0, 0, 40, 20)), ("cat", (4.5, 2, 8, 9))]
    assert [one.get("ignore", False) for one in source[0].targets["boxes"]] == [False, True]
    assert placed(source[1]) == [("dog", (0, 1, 3, 4)), ("dog", (4, 4, 5, 5))]  # of one pixel
    assert source.object_ids == [1, 2]
    assert "1 boxes begin before the first pixel" in caplog.text
    assert source.object_names == ["cat", "dog"]
    assert source[0].image == folder / "JPEGImages/0.jpg"  # not the name inside
    val = open_source(folder, {"boxes"}, split="val")
    assert [placed(val[i])[:1] for i in range(2)] == [[], [("dog", (0, 1, 3, 4))]]
    with pytest.raises(UserError, match=r"no split 'test'.*there are: val"):
        open_source(folder, {"boxes"}, split="test")


def test_voc_beside_its_pictures(folder):
    written(folder / "pictures/1.xml", xml(("dog", 0, (1, 1, 2, 2))))
    source = open_source(folder / "pictures", {"boxes"})
    assert (len(source), source[0].image, placed(source[0])) == (
        1, folder / "pictures/1.jpg", [("dog", (0, 0, 2, 2))],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "0.xml: .*no element found|0.xml: mismatched"),
        (xml(("dog", 0, (9, 1, 4, 5))), r"0.xml: object 0: \[9.0, 1.0, 4.0, 5.0\]: xmax < xmin"),
        (xml((" ", 0, (1, 1, 4, 5))), 'object 0: the object has no "name"'),
        (xml(("dog", 0, ("x", 1, 4, 5))), "object 0: its bndbox needs four numbers"),
    ],
)
def test_what_is_wrong_with_voc_is_told_by_file(folder, text, message):
    voc(folder, text)
    with pytest.raises(UserError, match=message):
        open_source(folder, {"boxes"})


# -- YOLO --

YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: dog\n  1: traffic light\n"


def yolo(folder, first="1 0.5 0.5 0.5 0.2\n0 0.1 0.2 0.3 0.2 0.2 0.8\n"):
    (folder / "images").mkdir()
    (folder / "pictures").rename(folder / "images/train")
    written(folder / "labels/train/0.txt", first)
    written(folder / "labels/train/1.txt", "")
    return written(folder / "data.yaml", YAML)


def test_yolo_is_of_shares_of_the_upright_picture(folder, caplog):
    file = yolo(folder)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(folder / "images/train/2.jpg", exif=exif)
    written(folder / "images/train/2.txt", "0 0.5 0.5 1 1\n")  # beside its picture
    source = open_source(file, {"boxes"})
    assert placed(source[0]) == [("traffic light", (10, 8, 30, 12)), ("dog", pytest.approx((4, 4, 12, 16)))]
    assert placed(source[1]) == []
    assert placed(source[2]) == [("dog", (0, 0, 20, 40))]
    assert load_image(source[2]).size == (20, 40)
    assert (source.object_names, source.object_ids) == (["dog", "traffic light"], [0, 1])
    assert not caplog.text
    (folder / "labels/train/1.txt").unlink()
    assert len(open_source(folder, {"boxes"}, split="train")) == 3
    assert "1 of 3 pictures have no file of labels: background, or forgotten" in caplog.text


def test_yolo_as_roboflow_writes_it(folder):
    """Paths begin with ``../`` there, though the folders lie beside the YAML."""
    (folder / "train").mkdir()
    (folder / "pictures").rename(folder / "train/images")
    written(folder / "train/labels/0.txt", "0 0.5 0.5 1 1\n")
    source = open_source(written(folder / "data.yaml", "train: ../train/images\nnames: ['a']\n"), {"boxes"})
    assert placed(source[0]) == [("a", (0, 0, 40, 20))]


@pytest.mark.parametrize("path", [".", "none", ""])
def test_yolo_from_a_path_relative_to_where_one_is(folder, monkeypatch, path):
    yolo(folder)
    written(folder / "data.yaml", YAML.replace("path: .", f"path: {path}"))
    monkeypatch.chdir(folder.parent)
    for spec in (folder.name, f"{folder.name}/data.yaml", f"./{folder.name}"):
        source = open_source(spec, {"boxes"})
        assert load_image(source[0]).size == (40, 20)
        assert len(source) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 20 10 5 5", r"labels/train/0.txt:2: .*numbers are shares, from 0 to 1"),
        ("2 0.5 0.5 1 1", "0.txt:2: class 2, and there are 2, counted from 0"),
        ("0.5 0.5 0.5 1 1", "0.txt:2: class 0.5"),
        ("0 0.5 0.5 1", "0.txt:2: 3 numbers; needed are 4"),
        ("0 0.5 0.5 -1 1", "0.txt:2: .*centre x, centre y, width, height"),
        ("dog 0.5 0.5 1 1", "0.txt:2: expected a class and numbers"),
    ],
)
def test_what_is_wrong_with_yolo_is_told_by_line(folder, line, message):
    file = yolo(folder, f"0 0.5 0.5 1 1\n{line}\n")
    with pytest.raises(UserError, match=message):
        open_source(file, {"boxes"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (YAML.replace("  1:", "  2:"), "counted from 0 without a gap"),
        ("names: dog\ntrain: images", '"names" must be'),
        (YAML.replace("images/train", "none"), "train: no .*none"),
        (YAML.replace("train:", "test:"), "there are: val, te"),
        ("names: [", "cannot be read as YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_yaml_is_told(folder, text, message):
    yolo(folder)
    with pytest.raises(UserError, match=message):
        open_source(written(folder / "data.yaml", text), {"boxes"})


# -- phrases --


def flickr(folder):
    (folder / "pictures").rename(folder / "flickr30k-images")
    lines = [
        "[/EN#5/people A man] in [/EN#6/clothing/other a red hat] likes [/EN#0/notvisual it] , [/EN#5/people A man] .",
        "[/EN#5/people Somebody] waits .",
    ]
    written(folder / "Sentences/1.txt", "\n".join(lines) + "\n")
    boxes = "".join(
        f"<object>{names}<bndbox><xmin>{a}</xmin><ymin>1</ymin><xmax>{b}</xmax><ymax>20</ymax></bndbox></object>"
        for names, a, b in [("<name>5</name><name>6</name>", 1, 9), ("<name>5</name>", 11, 20)]
    )
    nothing = "<object><name>7</name><scene>1</scene><nobndbox>1</nobndbox></object>"
    written(folder / "Annotations/1.xml", f"<annotation>{boxes}{nothing}</annotation>")
    written(folder / "test.txt", "1\n")


def test_flickr_entities(folder):
    flickr(folder)
    source = open_source(folder, {"boxes"}, split="test")
    record = source[0]
    assert record.captions == ("A man in a red hat likes it , A man .", "Somebody waits .")
    assert placed(record) == [("A man", (0, 0, 9, 20)), ("a red hat", (0, 0, 9, 20)), ("A man", (10, 0, 20, 20))]
    said = [(record.captions[p["caption"]][slice(*p["spans"][0])], p["boxes"]) for p in record.targets["phrases"]]
    assert said == [("A man", [0, 2]), ("a red hat", [1]), ("it", []), ("A man", [0, 2]), ("Somebody", [0, 2])]
    assert record.targets["phrases"][1]["types"] == ["clothing", "other"]
    assert record.targets["phrases"][3]["spans"] == [(30, 35)]  # the second of two that read alike
    written(folder / "Sentences/1.txt", "[/EN#5/people A man in a hat\n")
    with pytest.raises(UserError, match=r"no split 'val'.*there are: test"):
        open_source(folder, {"boxes"}, split="val")
    with pytest.raises(UserError, match=r"1: Sentences/1.txt: a phrase is not closed"):
        open_source(folder, {"boxes"})


def test_refcoco(folder, caplog):
    (folder / "pictures").rename(folder / "train2014")
    sentences = [{"sent": "left dog", "raw": "Left dog!"}, {"sent": "the dog"}]
    refs = [
        {"ref_id": 7, "ann_id": 11, "image_id": 100, "split": "testA", "sentences": sentences},
        {"ref_id": 8, "ann_id": 12, "image_id": 102, "split": "train", "sentences": sentences[:1]},
    ]
    written(folder / "instances.json", coco())
    for name in ("refs(unc).p", "refs(google).p"):
        (folder / name).write_bytes(pickle.dumps(refs))
    source = open_source(folder / "refs(unc).p", {"boxes"}, split="testA")
    assert [record.captions for record in map(source.__getitem__, range(2))] == [("left dog",), ("the dog",)]
    assert source[1].targets == {
        "boxes": [{"name": "the dog", "box": (0, 0, 40, 20), "id": 11, "class": "car"}],
        "phrases": [{"caption": 0, "spans": [(0, 7)], "boxes": [0]}], "split": "testA", "ref_id": 7,
    }  # fmt: skip
    assert source[0].image == folder / "train2014/0.jpg"
    assert not caplog.text
    assert len(open_source(folder / "refs(google).p", {"boxes"}, split="train+testA")) == 3
    assert "share pictures; refs(umd).p" in caplog.text
    with pytest.raises(UserError, match=r"give split= .* one of testA, train"):
        open_source(folder / "refs(unc).p", {"boxes"})


def odvg(folder, *rows):
    return written(folder / "odvg.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def test_odvg(folder):
    detection = {"instances": [{"bbox": [1, 2, 9, 8], "label": 1, "category": "cat"},
                               {"bbox": [0, 0, 4, 4], "label": 0, "category": "dog"}]}  # fmt: skip
    regions = [
        {"bbox": [[1, 1, 5, 5], [6, 1, 9, 5]], "phrase": "two dogs"},
        {"bbox": [0, 0, 4, 4], "phrase": "grass", "tokens_positive": [[24, 29]]},
    ]
    grounding = {"caption": "two dogs on grass, more grass", "regions": regions}
    source = open_source(
        odvg(folder, {"filename": "0.jpg", "detection": detection}, {"filename": "1.jpg", "grounding": grounding}),
        {"boxes"}, images=folder / "pictures",
    )  # fmt: skip
    assert source.object_names == ["dog", "cat"]
    assert placed(source[0]) == [("cat", (1, 2, 9, 8)), ("dog", (0, 0, 4, 4))]
    assert placed(source[1]) == [("two dogs", (1, 1, 5, 5)), ("two dogs", (6, 1, 9, 5)), ("grass", (0, 0, 4, 4))]
    assert source[1].targets["phrases"] == [
        {"caption": 0, "spans": [(0, 8)], "boxes": [0, 1]}, {"caption": 0, "spans": [(24, 29)], "boxes": [2]},
    ]  # fmt: skip
    assert source[1].key == f"{folder}/odvg.jsonl:2"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"detection": {"instances": [{"bbox": [5, 2, 1, 8], "label": 0, "category": "a"}]}},
         ":1: .*ODVG's are corners"),
        ({"detection": {"instances": [{"bbox": [5, 2, 8], "label": 0, "category": "a"}]}}, ":1: .*four numbers"),
        ({"detection": {"instances": [{"bbox": [1, 2, 3, 4], "label": 1, "category": "a"}]}},
         "no instance has the label 0"),
        ({"detection": {"instances": [{"bbox": [1, 2, 3, 4], "label": 0}]}}, ":1: an instance needs"),
        ({"grounding": {"caption": "containers", "regions": [{"bbox": [1, 1, 2, 2], "phrase": "container"}]}},
         ":1: the caption does not say 'container'"),
        ({"grounding": {"caption": "a dog, a dog", "regions": [{"bbox": [1, 1, 2, 2], "phrase": "dog"}]}},
         ":1: the caption says 2 times 'dog'; give its characters"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_odvg_is_told_by_line(folder, row, message):
    with pytest.raises(UserError, match=message):
        open_source(odvg(folder, {"filename": "0.jpg", **row}), {"boxes"}, images=folder / "pictures")


# -- what `mmkit data check` counts --


def test_check_counts_every_trap_of_boxes(folder):
    rows = [
        [[5, 5, 5, 9], [50, 0, 60, 10], [-5, 0, 10, 10], [1, 1, 2, 2], [1, 1, 2, 2], [-0.9, 0, 41, 20.9]],
        [], [[39, 1, 4, 9]], [[20, 5, 10, 10]], [[0.1, 0.2, 0.5, 0.5], [0, 0, 1, 0.5]], [[1, 2, 3]],
    ]  # fmt: skip
    lines = [
        {"image": f"pictures/{i % 3}.jpg", "boxes": [{"name": "a", "box": box} for box in boxes]}
        for i, boxes in enumerate(rows)
    ]
    lines.append({"image": "pictures/0.jpg", "boxes": [{"box": [1, 1, 3, 3], "id": 0, "crowd": 1}]})
    lines.append({"image": "pictures/0.jpg", "boxes": [{"name": "b", "box": [1, 1, 3, 3], "ignore": True}]})
    found = check_named(written(folder / "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    assert found.problems == {
        "shares in place of pixels": 2, "right before left": 1, "width and height in place of corners": 1, "bad box": 1,
        "class without name": 1,
    }  # fmt: skip
    assert found.noted == {
        "picture without boxes": 1, "empty box": 1, "box outside": 1, "box reaches out": 1, "box twice": 1, "crowd": 1,
        "id 0": 1, "ignored box": 1,
    }  # fmt: skip
    assert found.boxes == 12
    assert found.boxed == {"a": 10, "None": 1, "b": 1}
    assert any("a.jsonl:3: box 0 [39, 1, 4, 9]: right < left" in message for message in found.bad)
    assert any(
        "1 x box outside, the first:" in one and "a.jsonl:1: box 1 [50, 0, 60, 10]" in one for one in found.warnings
    )


@pytest.mark.parametrize(
    ("box", "kinds"),
    [
        ([40, 0, 50, 10], {"box outside": 1}), ([-5, 0, 0, 10], {"box outside": 1}),
        ([0, 20, 9, 30], {"box outside": 1}), ([0, -5, 9, 0], {"box outside": 1}),
        ([39.5, 0, 41, 10], {}), ([39.5, 0, 41.1, 10], {"box reaches out": 1}),
        ([-1, -1, 5, 5], {}), ([-1.1, 0, 5, 5], {"box reaches out": 1}), ([0, 0, 5, 21.1], {"box reaches out": 1}),
        ([0, -1.1, 5, 5], {"box reaches out": 1}), ([0, 0, 1, 1], {}), ([3, 3, 9, 3], {"empty box": 1}),
    ],
)  # fmt: skip
def test_where_a_box_is_outside_and_where_it_is_rounded(box, kinds):
    found = boxes_in({"boxes": [{"name": "a", "box": box}]})
    assert Counter(kind for _, kind, _ in misplaced(found, (40, 20))) == kinds


def test_check_collects_what_readers_refuse_and_goes_on(folder):
    data = changed(category_id=4)
    data["annotations"].append({"id": 0, "image_id": 101, "category_id": 3, "bbox": [4, 4, 0, 3]})
    found = check_named(written(folder / "instances.json", data), images=folder / "pictures")
    assert found.problems == {"unknown class": 1}
    assert found.noted == {"picture without boxes": 1, "empty box": 1, "id 0": 1}
    assert (found.records, found.boxes) == (3, 3)
    assert any("images[1]]: box 0, id 0, [4, 4, 4, 7]: no area" in message for message in found.warnings)


def test_right_before_left_is_refused_in_training_too():
    draw = TrainTransform(size=32).draw((40, 20), ("",), Random(0))
    encoder = Objects(Given(), ())
    for box, what in [([39, 1, 4, 9], "right before left"), ([0.1, 0.2, 0.5, 0.5], "shares in place of pixels")]:
        with pytest.raises(UserError, match=what):
            encoder.encode({"boxes": [{"box": box}], "view": draw}, Random(0))
    assert len(encoder.encode({"boxes": [{"box": [3, 3, 3, 9]}], "view": draw}, Random(0))["boxes"]) == 0


def test_instances_need_their_lists(folder):
    with pytest.raises(UserError, match='expected an object with the lists "images", "annotations" and "categories"'):
        Instances(folder / "x.json", images=folder, data={"images": []})
