"""The cleaning and the token ids of captions against the recorded ones of the official ALBEF."""

import json

import pytest

from mmkit.data.hf_tokenizer import HuggingFaceTokenizer
from mmkit.data.text_ops import clean_caption
from tests.parity.oracle import files

FILES = [path for path in files("*tokenizer*.json") if "captions" in json.loads(path.read_text())]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_bytes(files("vocab/vocab.txt")[0].read_bytes())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return HuggingFaceTokenizer(folder)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_captions(path, tokenizer):
    for case in json.loads(path.read_text())["captions"]:
        cleaned = clean_caption(case["raw"], max_words=30)
        assert cleaned == case["pre_caption_30"]
        assert tokenizer.encode(cleaned, max_tokens=25) == case["input_ids_max25"]
        assert tokenizer.pieces(tokenizer.encode(cleaned, max_tokens=512))[1:] == case["tokens"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_special_ids(path, tokenizer):
    special = json.loads(path.read_text())["special"]
    ours = {"pad": "pad_id", "cls": "cls_id", "sep": "sep_id", "mask": "mask_id", "unk": "unk_id", "n": "vocab_size"}
    assert {name: getattr(tokenizer, ours[name]) for name in special} == special


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_questions_and_a_padded_batch(path, tokenizer):
    recorded = json.loads(path.read_text())
    for case in recorded["questions"]:
        cleaned = clean_caption(case["raw"], max_words=50)
        assert cleaned == " ".join(case["pre_question_50"].split())
        assert tokenizer.encode(cleaned, max_tokens=512) == case["input_ids"]
    batch = recorded["batch"]
    for row, mask, case in zip(batch["input_ids"], batch["attention_mask"], recorded["captions"], strict=False):
        ids = tokenizer.encode(clean_caption(case["raw"]), max_tokens=25)
        assert ids + [tokenizer.pad_id] * (len(row) - len(ids)) == row
        assert sum(mask) == len(ids)
