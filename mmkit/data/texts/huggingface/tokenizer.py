"""Any fast Hugging Face tokenizer behind the ``Tokenizer`` protocol: BERT's, CLIP's, XLM-R's, a Chinese one, ...

The special tokens that a tokenizer lacks are added to it (GPT-2 has no [MASK]), if its ``Framing`` lets it grow; text
that spells one ("[MASK]") stays text. CLIP's is made from the table that open_clip carries, under the name "clip". Left
out: chat templates, pairs, slow tokenizers.
"""

from __future__ import annotations

import json
import string
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from mmkit.data.texts.cleaning import CAPTION_WORDS, QUESTION_WORDS, clean_caption, clean_question
from mmkit.data.texts.huggingface.folder import from_folder, is_folder
from mmkit.data.texts.huggingface.surfaces import surfaces
from mmkit.data.texts.offsets import Span, same_places, trimmed
from mmkit.data.texts.protocol import Framing, Kind
from mmkit.data.texts.sample import valid
from mmkit.data.texts.words import word_starts
from mmkit.errors import UserError
from mmkit.files import read_json, write_bytes

Part = TypeVar("Part")
FRAMING = "framing.json"
CLIP = "clip"
NO_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


class HuggingFaceTokenizer:
    """A tokenizer by its name on the hub, or by the folder that holds it.

    framing: None = as it was saved with the tokenizer, else [CLS] and the tokens.

    Raises:
        UserError: the name is not cached and the hub cannot be reached; the message says what to put where.
    """

    def __init__(self, name: str | Path, framing: Framing | None = None) -> None:
        self.name = str(name)
        self.framing = framing or _saved_framing(Path(name) / FRAMING)
        self._wrapped = _load(self.name)
        self._backend = self._wrapped.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        if self.framing.grows:
            self._add_missing_specials()
        # "[MASK]" in a caption is what somebody wrote, not an order
        self._backend.encode_special_tokens = True
        wrapped = self._wrapped
        self.vocab_size: int = len(wrapped)
        self.unk_id: int = self._special("unk", wrapped.eos_token_id)
        self.cls_id: int = self._special("cls", wrapped.bos_token_id)
        self.sep_id: int = self._special("sep", wrapped.eos_token_id)
        self.pad_id: int = self._special("pad", wrapped.eos_token_id)
        self.mask_id: int | None = wrapped.mask_token_id
        known = (self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id)
        self.special_ids = frozenset(number for number in known if number is not None)
        pieces = wrapped.convert_ids_to_tokens(list(range(self.vocab_size)))
        self._pieces: list[str] = [piece if piece is not None else "" for piece in pieces]
        self._surfaces = surfaces(self._backend, self._pieces, self.special_ids)

    def encode(self, text: str, max_tokens: int | None, kind: Kind = "caption") -> list[int]:
        """See ``Tokenizer``."""
        text = self._cleaned(valid(text), kind, whole=max_tokens is None)
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return self._framed(ids, max_tokens, self.cls_id, self.sep_id)

    def encode_with_offsets(
        self, text: str, max_tokens: int | None, kind: Kind = "caption"
    ) -> tuple[list[int], list[Span]]:
        """See ``WithOffsets``. UserError where the framing cleans the text into another one."""
        read = self._cleaned(valid(text), kind, whole=max_tokens is None)
        same_places(text, read, "this tokenizer cleans texts (framing), or it holds half a character")
        found = self._backend.encode(read, add_special_tokens=False)
        ids = self._framed(found.ids, max_tokens, self.cls_id, self.sep_id)
        return ids, self._framed(trimmed(read, found.offsets), max_tokens, (0, 0), (0, 0))

    def _framed(self, tokens: Sequence[Part], max_tokens: int | None, first: Part, last: Part) -> list[Part]:
        framing = self.framing
        if max_tokens is not None:
            tokens = tokens[: max(0, max_tokens - framing.first - framing.last)]
        return [*[first] * framing.first, *tokens, *[last] * framing.last]

    def decode(self, ids: Sequence[int]) -> str:
        """See ``Tokenizer``."""
        return str(self._backend.decode([int(i) for i in ids if int(i) not in self.special_ids])).strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """See ``Tokenizer``."""
        return [self._pieces[int(i)] for i in ids]

    def starts_word(self, ids: Sequence[int]) -> list[bool]:
        """See ``Tokenizer``, and ``word_starts``."""
        return word_starts([self._surfaces[int(i)] for i in ids])

    def save(self, folder: str | Path) -> None:
        """See ``Tokenizer``. Each file is whole, or as it was: when the process is killed, or nothing is new."""
        with tempfile.TemporaryDirectory() as made:
            self._wrapped.save_pretrained(made)
            for file in sorted(path for path in Path(made).rglob("*") if path.is_file()):
                write_bytes(Path(folder) / file.relative_to(made), file.read_bytes())
        write_bytes(Path(folder) / FRAMING, (json.dumps(asdict(self.framing)) + "\n").encode())

    def _cleaned(self, text: str, kind: Kind, whole: bool) -> str:
        """What is read of a text; whole: no word of it left out."""
        if self.framing.clean == "albef" and kind == "question":
            text = clean_question(text, None if whole else QUESTION_WORDS)
        elif self.framing.clean == "albef" and kind == "caption":
            text = clean_caption(text, None if whole else CAPTION_WORDS)
        if self.framing.canonical:
            text = " ".join(text.translate(NO_PUNCTUATION).lower().split())
        return text

    def _special(self, kind: str, stand_in: int | None = None) -> int:
        own = getattr(self._wrapped, f"{kind}_token_id")
        found = next((i for i in (own, stand_in, self._wrapped.unk_token_id) if i is not None), None)
        if found is None:
            raise UserError(f"tokenizer {self.name}: has no {kind} token and nothing that could stand in; let it grow")
        return int(found)

    def _add_missing_specials(self) -> None:
        wrapped = self._wrapped
        stand_in = {"cls": wrapped.bos_token, "sep": wrapped.eos_token}
        missing = {
            f"{kind}_token": stand_in.get(kind) or f"[{kind.upper()}]"
            for kind in ("pad", "unk", "cls", "sep", "mask")
            if getattr(wrapped, f"{kind}_token_id") is None
        }
        if missing:
            wrapped.add_special_tokens(missing)
            self._backend = wrapped.backend_tokenizer


def _saved_framing(file: Path) -> Framing:
    if not file.is_file():
        return Framing()
    saved = read_json(file, strict=True)
    try:
        found = Framing(**saved)
        if not all(type(value) is type(getattr(Framing(), name)) for name, value in asdict(found).items()):
            raise TypeError("a value of another type")
    except (TypeError, UserError) as error:
        raise UserError(f"{file}: damaged, or of another version of mmkit ({error})") from error
    return found


def _clip():  # type: ignore[no-untyped-def]
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    table = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocab = {names.get(piece, piece): number for piece, number in table.encoder.items()}
    return CLIPTokenizer(vocab=vocab, merges=list(table.bpe_ranks))


def _cached(name: str):  # type: ignore[no-untyped-def]
    # What is on this machine is used without asking the hub, which may be out of reach and is then asked for a minute.
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        return None


def _load(name: str):  # type: ignore[no-untyped-def]  # transformers' classes are imported late
    from transformers import AutoTokenizer, SiglipTokenizer, T5Tokenizer

    if name == CLIP:
        return _clip()
    if is_folder(name):
        return from_folder(name)
    try:
        wrapped = _cached(name) or AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"tokenizer {name!r} is neither a folder here nor can it be fetched from the Hugging Face hub. "
            "Without a network, put its tokenizer.json and tokenizer_config.json in a folder and give that folder. "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    if isinstance(wrapped, SiglipTokenizer):  # T5's reads the same file, and is fast; cleaning is the framing's
        wrapped = T5Tokenizer.from_pretrained(name, extra_ids=0)
    if not wrapped.is_fast:
        raise UserError(f"tokenizer {name!r} has no fast version (tokenizer.json); mmkit uses fast tokenizers only")
    return wrapped
