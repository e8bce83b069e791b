"""Commands that compute nothing, and bad input, start at once: what is slow to import is not imported for them."""

import argparse
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import save_file

from mmkit.cli.main import make_parser

SLOW = ("torch", "transformers", "datasets", "open_clip", "accelerate", "pandas")
PROGRAM = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from mmkit.cli.main import main
slow, said = set(json.loads(sys.argv[1])), []
for arguments in json.load(sys.stdin):
    before = slow & sys.modules.keys()
    with redirect_stderr(io.StringIO()) as errors, redirect_stdout(io.StringIO()):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
    said.append((code, errors.getvalue(), sorted(slow & sys.modules.keys() - before)))
json.dump(said, sys.stdout)
"""
RIGHT = {
    "model": "model", "data": "rows.jsonl", "source": "rows.jsonl", "image": "pictures/0.png", "text": "a dog",
    "experiment": "config.py", "run_folder": "model", "path": "model", "layout": "auto", "format": "records",
    "folder": "pictures",
}  # fmt: skip
"""What each argument that a command needs may be."""
WRITTEN = {"out", "json", "predictions", "confusion", "per_class", "text_bank"}
WORDS = {
    "text", "question", "answer", "prompt", "changes", "split", "columns", "pictures", "device", "head", "allow",
    "weights", "image_size", "help", "host",
}  # fmt: skip
"""What is no name of anything to read; each other argument is held to be one."""
BESIDE = {
    ("vqa", "image"): {"question": "what?"}, ("vqa", "question"): {"image": "pictures/0.png"},
    ("vqa", "answers"): {"data": "questions.jsonl"}, ("vqa", "images"): {"data": "questions.jsonl"},
    ("vqa", "annotations"): {"data": "vqa.json"}, ("caption", "images"): {"data": "rows.jsonl"},
    ("detect", "images"): {"data": "rows.jsonl"}, ("caption", "out"): {"image": "pictures/0.png"},
    ("detect", "out"): {"image": "pictures/0.png"}, ("detect", "classes"): {"image": "pictures/0.png"},
    ("data build-answers", "images"): {"data": "questions.jsonl"},
    ("data build-answers", "annotations"): {"data": "vqa.json"}, ("convert", "tokenizer"): {"source": "theirs"},
    ("data import", "annotations"): {"source": "vqa.json", "format": "vqa"},
    **{(f"data {name}", "annotations"): {"source": "vqa.json"} for name in ("check", "show")},
    **{
        ("grounding", name): {"data": "refs.json", "refs": "refs.p", "instances": "boxes.json", "images": "pictures"}
        for name in ("refs", "instances", "images", "detections")
    },
}  # fmt: skip
"""What else a command is given with an argument."""
MISSING = "none/none"


def leaves(parser: argparse.ArgumentParser, *path: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command by its words."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield " ".join(path), parser
    for action in inner:
        for name, below in action.choices.items():
            yield from leaves(below, *path, name)


def with_one(name: str, parser: argparse.ArgumentParser, dest: str = "", value: str = "") -> list[str]:
    """A command with all that it needs, and one argument of this value."""
    words, also = name.split(), BESIDE.get((name, dest), {})
    for action in parser._actions:
        right = "new.png" if action.dest in WRITTEN else (RIGHT | also).get(action.dest)
        given = value if action.dest == dest else right
        if action.required or action.dest in (dest, *also):
            assert given is not None, f"mmkit {name} {action.dest}: what may it be? Say so in RIGHT"
            words += [action.option_strings[-1], given] if action.option_strings else [given]
    return words


COMMANDS = dict(leaves(make_parser()))
BROKEN = ("broken.jsonl", "broken.csv", "broken.parquet", "none.parquet")
CASES = {
    f"{name} {action.dest}={wrong}": with_one(name, parser, action.dest, wrong)
    for name, parser in COMMANDS.items()
    for action in parser._actions
    if action.nargs != 0 and action.type in (None, Path) and not action.choices
    and action.dest not in WRITTEN | WORDS
    for wrong in (MISSING, *(BROKEN if action.dest in ("data", "source") else ()))
}  # fmt: skip
CASES |= {
    f"{name} {action.dest} below a file": with_one(
        name, parser, action.dest, f"none_file/new.{'parquet' if name == 'features' else 'png'}"
    )
    for name, parser in COMMANDS.items()
    for action in parser._actions if action.dest in WRITTEN - {"text_bank"}
}  # fmt: skip
CASES |= {f"{name} --nosuch": [*with_one(name, parser), "--nosuch"] for name, parser in COMMANDS.items()}
CASES |= {
    "open_clip": ["retrieval", "--model", "open_clip:none/none", "--data", "rows.jsonl"],
    "open_clip info": ["info", "open_clip:none/none"],
    "no model": ["classify", "--model", "theirs", "--data", "rows.jsonl"],
    "layout": ["convert", "none/none", "model", "new"],
    "layout of one's own": ["convert", "none/none.py:MINE", "model", "new"],
    "data set of the hub": ["data", "check", "hf:none/none"],
    "split": ["data", "check", "paths", "--split", "none"],
    "reverse": ["convert", "albef", "none/none", "new", "--reverse"],
    "function of a config": ["train", "config.py:none_such"],
    "run": ["train", "config.py", "--out", "none_new"],
    "run of the quickstart": ["quickstart", "--out", "none_new"],
    "picture": ["data", "show", "rows.jsonl", "--out", "none.txt"],
    "heat map": ["explain", "--model", "model", "--image", "pictures/0.png", "--text", "a dog", "--out", "none.jpg"],
    "embeddings": ["features", "--model", "model", "--data", "rows.jsonl", "--out", "none.csv"],
    "frames": ["retrieval", "--model", "model", "--data", "rows.jsonl", "--frames", "none/none"],
    "way to choose frames": ["probe", "--model", "model", "--data", "rows.jsonl", "--frames", "none:none"],
    "classes to find in data": ["detect", "--model", "model", "--data", "rows.jsonl", "--classes", "none/none"],
    "setting": ["quickstart", "--set", "none_such"],
    "config of a batch": ["data", "show", "none/none.py", "--out", "new.png"],
}
RIGHT_ONES = {
    "help": ["--help"], "help of one": ["retrieval", "--help"], "JSON lines": ["data", "check", "rows.jsonl"],
    "CSV": ["data", "check", "rows.csv"], "folder": ["data", "check", "pictures"],
    "Parquet": ["data", "check", "rows.parquet"], "Parquet of paths": ["data", "check", "paths"],
    "info": ["info", "model"], "info of weights": ["info", "model/model.safetensors"],
}  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each command ended with, said, and imported; all in one process."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "pictures").mkdir()
    rows = []
    for i in range(2):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"pictures/{i}.png")
        (folder / f"pictures/{i}.txt").write_text(f"number {i}\n")
        rows.append({"image": f"pictures/{i}.png", "caption": f"number {i}", "label": str(i)})
        rows[-1]["boxes"] = [{"name": "number", "box": [0, 0, 4, 4]}]
    asked = [{"image": row["image"], "question": "what?", "answers": ["a"]} for row in rows]
    for name, lines in (("rows", rows), ("questions", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    (folder / "rows.csv").write_text("image,caption\n" + "".join(f"{r['image']},{r['caption']}\n" for r in rows))
    question = {"image_id": 0, "question_id": 0, "question": "what?"}
    (folder / "vqa.json").write_text(json.dumps({"questions": [question], "data_subtype": "train2014"}))
    (folder / "refs.json").write_text(json.dumps([{"image": "0.png", "text": "a dog", "ref_id": 1}]))
    (folder / "refs.p").write_bytes(pickle.dumps([{"ref_id": 1, "ann_id": 2, "image_id": 3, "split": "val"}], 0))
    (folder / "boxes.json").write_text(json.dumps({"annotations": [{"id": 2, "bbox": [0, 0, 4, 4]}]}))
    (folder / "broken.jsonl").write_text('{"image": \n')
    (folder / "broken.parquet").write_bytes(b"PAR1")
    (folder / "config.py").write_text("import torch\n\n\ndef base() -> 'Experiment':\n    pass\n")
    (folder / "none_file").write_text("")
    (folder / "none_new/checkpoints/step-3").mkdir(parents=True)
    (folder / "none_new/checkpoints/step-3/meta.json").write_text('{"files": {"meta.json": null}}')
    (folder / "paths").mkdir()
    for name, pictures in (
        ("rows", [(folder / row["image"]).read_bytes() for row in rows]),
        ("paths/test-0", [f"../{row['image']}" for row in rows]),
    ):
        columns = {"image": pictures, "caption": ["a dog", "a cat"], "image_id": [1, 2]}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    (folder / "broken.csv").write_text('image,caption\npictures/0.png,"a\n')
    (folder / "model/tokenizer").mkdir(parents=True)
    saved = json.loads((Path(__file__).parent / "oracles/folders_0_1_0.json").read_text())["wordpiece"]
    for file in ("config", "preprocessing"):
        (folder / f"model/{file}.json").write_text(json.dumps(saved[file]))
    (folder / "model/experiment.json").write_text(json.dumps(saved["config"]["experiment"]))
    weights = {key: np.zeros(shape, dtype=np.float32) for key, shape in saved["shapes"].items()}
    (folder / "theirs").mkdir()
    (folder / "theirs/config.json").write_text('{"model_type": "clip"}')
    for place in ("model", "theirs"):
        save_file(weights, folder / place / "model.safetensors")
    cases = CASES | RIGHT_ONES
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(SLOW)], input=json.dumps(list(cases.values())), cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(cases, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_said_before_anything_slow_is_imported(said, case):
    code, message, imported = said[case]
    assert (code, imported) == (2, []), message
    words = " ".join(CASES[case])
    assert (re.search(r"(none|broken)[^ ]*|--nosuch", words) or re.search("theirs", words))[0] in message


@pytest.mark.parametrize("case", RIGHT_ONES)
def test_what_computes_nothing_imports_nothing_slow(said, case):
    code, message, imported = said[case]
    assert (code, imported) == (0, []), message
