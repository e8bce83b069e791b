"""Protocols of video-text retrieval: their files as records, ranks by brute force, the name with each number."""

import json
import pickle

import numpy as np
import pytest
import torch

from mmkit.config import load_experiment, override, validate
from mmkit.data.importing import open_format
from mmkit.errors import UserError
from mmkit.evals.protocols import PROTOCOLS
from mmkit.evals.recall import places, ranks_of
from mmkit.evals.results.retrieval import RetrievalResult


@pytest.fixture
def folder(tmp_path):
    """Two clips as arrays, one as a folder of frames."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("video7", "video9"):
        np.save(clips / f"{name}.npy", np.zeros((2, 8, 8, 3), np.uint8))
    (clips / "video3").mkdir()
    return tmp_path


def read(kind, folder, name, **options):
    source = open_format(kind, str(folder / name), images=str(folder / "clips"), **options)
    records = map(source.__getitem__, range(len(source)))
    return [(record.image_id, record.image.path.name, record.captions) for record in records]


def test_the_published_files_are_records_of_clips(folder):
    (folder / "1ka.csv").write_text(
        'key,vid_key,video_id,sentence\nret0,msr7,video7,"a dog, running"\nret1,m,video9,a cat\n'
    )
    assert read("msrvtt_1ka", folder, "1ka.csv") == [
        ("video7", "video7.npy", ("a dog, running",)), ("video9", "video9.npy", ("a cat",)),
    ]  # fmt: skip
    videos = [
        {"video_id": name, "split": split}
        for name, split in (("video7", "train"), ("video9", "test"), ("video3", "test"))
    ]
    sentences = [
        {"video_id": v, "caption": c}
        for v, c in (("video9", "one"), ("video7", "no"), ("video3", "x"), ("video9", "two"))
    ]
    (folder / "full.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    assert read("msrvtt_full", folder, "full.json") == [
        ("video9", "video9.npy", ("one", "two")), ("video3", "video3", ("x",)),
    ]  # fmt: skip
    assert read("msrvtt_full", folder, "full.json", split="train") == [("video7", "video7.npy", ("no",))]
    (folder / "raw.pkl").write_bytes(pickle.dumps({"video7": [["a", "dog"], ["it", "runs"]], "video9": [["x"]]}))
    (folder / "test_list.txt").write_text("video7\n")
    options = {"annotations": str(folder / "test_list.txt")}
    assert read("msvd", folder, "raw.pkl", **options) == [("video7", "video7.npy", ("a dog", "it runs"))]
    told = (("video9.mp4", "first"), ("video7.avi", "b"), ("video9.mp4", "then this "))
    rows = [{"video": video, "description": text, "times": [[0, 1]]} for video, text in told]
    (folder / "didemo.json").write_text(json.dumps(rows))
    assert read("didemo", folder, "didemo.json") == [
        ("video9", "video9.npy", ("first then this",)), ("video7", "video7.npy", ("b",)),
    ]  # fmt: skip


def test_what_is_wrong_with_them_is_named(folder):
    (folder / "1ka.csv").write_text("video_id,sentence\nvideo7,a dog\nvideo8,a cat\n")
    with pytest.raises(UserError, match=r"1ka.csv:3: no clip video8\.\* in"):
        read("msrvtt_1ka", folder, "1ka.csv")
    (folder / "1ka.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="key, vid_key, video_id, sentence"):
        read("msrvtt_1ka", folder, "1ka.csv")
    (folder / "raw.pkl").write_bytes(pickle.dumps({"video7": torch.Size}))
    (folder / "test_list.txt").write_text("video7\n")
    with pytest.raises(UserError, match=r"it names torch\.Size"):
        read("msvd", folder, "raw.pkl", annotations=str(folder / "test_list.txt"))
    with pytest.raises(UserError, match=r"--annotations test_list\.txt"):
        read("msvd", folder, "raw.pkl")
    (folder / "full.json").write_text(
        json.dumps({"videos": [{"video_id": "video7", "split": "train"}], "sentences": []})
    )
    with pytest.raises(UserError, match="--split test: there are train"):
        read("msrvtt_full", folder, "full.json")


def test_ranks_are_those_of_brute_force():
    """Over all orders of the equal ones: the mean place of the first right candidate."""
    from itertools import permutations

    scores = torch.tensor([[0.5, 0.5, 0.9, 0.5], [0.1, 0.2, 0.3, 0.4], [0.7, 0.7, 0.7, 0.7]])
    relevant = torch.tensor([[1, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]).bool()
    wanted = []
    for row, right in zip(scores.tolist(), relevant.tolist(), strict=True):
        found = []
        for order in permutations(range(4)):
            ranked = sorted(order, key=lambda i: -row[i])
            found.append(next(n for n, i in enumerate(ranked, start=1) if right[i]))
        wanted.append(np.mean(found))
    median, mean = ranks_of(places(scores, relevant))
    assert mean == pytest.approx(np.mean(wanted))
    assert median == pytest.approx(np.median(wanted))


def test_the_protocol_stands_with_the_number():
    assert PROTOCOLS["msrvtt_1ka"].told(1000, 1000) == "msrvtt_1ka"
    assert PROTOCOLS["msrvtt_full"].told(2990, 59_799) == (
        "msrvtt_full (59,799 sentences in place of 59,800: not comparable)"
    )
    assert PROTOCOLS["msvd"].told(670, 27_763) == "msvd"
    rates = {"": {way: {1: 0.5, 5: 0.5, 10: 0.5} for way in ("t2i", "i2t")}}
    result = RetrievalResult(
        images=670, texts=10, rates=rates, chance=rates, intervals={}, protocol="msvd",
        ranks={"": {"t2i": (1.0, 2.5), "i2t": (3.0, 4.0)}},
    )  # fmt: skip
    assert result.table().title == "msvd: 670 clips, 10 texts"
    assert result.to_json()["protocol"] == "msvd"
    assert (result.metrics()["t2i_median_rank"], result.metrics()["i2t_mean_rank"]) == (1.0, 4.0)


def test_no_model_is_chosen_on_the_test_split():
    experiment = load_experiment("configs/pretrain/video.py:mini")
    changes = ["run.best=retrieval.t2i_r1", "evals.retrieval.protocol=msvd"]
    with pytest.raises(UserError, match="would choose the model on the test split of msvd"):
        validate(override(experiment, changes))
    assert validate(override(experiment, changes[:1]))
    with pytest.raises(UserError, match="--protocol mine: there are msrvtt_1ka"):
        override(experiment, ["evals.retrieval.protocol=mine"]).evals["retrieval"]()
