"""A tokenizer from the files in a folder: nothing outside of it is read, no code of it is run, and nobody is asked.

``tokenizer.json`` alone is taken where it is there, with the names of the special tokens beside it. Of a vocabulary
alone the class is one of a closed list. What a folder's JSON says of other files, of code (``auto_map``) and of where
it came from is not followed. Left out: slow tokenizers, chat templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmkit.errors import UserError
from mmkit.files import inside, is_place, read_json

FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
ROBERTA = {
    "bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>",
}  # fmt: skip
CLIP = {"bos": "<|startoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"}
GPT2 = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}
T5 = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
ALBERT = BERT | {"bos": "[CLS]", "eos": "[SEP]", "unk": "<unk>", "pad": "<pad>"}
CLASSES = {
    "BertTokenizer": BERT, "DistilBertTokenizer": BERT, "RobertaTokenizer": ROBERTA, "XLMRobertaTokenizer": ROBERTA,
    "CLIPTokenizer": CLIP, "GPT2Tokenizer": GPT2, "T5Tokenizer": T5, "SiglipTokenizer": T5, "AlbertTokenizer": ALBERT,
}  # fmt: skip
"""The classes of transformers that are taken by their names, and the special tokens of each where no file says them."""
OF_MODELS = {
    "bert": "BertTokenizer", "vilt": "BertTokenizer", "distilbert": "DistilBertTokenizer", "clip": "CLIPTokenizer",
    "roberta": "RobertaTokenizer", "xlm-roberta": "XLMRobertaTokenizer", "gpt2": "GPT2Tokenizer", "t5": "T5Tokenizer",
    "siglip": "SiglipTokenizer", "albert": "AlbertTokenizer",
}  # fmt: skip
OF_FILES = {"vocab.txt": "BertTokenizer", "sentencepiece.bpe.model": "XLMRobertaTokenizer"}
PLAIN = {"padding_side": str, "truncation_side": str, "model_max_length": int, "clean_up_tokenization_spaces": bool}


def is_folder(name: str) -> bool:
    """Whether a tokenizer's name is a place on this machine, and no name of the hub."""
    return Path(name).exists() or is_place(name)


def from_folder(name: str | Path) -> Any:
    """The tokenizer of transformers in a folder; UserError where there is none, or none that mmkit takes."""
    folder = Path(name)
    here = [file for file in FILES if (folder / file).is_file()]
    if not here:
        found = f"none of {', '.join(FILES)} is in it" if folder.is_dir() else "no such folder"
        raise UserError(f"tokenizer {name}: {found}; give a folder that `save_pretrained` wrote, or a name on the hub")
    for file in folder.iterdir():
        inside(folder, file.name)
    said = {file: _json(folder, f"{file}.json") for file in ("special_tokens_map", "tokenizer_config", "config")}
    settings = said["special_tokens_map"] | said["tokenizer_config"]
    stated = _class(settings, said["config"], here[0])
    if here[0] == "tokenizer.json" and not (stated == "SiglipTokenizer" and "spiece.model" in here):
        return _of_json(folder / here[0], settings, CLASSES.get(stated, {}))
    return _of_vocabulary(folder, settings, stated)


def _json(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name, strict=True) if (folder / name).is_file() else {}


def _class(settings: Mapping[str, Any], of_model: Mapping[str, Any], file: str) -> str:
    """The class that is said beside the tokenizer, else by the model's config or the file; "" where nothing says it."""
    said = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    if said in CLASSES:
        return said
    return OF_MODELS.get(str(of_model.get("model_type", "")), "") or said or OF_FILES.get(file, "")


def _of_json(file: Path, settings: Mapping[str, Any], usual: Mapping[str, str]) -> Any:
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
        _obey(whole, settings)
        backend = Backend.from_str(json.dumps(whole))
    except Exception as error:
        raise UserError(f"{file}: damaged, or not of a tokenizer ({str(error)[:200]}); copy it again") from error
    options: dict[str, Any] = {
        key: settings[key] for key, kind in PLAIN.items() if key in settings and type(settings[key]) is kind
    }
    for key in (f"{kind}_token" for kind in KINDS):
        token = _token(settings.get(key, usual.get(key.removesuffix("_token"))))
        if token is not None and (key in settings or backend.token_to_id(str(token)) is not None):
            options[key] = token
    added = settings.get("added_tokens_decoder")
    found = {int(at): _token(value, special=False) for at, value in added.items()} if isinstance(added, Mapping) else {}
    if any(token is not None and backend.token_to_id(str(token)) is None for token in found.values()):
        options["added_tokens_decoder"] = {at: token for at, token in found.items() if token is not None}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def _token(value: Any, special: bool = True) -> Any:
    """A token as transformers write it, a text or an object that may say whether it is special; None for all else."""
    from tokenizers import AddedToken

    if not isinstance(value, Mapping):
        return AddedToken(value, special=special) if isinstance(value, str) else None
    text, flags = value.get("content"), {"special": special} | {key: bool(value[key]) for key in FLAGS if key in value}
    return AddedToken(text, **flags) if isinstance(text, str) else None


def _obey(whole: Any, settings: Mapping[str, Any]) -> None:
    """Put into ``tokenizer.json`` what the settings beside it say otherwise, as transformers do."""
    normaliser, cutter = whole["normalizer"], whole["pre_tokenizer"]
    if isinstance(normaliser, dict) and normaliser["type"] == "BertNormalizer":
        names = {
            "do_lower_case": "lowercase", "strip_accents": "strip_accents",
            "tokenize_chinese_chars": "handle_chinese_chars",
        }  # fmt: skip
        for theirs, ours in names.items():
            if theirs in settings and isinstance(settings[theirs], bool | None):
                normaliser[ours] = settings[theirs]
    if isinstance(cutter, dict) and cutter["type"] == "ByteLevel" and type(settings.get("add_prefix_space")) is bool:
        cutter["add_prefix_space"] = settings["add_prefix_space"]


def _of_vocabulary(folder: Path, settings: Mapping[str, Any], stated: str) -> Any:
    """Of a vocabulary without tokenizer.json, by one of the classes."""
    import transformers

    if stated not in CLASSES:
        raise UserError(
            f"tokenizer {folder}: of the class {stated or 'unknown'}, and without a tokenizer.json mmkit takes "
            f"{', '.join(CLASSES)} alone; open it with transformers and `save_pretrained` it, which writes one"
        )
    for key, value in settings.items():
        if key.endswith(("_file", "_files")) and value is not None:
            raise UserError(f"tokenizer {folder}: its settings name another file, {key} = {value!r}; take that out")
    options = {"extra_ids": 0} if stated == "SiglipTokenizer" else {}  # T5's reads the same file, and is fast
    kind = getattr(transformers, "T5Tokenizer" if options else stated)
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:
        raise UserError(f"tokenizer {folder}: cannot be read as a {stated} ({str(error)[:200]})") from error
