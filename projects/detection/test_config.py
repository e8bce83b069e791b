"""The configs: built-in scenes, one's own data by one command, and the first few pictures learned by heart."""

import json
from functools import partial

import pytest
from PIL import Image

import mmkit
from mmkit.cli import main
from mmkit.config import dump, load_experiment, override, rebuild, validate
from mmkit.data.sources.open import open_source
from mmkit.errors import UserError
from mmkit.hub import folder as hub
from mmkit.train.loop import train
from projects.detection.data import Few

CONFIG = "projects/detection/config.py"
SMALL = ["run.trackers=[]", "run.save_every_steps=0", "run.precision=no"]


@pytest.fixture
def records(tmp_path):
    """Six pictures with a coloured square each, the second without; the fourth has a crowd too."""
    lines = []
    for i in range(6):
        picture = Image.new("RGB", (40, 30), "black")
        name, colour = (("lamp", "yellow"), ("cup", "red"))[i % 2]
        picture.paste(colour, (5 + i, 5, 20 + i, 22))
        picture.save(tmp_path / f"{i}.png")
        boxes = [] if i == 1 else [{"name": name, "box": [5 + i, 5, 20 + i, 22]}]
        boxes += [{"name": "cup", "box": [0, 0, 40, 30], "crowd": True}] if i in (1, 3) else []
        lines.append({"image": f"{i}.png", "image_id": str(20 - i), "boxes": boxes})
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(("head", "steps"), [("detr", 1000), ("faster_rcnn", 1000), ("ssd", 1000)])
def test_each_head_on_built_in_scenes_survives_json(head, steps):
    exp = validate(load_experiment(f"{CONFIG}:openmoji(head='{head}')"))
    assert exp.run.steps == steps
    other = load_experiment(f"{CONFIG}:openmoji(head='{head}', steps=7, crowded=True)")
    assert other.run.steps == 7
    assert other.evals.keys() == exp.evals.keys()
    assert (exp.data.train.func.__name__, other.data.train.func.__name__) == ("Scenes", "Crowded")
    assert other.data.train.keywords["split"] == "train"
    assert [exp.evals[name].keywords["source"].func.__name__ for name in ("detection", "crowded")] == [
        "Scenes",
        "Crowded",
    ]
    assert dump(rebuild(json.loads(json.dumps(dump(exp))))) == dump(exp)
    assert len(exp.heads["detect"].keywords["classes"]) == 200
    with pytest.raises(UserError, match="head='yolo': there are detr, faster_rcnn, ssd"):
        load_experiment(f"{CONFIG}:openmoji(head='yolo')")


@pytest.mark.parametrize("head", ["detr", "ssd"])
def test_own_data_train_by_one_command_and_detect_by_another(records, tmp_path, head):
    spec = f"{CONFIG}:own(train='{records}', test='{records}', head='{head}', steps=2, size=48, batch=3)"
    out, numbers, found = tmp_path / "run", tmp_path / "n.json", tmp_path / "found.json"
    metrics = train(override(load_experiment(spec), SMALL), out, save_model=hub.save)
    assert metrics["detection.n"] == 6
    code = main(
        ["detect", "--model", str(out), "--data", str(records), "--json", str(numbers), "--predictions", str(found)]
    )
    assert code == 0
    assert json.loads(numbers.read_text())["ap"] == pytest.approx(metrics["detection.ap"])
    assert json.loads(numbers.read_text())["boxes"] == 5
    head = mmkit.load(out).heads["detect"]
    assert (head.classes, head.ids) == (("cup", "lamp"), (1, 2))
    assert {row["image_id"] for row in json.loads(found.read_text())} <= {20, 19, 18, 17, 16, 15}


def test_the_first_few_annotated_pictures_by_number_without_crowds(records):
    few = Few(partial(open_source, spec=str(records), wants=("boxes",)), 4)
    assert [few[i].image_id for i in range(4)] == ["15", "16", "17", "18"]  # 19 has a crowd alone
    assert [len(few[i].targets["boxes"]) for i in range(4)] == [1, 1, 1, 1]
    with pytest.raises(UserError, match="5 pictures with an object; 6 were asked for"):
        Few(few.source, 6)[0]
    exp = load_experiment(f"{CONFIG}:few(train='{records}', n=4, size=24)")
    assert exp.data.transform.keywords["flip"] == 0.0
    assert exp.data.train.func is exp.evals["detection"].keywords["source"].func is Few


def test_published_classes_and_numbers_are_the_heads(records, monkeypatch):
    class Published:
        object_names, object_ids = ("cup", "lamp"), (7, 90)

        def __len__(self):
            return 0

    monkeypatch.setattr("mmkit.data.sources.open.open_source", lambda **given: Published())
    exp = load_experiment(f"{CONFIG}:own(train='{records}')")
    head = exp.heads["detect"](exp.model().spec)
    assert (head.classes, head.ids) == (("cup", "lamp"), (7, 90))


def as_coco(folder):
    """Two classes on numbers 7 and 90, pictures 31 and 32 of 40 x 30 pixels, in a folder of their own."""
    (folder / "pictures").mkdir()
    for i in (31, 32):
        picture = Image.new("RGB", (40, 30))
        picture.paste("red" if i == 31 else "blue", (4, 6, 20, 24))
        picture.save(folder / "pictures" / f"{i}.jpg")
    said = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in (31, 32)],
        "categories": [{"id": 90, "name": "lamp"}, {"id": 7, "name": "cup"}],
        "annotations": [
            {"id": 1, "image_id": 31, "category_id": 90, "bbox": [4, 6, 16, 18], "area": 288, "iscrowd": 0},
            {"id": 2, "image_id": 32, "category_id": 7, "bbox": [4, 6, 16, 18], "area": 288, "iscrowd": 0},
        ],
    }
    (folder / "instances.json").write_text(json.dumps(said))
    return folder / "instances.json", {"images": str(folder / "pictures")}


def as_yolo(folder):
    for i in (31, 32):
        (folder / "images/train").mkdir(parents=True, exist_ok=True)
        (folder / "labels/train").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "red" if i == 31 else "blue").save(folder / "images/train" / f"{i}.jpg")
        (folder / "labels/train" / f"{i}.txt").write_text(f"{i - 31} 0.3 0.5 0.4 0.6\n")
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nnames:\n  0: lamp\n  1: cup\n")
    return folder, {"split": "train"}


def as_voc(folder):
    for i in (31, 32):
        (folder / "JPEGImages").mkdir(exist_ok=True)
        (folder / "Annotations").mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), "red" if i == 31 else "blue").save(folder / "JPEGImages" / f"{i}.jpg")
        name = "lamp" if i == 31 else "cup"
        box = "<bndbox><xmin>5</xmin><ymin>7</ymin><xmax>20</xmax><ymax>24</ymax></bndbox>"
        (folder / "Annotations" / f"{i}.xml").write_text(
            f"<annotation><size><width>40</width><height>30</height></size><object><name>{name}</name>{box}</object></annotation>"
        )
    return folder, {}


@pytest.mark.parametrize(
    ("form", "known"),
    [(as_coco, {"lamp": 90, "cup": 7}), (as_yolo, {"lamp": 0, "cup": 1}), (as_voc, {"cup": 1, "lamp": 2})],
    ids=["coco", "yolo", "voc"],
)
def test_published_files_train_and_detect_and_keep_their_numbers(form, known, tmp_path):
    (tmp_path / "data").mkdir()
    data, options = form(tmp_path / "data")
    said = "".join(f", {name}='{value}'" for name, value in options.items())
    spec = f"{CONFIG}:few(train='{data}', n=2, steps=1, size=24{said})"
    out, numbers, found = tmp_path / "run", tmp_path / "n.json", tmp_path / "found.json"
    train(override(load_experiment(spec), SMALL), out, save_model=hub.save)
    head = mmkit.load(out).heads["detect"]
    assert dict(zip(head.classes, head.ids, strict=True)) == known
    more = [word for name, value in options.items() for word in (f"--{name}", value)]
    code = main(
        ["detect", "--model", str(out), "--data", str(data), *more, "--json", str(numbers), "--predictions", str(found)]
    )
    assert code == 0
    assert (json.loads(numbers.read_text())["n"], json.loads(numbers.read_text())["boxes"]) == (2, 2)
    assert {row["category_id"] for row in json.loads(found.read_text())} == set(known.values())


def test_boxes_without_names_are_refused(records):
    records.write_text(json.dumps({"image": "0.png", "boxes": [{"label": 3, "box": [1, 1, 5, 5]}]}) + "\n")
    with pytest.raises(UserError, match="its boxes have no names"):
        load_experiment(f"{CONFIG}:own(train='{records}')")


def test_the_config_is_found_from_any_folder_of_a_clone_and_told_of_where_mmkit_is_installed_alone(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert load_experiment(f"{CONFIG}:openmoji").name == "detection-openmoji"
    with pytest.raises(UserError, match=r"projects/detection/no\.py: no such file$"):
        load_experiment("projects/detection/no.py")
    monkeypatch.setattr("mmkit.config.load.clone", lambda: None)
    with pytest.raises(UserError, match="of mmkit's projects, and this mmkit is installed without them: get https"):
        load_experiment(f"{CONFIG}:openmoji")
