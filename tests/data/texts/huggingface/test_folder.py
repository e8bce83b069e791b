"""Tokenizers from folders: the same as transformers make of them, and nothing that a folder's JSON asks for besides."""

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import sentencepiece
import transformers
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models

from mmkit.data.texts.huggingface.folder import CLASSES, from_folder, is_folder
from mmkit.data.texts.huggingface.tokenizer import HuggingFaceTokenizer
from mmkit.data.texts.tokenizers import load_tokenizer
from mmkit.errors import UserError
from tests.watch import watched

TEXTS = ("a red box", "Two DOGS, one [MASK] cat!", "naïve café 紅い箱 <mask> </s>", "  leading  spaces")
SAID = "[PAD] [UNK] [CLS] [SEP] [MASK] a red box two dogs Two D ##O ##G ##S , one cat ! caf ##e na ##ive 箱 紅"
WORDS = SAID.split()


def bert(folder, **settings):
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"} | settings))


def byte_level(folder, model, specials):
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(list(TEXTS) * 5, vocab_size=320, min_frequency=1, special_tokens=specials)
    made.save_model(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": model}))


def pieces(folder, file, model, **options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20), model_writer=out, vocab_size=70, hard_vocab_limit=False, minloglevel=3,
        **options,
    )  # fmt: skip
    (folder / file).write_bytes(out.getvalue())
    (folder / "config.json").write_text(json.dumps({"model_type": model}))


MADE = {
    "BERT": bert,
    "BERT, cased": lambda folder: bert(folder, do_lower_case=False),
    "BERT, with accents": lambda folder: bert(folder, strip_accents=False, tokenizer_class="BertTokenizerFast"),
    "RoBERTa": lambda folder: byte_level(folder, "roberta", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]),
    "GPT-2": lambda folder: byte_level(folder, "gpt2", ["<|endoftext|>"]),
    "T5": lambda folder: pieces(folder, "spiece.model", "t5", pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
    "XLM-R": lambda folder: pieces(folder, "sentencepiece.bpe.model", "xlm-roberta"),
}


def same(folder):
    theirs, ours = transformers.AutoTokenizer.from_pretrained(str(folder)), from_folder(folder)
    for text in TEXTS:
        for framed in (True, False):
            wanted = theirs(text, add_special_tokens=framed).input_ids
            assert ours(text, add_special_tokens=framed).input_ids == wanted
    for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        assert getattr(ours, f"{kind}_token_id") == getattr(theirs, f"{kind}_token_id"), kind
    assert len(ours) == len(theirs)


@pytest.mark.parametrize("name", MADE)
def test_it_is_what_transformers_make_of_the_folder(name, tmp_path):
    MADE[name](tmp_path)
    same(tmp_path)
    whole = tmp_path / "whole"
    transformers.AutoTokenizer.from_pretrained(str(tmp_path)).save_pretrained(str(whole))
    same(whole)
    if (tmp_path / "config.json").is_file():  # as older repositories are: the class stands in the model's config
        (whole / "tokenizer_config.json").unlink()
        shutil.copy(tmp_path / "config.json", whole)
        same(whole)


@pytest.mark.parametrize(
    "settings", [{"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]
)
def test_settings_beside_it_that_say_otherwise_are_obeyed(settings, tmp_path):
    bert(tmp_path)
    transformers.AutoTokenizer.from_pretrained(str(tmp_path)).save_pretrained(str(tmp_path))
    said = json.loads((tmp_path / "tokenizer_config.json").read_text())
    before = [from_folder(tmp_path)(text).input_ids for text in TEXTS]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said | settings))
    same(tmp_path)
    assert [from_folder(tmp_path)(text).input_ids for text in TEXTS] != before


def test_null_in_the_settings_means_as_the_case_is(tmp_path):
    bert(tmp_path)
    transformers.AutoTokenizer.from_pretrained(str(tmp_path)).save_pretrained(str(tmp_path))
    wanted = [from_folder(tmp_path)(text).input_ids for text in TEXTS]
    whole, said = (json.loads((tmp_path / f"tokenizer{end}.json").read_text()) for end in ("", "_config"))
    whole["normalizer"]["strip_accents"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said | {"strip_accents": None}))
    same(tmp_path)
    assert [from_folder(tmp_path)(text).input_ids for text in TEXTS] == wanted


@pytest.mark.parametrize("flags", [{"special": True, "lstrip": False}, {}, {"special": False}])
def test_tokens_that_only_the_settings_add_are_there(tmp_path, flags):
    bert(tmp_path)
    transformers.AutoTokenizer.from_pretrained(str(tmp_path)).save_pretrained(str(tmp_path))
    said = json.loads((tmp_path / "tokenizer_config.json").read_text())
    said["added_tokens_decoder"] = {str(len(WORDS)): {"content": "<Obj>"} | flags}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    same(tmp_path)
    ours, theirs = from_folder(tmp_path), transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert len(ours) == len(WORDS) + 1
    for text in ("a <Obj> b", "a <obj>"):  # a token that is not special is looked for in the text as it is cleaned
        assert ours(text).input_ids == theirs(text).input_ids
    assert (len(WORDS) in ours("a <obj>").input_ids) == (not flags.get("special"))


def test_a_save_that_is_cut_off_leaves_the_files_that_were_there(tmp_path, monkeypatch):
    bert(tmp_path)
    tokenizer, out = HuggingFaceTokenizer(str(tmp_path)), tmp_path / "out"
    tokenizer.save(out)
    tokenizer._wrapped.save_pretrained(str(tmp_path / "theirs"))
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert before.keys() - {"framing.json"} == {file.name for file in (tmp_path / "theirs").iterdir()}
    assert before["tokenizer.json"] == (tmp_path / "theirs/tokenizer.json").read_bytes()
    numbers = {file.name: file.stat().st_ino for file in out.iterdir()}
    tokenizer.save(out)
    assert {file.name: file.stat().st_ino for file in out.iterdir()} == numbers  # nothing is written again

    def cut_off(folder):
        (Path(folder) / "tokenizer.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer._wrapped, "save_pretrained", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tokenizer.save(out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_a_name_of_the_hub_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not any(is_folder(name) for name in ("bert-base-uncased", "owner/name"))
    assert all(is_folder(name) for name in ("./x", "../x", "/x/y", "~/x", "a/b/c", str(tmp_path)))
    (tmp_path / "owner").mkdir()
    assert is_folder("owner")


def test_the_settings_come_before_the_older_file_of_special_tokens(tmp_path):
    bert(tmp_path)
    transformers.AutoTokenizer.from_pretrained(str(tmp_path)).save_pretrained(str(tmp_path))
    said = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"unk_token": "cat", "sep_token": "dogs"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in said.items() if k != "sep_token"}))
    found = from_folder(tmp_path)
    assert (found.unk_token, found.sep_token) == ("[UNK]", "dogs")


def test_of_an_unknown_class_the_model_tells_which_it_is(tmp_path):
    bert(tmp_path)
    wanted = [from_folder(tmp_path)(text).input_ids for text in TEXTS]
    bert(tmp_path, tokenizer_class="OfTheirOwnTokenizer")
    with pytest.raises(UserError, match=r"of the class OfTheirOwnTokenizer, and without a tokenizer\.json"):
        from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert [from_folder(tmp_path)(text).input_ids for text in TEXTS] == wanted


def test_usual_tokens_that_a_vocabulary_has_not_are_not_added(tmp_path):
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(["[UNK]", "[CLS]", "a"])}, unk_token="[UNK]"))
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    found = from_folder(tmp_path)
    assert (len(found), found.cls_token_id, found.mask_token, found.pad_token) == (3, 1, None, None)
    said = {"tokenizer_class": "BertTokenizer", "mask_token": "[MASK]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert (len(from_folder(tmp_path)), from_folder(tmp_path).mask_token_id) == (4, 3)  # it is said


# ---- what a stranger may write ------------------------------------------------------------------------------------

EVIL = "from pathlib import Path\nPath({mark!r}).touch()\nclass Evil:\n    pass\n"


@pytest.fixture
def strange(tmp_path):
    """A tokenizer folder with tokenizer.json; beside it what it may not touch."""
    (tmp_path / "t").mkdir()
    bert(tmp_path / "t")
    transformers.AutoTokenizer.from_pretrained(str(tmp_path / "t")).save_pretrained(str(tmp_path / "t"))
    (tmp_path / "t/vocab.txt").unlink()
    (tmp_path / "t/evil.py").write_text(EVIL.format(mark=str(tmp_path / "ran")))
    (tmp_path / "elsewhere.txt").write_text("\n".join([*WORDS, "stolen"]))
    shutil.copy(tmp_path / "t/tokenizer.json", tmp_path / "elsewhere.json")
    return tmp_path / "t"


CODE = [
    {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"},
    {"auto_map": ["evil.Evil", None]},
    {"auto_map": {"AutoTokenizer": [None, "owner/name--evil.Evil"]}, "tokenizer_class": "EvilFast"},
    {"name_or_path": "owner/name", "tokenizer_class": "LlamaTokenizer"},
    {"vocab_file": "{out}/elsewhere.txt", "tokenizer_file": "{out}/elsewhere.json"},
    {"fast_tokenizer_files": ["../elsewhere.json"], "special_tokens_map_file": "{out}/elsewhere.json"},
    {"tokenizer_class": "RagTokenizer"}, {"tokenizer_class": "MistralCommonBackend"}, {"tokenizer_class": 3},
    {"cls_token": {"content": 3}, "pad_token": 5, "model_max_length": "x", "padding_side": 1},
    {"chat_template": "{{ evil }}", "extra_special_tokens": "x", "added_tokens_decoder": []},
]  # fmt: skip


@pytest.mark.parametrize("settings", CODE, ids=lambda v: " ".join(v)[:40])
def test_what_the_settings_name_is_neither_read_nor_run_nor_asked_for(settings, strange, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *said: pytest.fail("a prompt"))
    said = json.loads((strange / "tokenizer_config.json").read_text())
    text = json.dumps(said | settings).replace("{out}", str(strange.parent))
    HuggingFaceTokenizer(strange)  # so that what transformers import is there
    (strange / "tokenizer_config.json").write_text(text)
    (strange / "config.json").write_text(text.replace("AutoTokenizer", "AutoConfig"))
    with watched() as seen:
        found = HuggingFaceTokenizer(strange)
    assert found.vocab_size == len(WORDS)
    opened = {os.path.basename(what[1]) for what in seen if what[0] == "open"}
    assert opened <= {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "config.json",
        "framing.json",
    }
    assert not [what for what in seen if what[0] not in ("open", "import")]
    assert not [what for what in seen if what[0] == "import" and "transformers" not in what[1]]
    assert not (strange.parent / "ran").exists()


@pytest.mark.parametrize("settings", CODE[:6], ids=lambda v: " ".join(v)[:40])
def test_of_a_vocabulary_alone_too(settings, strange, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *said: pytest.fail("a prompt"))
    (strange / "tokenizer.json").unlink()
    (strange / "vocab.txt").write_text("\n".join(WORDS))
    (strange / "tokenizer_config.json").write_text(json.dumps(settings).replace("{out}", str(strange.parent)))
    fine = settings == CODE[1]  # of the class that its file is of
    with watched() as seen, contextlib.nullcontext() if fine else pytest.raises(UserError):
        assert len(from_folder(strange)) == len(WORDS)
    assert not [what for what in seen if what[0].startswith("socket") or str(strange.parent / "else") in what[1]]
    assert not (strange.parent / "ran").exists()


def test_the_classes_are_those_and_no_others(strange):
    (strange / "tokenizer.json").unlink()
    (strange / "vocab.txt").write_text("\n".join(WORDS))
    taken = set()
    for name in dir(transformers):
        if name.endswith("Tokenizer"):
            (strange / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
            try:
                from_folder(strange)
                taken.add(name)
            except UserError as error:
                if "without a tokenizer.json mmkit takes" not in str(error):
                    taken.add(name)
    assert taken == set(CLASSES)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "evil.txt"])
def test_a_link_out_of_the_folder_is_refused(name, strange):
    (strange / name).unlink(missing_ok=True)
    (strange / name).symlink_to(strange.parent / "elsewhere.json")
    with pytest.raises(UserError, match=rf"{name}: leads out of its folder, to .*elsewhere\.json"):
        load_tokenizer(strange)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", "{", "damaged, or not of a tokenizer"),
        ("tokenizer.json", "[" * 100_000, "damaged, or not of a tokenizer"),
        ("tokenizer.json", '{"normalizer": null, "pre_tokenizer": null}', "damaged, or not of a tokenizer"),
        ("tokenizer_config.json", "[]", "expected a JSON object"),
        ("tokenizer_config.json", "{" * 100_000, "damaged"),
        ("tokenizer_config.json", '{"model_max_length": NaN}', "damaged"),
        ("framing.json", '{"first": 3}', "damaged, or of another version"),
        ("framing.json", '{"third": true}', "damaged, or of another version"),
        ("framing.json", "[", "damaged"),
    ],
)
def test_a_damaged_file_is_named(name, text, message, strange):
    (strange / name).write_text(text)
    with pytest.raises(UserError, match=rf"{name}: .*{message}|{name}: {message}"):
        load_tokenizer(strange)
