"""The cleaning and the token ids of captions, questions and answers against the official ALBEF's, recorded."""

import pytest

from mmkit.data.targets import answer_ids
from mmkit.data.texts.cleaning import clean_caption
from mmkit.data.texts.huggingface.tokenizer import HuggingFaceTokenizer
from tests.parity.oracle import files, for_each, load_words, word_cases

FILES = word_cases()
SPECIAL = {"pad": "pad_id", "cls": "cls_id", "sep": "sep_id", "mask": "mask_id", "unk": "unk_id", "n": "vocab_size"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_bytes(files("vocab/vocab.txt")[0].read_bytes())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return HuggingFaceTokenizer(folder)


@for_each(FILES, "captions", "raw", "pre_caption_30", "input_ids_max25", "tokens")
def test_captions(path, tokenizer):
    for case in load_words(path)["captions"]:
        cleaned = clean_caption(case["raw"], max_words=30)
        assert cleaned == case["pre_caption_30"]
        assert tokenizer.encode(cleaned, max_tokens=25) == case["input_ids_max25"]
        assert tokenizer.pieces(tokenizer.encode(cleaned, max_tokens=512))[1:] == case["tokens"]


@for_each(FILES, "special", *SPECIAL)
def test_special_ids(path, tokenizer):
    special = load_words(path)["special"]
    assert {name: getattr(tokenizer, SPECIAL[name]) for name in special} == special


@for_each(FILES, "questions", "raw", "pre_question_50", "input_ids")
def test_questions(path, tokenizer):
    for case in load_words(path)["questions"]:
        cleaned = clean_caption(case["raw"], max_words=50)
        assert cleaned == " ".join(case["pre_question_50"].split())
        assert tokenizer.encode(cleaned, max_tokens=512) == case["input_ids"]


@for_each(FILES, "answers", "raw", "with_eos", "input_ids")
def test_answers(path, tokenizer):
    """Officially [SEP] is written behind the answer; ours knows its id."""
    for case in load_words(path)["answers"]:
        ids = answer_ids(tokenizer, case["raw"], max_tokens=512)
        assert ids == case["input_ids"]
        assert case["with_eos"] == case["raw"] + tokenizer.pieces(ids)[-1]


@for_each(FILES, "batch", "input_ids", "attention_mask", "token_type_ids")
def test_a_padded_batch(path, tokenizer):
    recorded = load_words(path)
    batch = recorded["batch"]
    for row, mask, case in zip(batch["input_ids"], batch["attention_mask"], recorded["captions"], strict=False):
        ids = tokenizer.encode(clean_caption(case["raw"]), max_tokens=25)
        assert ids + [tokenizer.pad_id] * (len(row) - len(ids)) == row
        assert mask == [i < len(ids) for i in range(len(row))]
    assert not any(sum(row) for row in batch["token_type_ids"])  # ours is of type 0 and has no such input
