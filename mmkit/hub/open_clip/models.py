"""open_clip models by name or from local files, as predictors: ``mmkit.load("open_clip:ViT-B-32/laion2b_s34b_b79k")``.

    open_clip:ARCH/TAG           one of open_clip's own names; fetched once, then kept where open_clip keeps it
    open_clip:ARCH/TAG@FILE      the same, its weights from a local file
    open_clip:ARCH@FILE          weights of one's own training
    open_clip:FOLDER             a local folder with open_clip_config.json, weights and, where it has one, a tokenizer
    open_clip:hf-hub:OWNER/NAME  such a folder on the Hugging Face hub

The tag says what the weights alone do not: the activation, the normalisation and how pictures are resized. Everything
else is open_clip's: architecture, tokenizer. Pictures are read by our own transform, which gives the pixels of
open_clip's, bounds what a thin picture takes, and knows what it cut off. No weights are ever left at random.
"""

from __future__ import annotations

import logging
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import open_clip
import torch

from mmkit.convert.grid import compact
from mmkit.convert.pictures.read import of_open_clip
from mmkit.data.texts.protocol import Tokenizer
from mmkit.encoders.open_clip import OpenClip, OpenClipTokenizer, embed_dim_of
from mmkit.errors import UserError
from mmkit.hub.facts import quiet
from mmkit.hub.files import OPEN_CLIP as PREFIX
from mmkit.hub.open_clip.config import checked, never_asked, not_endless, of_folder
from mmkit.hub.open_clip.config import options as options_of
from mmkit.hub.open_clip.config import tokenizer as tokenizer_of
from mmkit.hub.open_clip.name import FORMS, HUB, LOCAL, OF_A_TAG, Name, parse, tag_of
from mmkit.inference.predictor import Predictor

log = logging.getLogger(__name__)

FAILURES = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError, ImportError)


def load_open_clip(
    spec: str, *, device: str | torch.device = "cpu", precision: Literal["float32", "bf16"] = "float32",
    image_size: int | tuple[int, int] | None = None,
) -> Predictor:  # fmt: skip
    """A predictor without heads. UserError names what is missing, and which file to fetch where there is no network."""
    name = parse(spec)
    with _at_once_without_network(name), never_asked():
        return _load(name, precision, image_size).to(device)


def _load(name: Name, precision: Literal["float32", "bf16"], image_size: int | tuple[int, int] | None) -> Predictor:
    tag, options = _told(name)
    options |= {} if image_size is None else {"force_image_size": image_size}
    weights = name.file or (_fetched(name, tag) if name.arch else None)
    with _as_user_error(name.spec, weights), torch.random.fork_rng(devices=[]):
        own, words = _prepared(name)
        with not_endless(name.spec):
            clip = open_clip.create_model(
                name.place or name.arch, pretrained=None if weights is None else str(weights), require_pretrained=True,
                **options, **own,
            )  # fmt: skip
        preprocess = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(clip))
        height, width = open_clip.utils.to_2tuple(preprocess.size)
        embed_dim = embed_dim_of(clip, (height, width))
    vocab_size = getattr(clip, "vocab_size", None) or getattr(words, "vocab_size", None) or len(words.tokenizer)
    model = OpenClip(clip, embed_dim, int(vocab_size)).eval()
    tokenizer = OpenClipTokenizer(words, model.spec.vocab_size)
    transform = of_open_clip(asdict(preprocess), name.spec).transform(compact((height, width)), 1)
    return Predictor(model, {}, cast(Tokenizer, tokenizer), transform, tokenizer.context_length, precision=precision)


def describe_open_clip(spec: str) -> dict[str, Any]:
    """The facts of ``mmkit info``, without the weights: they need not be here. UserError for an unknown name."""
    name = parse(spec)
    tag, options = _told(name)
    with _as_user_error(spec, None), _at_once_without_network(name):
        own, words = _prepared(name, with_weights=False)
        with torch.device("meta"), not_endless(spec), quiet():  # it warns that nothing was loaded
            clip = open_clip.create_model(
                name.place or name.arch, load_weights=False, pretrained_text=False, device="meta", **options, **own
            )
        picture = open_clip.get_model_preprocess_cfg(clip)
    parts: Counter[str] = Counter()
    for path, value in clip.named_parameters():
        parts[path.split(".")[0]] += value.numel()
    where = str(name.file) if name.file else _address(tag) if name.arch else name.place
    size = getattr(words, "vocab_size", None) or getattr(clip, "vocab_size", None)
    shown = {f"preprocessing.{key}": str(value) for key, value in picture.items() if key != "size"}
    return {
        "kind": "a model of open_clip", "use": f"--model {spec} in every command, or mmkit.load({spec!r})",
        "model": name.arch or name.place, "weights": where, "parameters": sum(parts.values()),
        **{f"parameters.{part}": count for part, count in parts.most_common(12)},
        "image_size": str(picture["size"]), **shown, "max_tokens": int(words.context_length),
        "tokenizer": type(words).__name__ + (f", {size} words" if size else ""),
        "training.data": f"as the tag says: {name.tag}" if name.tag else "not stated",
        "training.steps": "not stated",
        "licence": "not stated by open_clip; see where its weights come from",
    }  # fmt: skip


def _prepared(name: Name, with_weights: bool = True) -> tuple[dict[str, Any], Any]:
    """Further options for ``open_clip.create_model``, and the tokenizer; of a config that was looked through."""
    if name.place.startswith(LOCAL):
        folder = Path(name.place.removeprefix(LOCAL))
        model = of_folder(folder, name.spec, with_weights)
        words = tokenizer_of(folder, model) or open_clip.get_tokenizer(name.place)
        return options_of(model, name.spec), words
    model = open_clip.get_model_config(name.place or name.arch)
    text = checked(model, name.spec)["text_cfg"] if name.place else model["text_cfg"]
    named = [text[key] for key in ("hf_model_name", "hf_tokenizer_name") if text.get(key)]
    with never_asked(*named):
        code = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
        return {}, open_clip.get_tokenizer(name.place or name.arch, **code)


def _told(name: Name) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """What the tag says of its weights, and of it for ``open_clip.create_model``: preprocessing and activation."""
    if not name.arch:
        return {}, {}
    tag = tag_of(name)
    wants, has = bool(tag.get("quick_gelu")), bool(open_clip.get_model_config(name.arch).get("quick_gelu"))
    if wants and not has:
        log.info("%s: QuickGELU, as these weights were trained", name.spec)
    pictures = {key: tag[key] for key in OF_A_TAG if tag.get(key) is not None}
    return tag, {"force_quick_gelu": wants, "force_preprocess_cfg": pictures}


@contextmanager
def _at_once_without_network(name: Name) -> Iterator[None]:
    """Where the hub does not answer now, look in its cache alone: its client asks each address six times, for 12 s."""
    from huggingface_hub import constants

    from mmkit.network import hub_answers

    text = {} if not name.arch else (open_clip.get_model_config(name.arch) or {}).get("text_cfg", {})
    needed = name.place.startswith(HUB) or (name.arch and name.file is None) or "hf_tokenizer_name" in text
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or bool(needed and not hub_answers())
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _fetched(name: Name, tag: Mapping[str, Any]) -> Path:
    """The file of a tag, from open_clip's cache or the network."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it repeats each failure many times
    log.info("%s: looking for its weights in the cache, then at %s", name.spec, _address(tag))
    try:
        return Path(open_clip.download_pretrained(dict(tag)))
    except (OSError, RuntimeError, ValueError, HfHubHTTPError) as error:
        url, offline = _address(tag), tag.get("hf_hub") and constants.HF_HUB_OFFLINE
        reason = "the Hugging Face hub cannot be reached" if offline else _first_line(error)
        raise UserError(
            f"{name.spec}: its weights are not on this machine and cannot be fetched ({reason}). Where "
            f"there is a network, fetch {url}, put it where you like, and write "
            f"{PREFIX}{name.arch}/{name.tag}@PATH/{PurePosixPath(url).name}"
        ) from error


def _address(tag: Mapping[str, Any]) -> str:
    if not tag.get("hf_hub"):
        return str(tag["url"])
    owner, repository, *inside = PurePosixPath(tag["hf_hub"]).parts
    file = "/".join(inside) or "open_clip_model.safetensors"
    return f"https://huggingface.co/{owner}/{repository}/resolve/main/{file}"


@contextmanager
def _as_user_error(spec: str, weights: Path | None) -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{weights or spec}: refused, this pickle holds more than tensors; ask for a safetensors file"
        ) from error
    except FAILURES as error:
        if isinstance(error, UserError):
            raise
        hint = (
            "Its configuration or its tokenizer come from the Hugging Face hub: where there is a network, fetch the "
            f"whole repository (hf download OWNER/NAME --local-dir FOLDER), and write {PREFIX}FOLDER"
            if weights is None or isinstance(error, OSError)
            else f"Are these weights of that architecture? Forms: {FORMS}"
        )
        raise UserError(f"{spec}: cannot be loaded ({_first_line(error)}). {hint}") from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:160] if lines else type(error).__name__
