"""One way in: every form of data by its name, what it gives, what it does not, and that threads may read it."""

import json
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmkit.data.records import JsonLines
from mmkit.data.sources.class_folder import ClassFolder
from mmkit.data.sources.folder import Folder, Pictures
from mmkit.data.sources.hugging_face import HuggingFace
from mmkit.data.sources.joined import Joined
from mmkit.data.sources.open import open_all_questions, open_records, open_source
from mmkit.data.sources.published.coco_captions import CocoCaptions
from mmkit.data.sources.published.json_form import form_of
from mmkit.data.sources.published.karpathy import Karpathy
from mmkit.data.sources.published.refcoco import RefCoco
from mmkit.data.sources.published.vqa import AnswerLists, VisualGenomeQA, VQAFiles, VQALines
from mmkit.data.sources.questions import Asked
from mmkit.data.sources.readers import is_data_set
from mmkit.data.sources.table import ClassTable, Table
from mmkit.errors import UserError
from tests.data.conftest import write


@pytest.fixture
def everything(pictures, monkeypatch):
    """The six pictures in every form that mmkit reads."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(pictures / "hf-cache"))
    names, n = [f"{i}.png" for i in range(6)], range(6)
    for i in n:
        for folder in (f"classes/{'ab'[i % 2]}", "pairs", "meta"):
            (pictures / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(pictures / names[i], pictures / folder / names[i])
        (pictures / "pairs" / f"{i}.txt").write_text(f"caption {i}")
        shutil.copy(pictures / names[i], pictures / f"COCO_x_{i:012d}.jpg")
    write(pictures / "meta" / "metadata.jsonl", [{"file_name": names[i], "text": f"caption {i}"} for i in n])
    write(pictures / "q.jsonl", [{"image": names[i], "question": "a?", "answers": [f"a{i}"]} for i in n])
    (pictures / "t.csv").write_text("image,caption\n" + "".join(f"{x},caption {i}\n" for i, x in enumerate(names)))
    (pictures / "l.csv").write_text("path,label\n" + "".join(f"{name},x{i}\n" for i, name in enumerate(names)))
    (pictures / "q.csv").write_text("image,question,answer\n" + "".join(f"{x},a?,a{i}\n" for i, x in enumerate(names)))
    data = [(pictures / name).read_bytes() for name in names]
    pq.write_table(
        pa.table({"image": data, "caption": names, "label": list(n), "question": ["a?"] * 6, "answers": [["a"]] * 6}),
        pictures / "t.parquet",
    )  # fmt: skip
    write_json = {
        "karpathy.json": {"images": [{"filename": x, "split": "test", "sentences": [{"raw": "c"}]} for x in names]},
        "albef.json": [{"image": x, "caption": "c"} for x in names],
        "coco.json": {"images": [{"id": i, "file_name": names[i]} for i in n],
                      "annotations": [{"image_id": i, "caption": f"c{i}"} for i in n]},
        "vqa.json": {"data_subtype": "x", "questions": [{"question": "?", "question_id": i, "image_id": i} for i in n]},
        "vqa-a.json": {"annotations": [{"question_id": i, "answers": [{"answer": "b"}]} for i in n]},
        "vg.json": [{"id": i, "qas": [{"qa_id": i, "question": "a?", "answer": "b"}]} for i in n],
        "albef-vqa.json": [{"image": x, "question": "a?", "answer": ["b"]} for x in names],
        "refs.json": [{"image": x, "text": "c", "ref_id": 1} for x in names],
    }  # fmt: skip
    for i in n:
        shutil.copy(pictures / names[i], pictures / f"{i}.jpg")
    for name, value in write_json.items():
        (pictures / name).write_text(json.dumps(value))
    return pictures


FORMS = [
    ("a.jsonl", "caption", {}, JsonLines), ("a.jsonl", "label", {}, JsonLines), ("a.jsonl", None, {}, JsonLines),
    ("q.jsonl", "question", {}, VQALines), ("q.jsonl", None, {}, VQALines),
    ("t.csv", "caption", {}, Table), ("t.csv", None, {}, Table), ("l.csv", "label", {}, ClassTable),
    ("q.csv", "question", {}, Asked),
    ("t.parquet", "caption", {}, HuggingFace), ("t.parquet", "label", {}, HuggingFace),
    ("t.parquet", "question", {}, Asked), ("t.parquet", None, {}, HuggingFace),
    ("classes", "label", {}, ClassFolder), ("classes", None, {}, ClassFolder),
    ("pairs", "caption", {}, Folder), ("pairs", None, {}, Folder),
    ("meta", "caption", {}, JsonLines), ("meta", None, {}, JsonLines),
    ("karpathy.json", "caption", {"split": "test"}, Karpathy), ("albef.json", "caption", {}, Karpathy),
    ("coco.json", "caption", {}, CocoCaptions), ("coco.json", None, {}, CocoCaptions),
    ("vqa.json", "question", {"annotations": "vqa-a.json"}, VQAFiles),
    ("vqa.json", "question", {"annotations": "vqa-a.json", "pictures": "{image_id}.png"}, VQAFiles),
    ("vg.json", "question", {}, VisualGenomeQA), ("albef-vqa.json", "question", {}, AnswerLists),
]  # fmt: skip


@pytest.mark.parametrize(("name", "want", "options", "kind"), FORMS)
def test_every_form_opens_gives_what_is_wanted_and_may_be_read_by_threads(everything, name, want, options, kind):
    if "annotations" in options:
        options = options | {"annotations": everything / options["annotations"]}
    source = open_source(everything / name, {want} if want else (), **options)
    assert isinstance(source, kind)
    assert len(source) == 6
    wanted = [source[i] for i in range(6)]
    assert want is None or all(r.captions if want == "caption" else want in r.targets for r in wanted)
    assert want != "question" or all(len(r.targets["answers"]) == 1 for r in wanted)
    assert len({r.image_id for r in wanted}) == 6
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: source[i % 6], range(120))) == wanted * 20


def test_joined_sources_and_expressions_may_be_read_by_threads(everything):
    joined = Joined([JsonLines(everything / "a.jsonl"), Table(everything / "t.csv"), Folder(everything / "pairs")])
    for source in (joined, RefCoco(everything / "refs.json", everything)):
        wanted, n = [source[i] for i in range(len(source))], len(source)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda i, source=source, n=n: source[i % n], range(10 * n))) == wanted * 10


@pytest.mark.parametrize(
    ("name", "want", "says"),
    [
        ("albef.json", "question", "holds captions, no questions"),
        ("vqa.json", "caption", "holds questions, no captions"),
        ("pairs", "question", "a folder of pictures.*which holds no question; give .*a table with a header"),
        ("a.jsonl", "question", 'no key "question"'),
        ("t.csv", "label", "no column label or class"),
        ("nothing.jsonl", "caption", "no such file or folder; give openmoji"),
        ("vqa.json", "question", "VQA's questions alone.*--annotations"),
    ],
)
def test_what_is_not_there_is_said(everything, name, want, says):
    with pytest.raises(UserError, match=says):
        open_source(everything / name, {want})


def test_training_records_from_every_kind_of_table(everything):
    for name in ("a.jsonl", "t.csv", "t.parquet"):
        source = open_records(everything / name)
        assert len(source) == 6
        assert all(source[i].captions for i in range(6))
    with pytest.raises(UserError, match=r"not JSON lines, but .csv; .*mmkit data import csv"):
        JsonLines(everything / "t.csv")
    with pytest.raises(UserError, match=r"not JSON lines, but .parquet; .*mmkit data import records"):
        JsonLines(everything / "t.parquet")


def test_a_config_trains_on_train_and_a_command_measures_on_test(everything):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [str(everything / f"{i}.png") for i in range(5)], "caption": ["c"] * 5}
    whole = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": whole.select(range(3)), "test": whole.select(range(3, 5))}).save_to_disk(
        str(everything / "parts")
    )
    assert len(open_records(everything / "parts")) == 3
    assert len(open_source(everything / "parts", {"caption"})) == 2
    assert len(open_source(everything / "parts", {"caption"}, split="train")) == 3
    with pytest.raises(UserError, match="no split 'val'; there are train, test"):
        open_source(everything / "parts", {"caption"}, split="val")
    with pytest.raises(UserError, match="root has no meaning for it; its paths begin at the file"):
        open_records(everything / "parts", root=everything)


def test_a_data_set_of_questions_without_answers_and_with_ids(everything):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data = [(everything / f"{i}.png").read_bytes() for i in (0, 0, 1)]
    path = everything / "asked.parquet"
    pq.write_table(pa.table({"image": data, "question": ["a?"] * 3, "image_id": [7, 7, 8]}), path)
    source = open_source(path, {"question"}, answers_needed=False)
    assert [source[i].captions for i in range(3)] == [("a?",)] * 3
    assert [source[i].image_id for i in range(3)] == [f"{path}:{i}" for i in (7, 7, 8)]
    assert "answers" not in source[0].targets
    assert open_source(path)[0].captions == ("a?",)
    with pytest.raises(UserError, match='no key "answers"'):
        open_source(path, {"question"})
    assert len(open_source(path, {"label"}, answers_needed=False)) == 3  # pictures alone, to be sorted


def test_several_files_of_questions_have_their_own_answers_and_pictures(everything):
    for name in ("one", "two"):
        (everything / name).mkdir()
        shutil.copy(everything / f"{len(name)}.png", everything / name / "x.png")
        write(everything / f"{name}.jsonl", [{"image": "x.png", "question": f"{name}?", "answers": ["a"]}])
    lines, vqa = [str(everything / f"{name}.jsonl") for name in ("one", "two")], str(everything / "vqa.json")
    folders = [everything / "one", everything / "two"]
    source = open_all_questions(lines, images=folders)
    assert [source[i].image for i in range(2)] == [folder / "x.png" for folder in folders]
    assert [open_all_questions(lines, images=folders[:1])[i].image for i in range(2)] == [folders[0] / "x.png"] * 2
    mixed = open_all_questions(
        [lines[0], vqa], annotations=[str(everything / "vqa-a.json")], images=[folders[0], everything]
    )
    assert [mixed[i].targets["answers"] for i in (0, 1)] == [["a"], ["b"]]
    with pytest.raises(UserError, match="2 --images for 3 --data; give one for all, or one for each"):
        open_all_questions([*lines, vqa], annotations=["x"], images=folders)
    for data, annotations in (([vqa, vqa], ["x"]), (lines, ["x"]), ([vqa], ["x", "y"])):
        with pytest.raises(UserError, match=rf"{len(annotations)} --annotations for {data.count(vqa)} files of VQA's"):
            open_all_questions(data, annotations=annotations)


def test_pictures_win_over_tables_and_archives_beside_them(everything):
    shutil.copy(everything / "t.parquet", everything / "pairs" / "f.parquet")
    (everything / "pairs" / "0.tar").write_bytes(b"")
    assert not is_data_set(str(everything / "pairs"))
    assert isinstance(open_source(everything / "pairs", {"caption"}), Folder)
    (everything / "hf").mkdir()
    shutil.copy(everything / "t.parquet", everything / "hf")
    assert isinstance(open_source(everything / "hf", {"caption"}, split="train"), HuggingFace)


def test_shards_with_a_table_of_their_names_beside_them_are_shards(everything):
    (everything / "wds").mkdir()
    (everything / "wds" / "00000.tar").write_bytes(b"")
    shutil.copy(everything / "t.parquet", everything / "wds" / "00000.parquet")  # as img2dataset writes it
    with pytest.raises(UserError, match=r"wds: tar shards without an index; make it, once: mmkit data index .*wds$"):
        open_source(everything / "wds")
    for read in (ClassFolder, Folder, Pictures):
        with pytest.raises(UserError, match=r"wds: holds 1 x .parquet, 1 x .tar, no pictures; unpack.*tar -xf \$f -C"):
            read(everything / "wds")
    shutil.copy(everything / "t.parquet", everything / "wds" / "train.PARQUET")
    assert is_data_set(str(everything / "wds"))


def test_archives_are_named(everything):
    (everything / "z.zip").write_bytes(b"")
    for name, tool in (("r.jsonl.gz", "gunzip"), ("r.csv.xz", "unxz")):
        (everything / name).write_bytes(b"")
        with pytest.raises(UserError, match=rf"{name}: is compressed; .*give .*{name[:-3]}: {tool} -k .*{name}$"):
            open_source(everything / name)
    (everything / "p.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"p.tar.gz: an archive; .*tar -xf"):
        open_source(everything / "p.tar.gz")
    with pytest.raises(UserError, match=r"z.zip: an archive; .*&& unzip .*z.zip -d .*/z$"):
        open_source(everything / "z.zip")
    (everything / "tars").mkdir()
    with tarfile.open(everything / "tars" / "0.tar", "w") as file:
        file.add(everything / "0.png", "0.png")
    with pytest.raises(UserError, match=r"tars: tar shards without an index; .*index .*tars$"):
        open_source(everything / "tars", {"caption"})
    with pytest.raises(UserError, match=r"0.tar: an archive; unpack it into .*shard, give its folder: .*tars$"):
        open_source(everything / "tars" / "0.tar")


def test_a_folder_with_metadata_and_one_with_a_caption_missing(everything):
    source = open_source(everything / "meta", {"caption"})
    assert (source[1].image, source[1].captions) == (everything / "meta" / "1.png", ("caption 1",))
    (everything / "pairs" / "2.txt").unlink()
    for want in ({"caption"}, ()):
        with pytest.raises(UserError, match=r"1 of 6 pictures.*\n.*2.png: no 2.txt beside it"):
            open_source(everything / "pairs", want)


@pytest.mark.parametrize("key", ["label", "class"])
def test_labels_in_a_file_of_metadata(everything, key):
    meta = everything / "meta"
    write(meta / "metadata.jsonl", [{"file_name": f"{i}.png", key: "ab"[i % 2], "text": f"c {i}"} for i in range(6)])
    source = open_source(meta, {"label"})
    assert [(source[i].image.name, source[i].targets["label"]) for i in (0, 3)] == [("0.png", "a"), ("3.png", "b")]
    assert open_source(meta)[3].captions == ("c 3",)
    assert open_source(meta)[3].targets["label"] == "b"
    (meta / "metadata.jsonl").unlink()
    (meta / "metadata.csv").write_text(f"file_name,{key}\n0.png,x\n1.png,y\n")
    assert [open_source(meta, {"label"})[i].targets["label"] for i in range(2)] == ["x", "y"]


def test_pictures_without_labels_may_be_sorted_from_lines_and_metadata(everything):
    path = write(everything / "blind.jsonl", [{"image": "0.png", "x": 1}, {"image": "1.png"}])
    for source in (
        open_source(path, {"label"}, answers_needed=False),
        open_source(everything / "meta", {"label"}, answers_needed=False),
    ):
        assert [source[i].image.name for i in range(2)] == ["0.png", "1.png"]
        assert not any("label" in source[i].targets for i in range(2))
    with pytest.raises(UserError, match='no key "label"'):
        open_source(path, {"label"})
    rows = [{"file_name": f"{i}.png", "image": "a word for it", "text": "c"} for i in range(2)]
    write(everything / "meta" / "metadata.jsonl", rows)  # file_name is what such a file is known by
    assert [open_source(everything / "meta")[i].image.name for i in range(2)] == ["0.png", "1.png"]
    write(everything / "meta" / "metadata.jsonl", [{"path": "0.png", "text": "c"}])
    assert open_source(everything / "meta")[0].image.name == "0.png"


def test_folders_decide_about_labels_beside_metadata(everything):
    write(everything / "classes" / "metadata.jsonl", [{"file_name": "a/0.png", "text": "c"}])
    assert isinstance(open_source(everything / "classes", {"label"}), ClassFolder)
    assert open_source(everything / "classes", {"caption"})[0].captions == ("c",)


def test_parts_with_metadata_are_named(everything):
    (everything / "whole").mkdir()
    for part in ("train", "Val"):
        shutil.copytree(everything / "meta", everything / "whole" / part)
    for want in ((), ("caption",), ("label",)):
        with pytest.raises(
            UserError, match=r"whole: its parts have .* metadata each; give one .*whole/Val, .*whole/train"
        ):
            open_source(everything / "whole", want)


def test_a_table_of_pictures_alone(everything):
    (everything / "p.csv").write_text("path\n0.png\n1.png\n")
    source = open_source(everything / "p.csv")
    assert [(source[i].image.name, source[i].captions) for i in range(2)] == [("0.png", ()), ("1.png", ())]
    blind = open_source(everything / "p.csv", {"label"}, answers_needed=False)
    assert [(blind[i].image.name, dict(blind[i].targets)) for i in range(2)] == [("0.png", {}), ("1.png", {})]
    (everything / "c.csv").write_text("path,label,caption\n0.png,a,a dog\n")
    (everything / "d.csv").write_text("path,question,answer,caption\n0.png,a?,b,a dog\n")
    for name in ("c.csv", "d.csv"):  # what has captions is of captions, whatever stands beside
        found = open_source(everything / name)
        assert (type(found), found[0].captions, dict(found[0].targets)) == (Table, ("a dog",), {})
    with pytest.raises(UserError, match=r"p.csv:1: no column label or class; the header has path \(one column\)"):
        open_source(everything / "p.csv", {"label"})
    (everything / "p.csv").write_text("path,capt\n0.png,a\n")  # what is it?
    with pytest.raises(UserError, match=r"no column caption .*path, capt \(separated by commas\)"):
        open_source(everything / "p.csv")


def test_what_a_table_holds_where_nothing_is_wanted(everything):
    labelled, asked = open_source(everything / "l.csv"), open_source(everything / "q.csv")
    assert [labelled[i].targets["label"] for i in (0, 5)] == ["x0", "x5"]
    assert [(asked[i].captions, asked[i].targets["answers"]) for i in (0, 5)] == [(("a?",), ["a0"]), (("a?",), ["a5"])]
    (everything / "r.csv").write_text("path,label,votes\n0.png,a,3\n1.png,b,4\n")
    source = open_source(everything / "r.csv", {"label"}, columns={"image": "path", "label": "label", "votes": "votes"})
    assert [source[i].targets for i in range(2)] == [{"label": "a", "votes": "3"}, {"label": "b", "votes": "4"}]
    with pytest.raises(UserError, match=r"--split: has no meaning for .*coco\.json"):
        open_source(everything / "coco.json", {"caption"}, split="test")


def test_keys_that_are_named_decide_what_lines_hold(everything):
    path = write(everything / "n.jsonl", [{"image": "0.png", "q": "what?", "a": "x"}])
    asked = open_source(path, columns={"question": "q", "answers": "a"})
    assert (asked[0].captions, asked[0].targets["answers"]) == (("what?",), ["x"])
    write(path, [{"image": "0.png", "text": "a"}, {"image": "1.png"}])
    with pytest.raises(UserError, match=r'n.jsonl:2: no key "text"'):
        open_source(path, columns={"caption": "text"})
    with pytest.raises(
        UserError, match=r'n.jsonl:1: no key "label".*which is which: --columns label=KEY .*data import'
    ):
        open_source(path, {"label"})


def test_a_split_that_is_not_there(everything):
    (everything / "hf").mkdir()
    shutil.copy(everything / "t.parquet", everything / "hf")
    with pytest.raises(UserError, match=r"split 'test': cannot be loaded: .*'train'\]\. Give --split$"):
        open_source(everything / "hf", {"caption"})


def test_forms_of_json(everything, tmp_path):
    found = {name: form_of(everything / f"{name}.json") for name in ("karpathy", "albef", "coco", "vqa", "albef-vqa")}
    assert found == {name: name for name in found}
    assert form_of(everything / "vg.json") == "vg-qa"
    long = tmp_path / "long.json"  # cut within its first object, as large files are
    long.write_text(json.dumps({"info": 1, "images": [{"file_name": "x" * 100}] * 20_000, "annotations": []}))
    assert form_of(long) == "coco"
    long.write_text(json.dumps({"info": 1, "questions": [{"question": "x" * 100}] * 20_000}))
    assert form_of(long) == "vqa"
    shutil.copy(everything / "a.jsonl", everything / "a.json")
    assert form_of(everything / "a.json") == "lines"
    assert isinstance(open_source(everything / "a.json", {"label"}), JsonLines)
    assert form_of(tmp_path / "none.json") == "unknown"


@pytest.mark.parametrize("name", ["hf:", "hf: "])
def test_a_data_set_has_a_name(name):
    with pytest.raises(UserError, match="names no data set; give hf:OWNER/NAME"):
        open_source(name, {"caption"})
