"""Every command that takes records takes each form of them, and finds the same in all: the form changes no number."""

import io
import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mmkit.cli.main import main
from mmkit.config import dump
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.sources.open import open_records
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.image_classify import ImageClassify
from mmkit.hub import folder as hub
from mmkit.inference.predictor import Predictor
from tests.data.sources.test_shards import pack
from tests.evals.parts import tokenizer
from tests.train.fakes import change, tiny

N = 12
KINDS = ("red", "green", "blue")
CONFIG = """
from functools import partial
from mmkit.config import Experiment
from mmkit.data.images.transforms import TrainTransform
from mmkit.data.sources.open import open_records
from tests.train.fakes import tiny

def run(records) -> Experiment:
    unmirrored = partial(TrainTransform, scale=(0.5, 1.0), flip=0.0)  # so that it does not matter who reads questions
    data = dict(train=partial(open_records, path=records), global_batch=4, transform=unmirrored)
    return tiny(data=data, run=dict(steps=3, log_every_steps=1))
"""


def png(number):
    pixels = np.random.default_rng(number).integers(0, 255, (24, 20 + number % 3, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def about(number):
    kind = KINDS[number % 3]
    return {
        "caption": [f"a {kind} square", f"number {number}"], "label": kind, "question": "what colour is it?",
        "answers": [kind], "boxes": [{"name": kind, "box": [2, 2, 10 + number, 14]}],
    }  # fmt: skip


def as_lines(root):
    (root / "pictures").mkdir(parents=True)
    for i in range(N):
        (root / f"pictures/{i:02d}.png").write_bytes(png(i))
    rows = [{"image": f"pictures/{i:02d}.png", **about(i)} for i in range(N)]
    (root / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root / "records.jsonl"


def as_shards(root):
    """Three of them; the label of the last four stands in .cls."""
    root.mkdir()
    for shard in range(3):
        files = []
        for i in range(4 * shard, 4 * shard + 4):
            said = about(i)
            files.append((f"{i:09d}.png", png(i)))
            if shard == 2:
                files.append((f"{i:09d}.cls", said.pop("label").encode()))
            files.append((f"{i:09d}.json", json.dumps(said).encode()))
        pack(root / f"{shard:05d}.tar", files)
    assert main(["data", "index", str(root), "--workers", "1"]) == 0
    return root


def as_parquet(root):
    """With pictures, in groups of rows that do not all fit into memory: a few stay."""
    rows = [{"image": {"bytes": png(i), "path": None}, **about(i)} for i in range(N)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({key: pa.array([row[key] for row in rows], kind if key == "image" else None) for key in rows[0]})
    root.mkdir()
    pq.write_table(table, root / "test.parquet", row_group_size=5)
    return root / "test.parquet"


def as_indexed_lines(root):
    root.mkdir()
    path = as_lines(root / "own")
    assert main(["data", "index", str(path)]) == 0
    return path


FORMS = {"shards": as_shards, "parquet": as_parquet, "index": as_indexed_lines}


@pytest.fixture(scope="module", autouse=True)
def one_folder(tmp_path_factory):
    """Nothing is kept where a user's things are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A model that does everything, the records as JSON lines, and a config."""
    root, exp, words = tmp_path_factory.mktemp("forms"), tiny(), tokenizer()
    own = {"answer": partial(AnswerClassifier, answers=KINDS), "kind": partial(ImageClassify, classes=KINDS)}
    exp = change(exp, heads=dict(exp.heads) | own)
    torch.manual_seed(5)
    model = exp.model(vocab_size=words.vocab_size)
    heads = {name: head(model.spec) for name, head in exp.heads.items()}
    hub.save(root / "model", Predictor(model, heads, words, EvalTransform(size=32), 9), dump(exp))
    as_lines(root / "lines")
    (root / "config.py").write_text(CONFIG)
    return root


@pytest.fixture(scope="module", params=FORMS)
def data(request, root):
    return FORMS[request.param](root / request.param)


@pytest.fixture(scope="module")
def kept():
    """What was found of the JSON lines."""
    return {}


def numbers(root, out, *arguments):
    assert main([*map(str, arguments), "--json", str(out)]) == 0
    return json.loads(out.read_text())


MEASURED = {
    "retrieval": ("--rerank", "3"), "zeroshot": ("--no-text-bank", "--templates", "a {} square"), "vqa": (),
    "classify": (), "grounding": (),
}  # fmt: skip


@pytest.mark.parametrize("command", MEASURED)
def test_the_same_is_measured(command, data, root, kept, tmp_path):
    call = (command, "--model", root / "model", "--device", "cpu", *MEASURED[command], "--data")
    if command not in kept:
        kept[command] = numbers(root, tmp_path / "lines", *call, root / "lines/records.jsonl")
    found = numbers(root, tmp_path / "n", *call, data)
    assert found == kept[command]
    assert found.get("images", found.get("n")) == N


def test_the_same_is_embedded(data, root, tmp_path):
    tables = []
    for name, records in (("a", root / "lines/records.jsonl"), ("b", data)):
        out = tmp_path / f"{name}.parquet"
        assert main(["features", "--model", str(root / "model"), "--data", str(records), "--out", str(out)]) == 0
        tables.append(pq.read_table(out, columns=["embedding", "captions", "caption_embeddings"]))
    assert tables[0].num_rows == N
    assert tables[0].equals(tables[1])


def test_the_same_is_trained_on(data, root, tmp_path):
    """To the bit: which records a step takes, and how they are drawn, depends on no form of them."""
    losses = []
    for name, records in (("a", root / "lines/records.jsonl"), ("b", data)):
        assert main(["train", f"{root / 'config.py'}:run(records='{records}')", "--out", str(tmp_path / name)]) == 0
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        losses.append([(line["loss"], line["losses.itc"], line["grad_norm"]) for line in lines if "loss" in line])
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]


def test_the_same_is_looked_at_and_written(data, root, tmp_path):
    lines = root / "lines/records.jsonl"
    found, wanted = (numbers(root, tmp_path / "n", "data", "check", records) for records in (data, lines))
    assert found == wanted
    assert found["targets"] == dict.fromkeys(("answers", "boxes", "label", "question"), N)
    pictures = []
    for name, records in (("a", lines), ("b", data)):
        assert main(["data", "show", str(records), "--out", str(tmp_path / f"{name}.png"), "--n", "4"]) == 0
        pictures.append((tmp_path / f"{name}.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert main(["data", "import", "records", str(data), str(tmp_path / "new.jsonl")]) == 0
    config = f"{root / 'config.py'}:run(records='{data}')"
    assert main(["data", "export", config, str(tmp_path / "out")]) == 0
    said = [{key: value for key, value in about(i).items() if key != "caption"} for i in range(N)]
    for path in (tmp_path / "new.jsonl", tmp_path / "out/train.jsonl"):
        again = open_records(path, needs=())
        assert [again[i].image.read_bytes() for i in range(N)] == [png(i) for i in range(N)]
        if path.name == "new.jsonl" or data.suffix != ".parquet":  # of which a config reads what it needs alone
            assert [again[i].targets for i in range(N)] == said


def test_the_same_words_make_the_same_tokenizer(data, root, tmp_path):
    found = []
    for name, records in (("a", root / "lines/records.jsonl"), ("b", data)):
        call = ("tokenizer", "train", records, "--vocab-size", 60, "--out", tmp_path / name)
        found.append({key: value for key, value in numbers(root, tmp_path / "n", *call).items() if key != "folder"})
    assert found[0] == found[1]
