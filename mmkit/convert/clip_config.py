"""What a CLIP's or a SigLIP's own config says that its tensors do not: transformers' ``config.json``, or open_clip's.

Read of both, and of a CLIP of ours written for open_clip (``model_cfg``).

Weights that are read with another activation, mask or pooling than they were trained with give wrong numbers without a
word; so a setting that is not known here is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from mmkit.convert.grid import told_size
from mmkit.data.texts.protocol import Tokenizer
from mmkit.encoders.prenorm_text import PreNormText
from mmkit.encoders.vit import ViT
from mmkit.errors import UserError
from mmkit.models.dual import Dual
from mmkit.nn.mlp import QuickGELU
from mmkit.nn.pool import FirstToken, LastToken

ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
TOKENIZERS = {32_000: "timm/ViT-B-16-SigLIP", 256_000: "timm/ViT-B-16-SigLIP2"}
PLAIN = {
    "width", "heads", "layers", "mlp_ratio", "patch_size", "image_size", "head_width", "context_length", "vocab_size",
    "hf_tokenizer_name", "tokenizer_kwargs", "patch_dropout", "timm_model_name", "timm_model_pretrained",
}  # fmt: skip
# What the other settings must be, for CLIP and for SigLIP; a setting that is absent is as these say.
FIXED: dict[bool, dict[str, tuple[Any, ...]]] = {
    False: {"no_causal_mask": (False,), "pool_type": ("argmax", "tok"), "proj_type": ("linear",)},
    True: {
        "no_causal_mask": (True,), "pool_type": ("last",), "proj_bias": (True,), "timm_pool": ("map",),
        "timm_proj": ("none",), "norm_kwargs": ({"eps": 1e-6},), "act_kwargs": (None, {"approximate": "tanh"}),
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Told:
    """Activations and attention heads of the towers, the tokenizer, SigLIP's padding.

    None where the config says nothing. image_size: (height, width) in pixels.
    """

    image_activation: str | None = None
    text_activation: str | None = None
    image_heads: int | None = None
    text_heads: int | None = None
    image_size: tuple[int, int] | None = None
    fill_id: int = 1
    tokenizer: str | None = None


def told(given: Mapping[str, Any], siglip: bool) -> Told:
    """Read a config; nothing of an empty one. UserError names a setting that is not known."""
    if "vision_config" in given:
        return _of_transformers(given, siglip)
    model = given.get("model_cfg", given)
    return replace(_of_open_clip(model, siglip), image_size=told_size(given)) if "vision_cfg" in model else Told()


def _of_transformers(given: Mapping[str, Any], siglip: bool) -> Told:
    shared: dict[str, Any] = {
        "hidden_act": "gelu_pytorch_tanh" if siglip else "quick_gelu", "num_attention_heads": 12,
        "layer_norm_eps": 1e-6 if siglip else 1e-5,
    }  # fmt: skip
    image = shared | dict(given["vision_config"])
    text = shared | {"num_attention_heads": 12 if siglip else 8, "pad_token_id": 1} | dict(given["text_config"])
    for tower in (image, text):
        if (eps := tower["layer_norm_eps"]) != shared["layer_norm_eps"]:
            raise UserError(f"the config's layer_norm_eps is {eps}; mmkit has {shared['layer_norm_eps']}")
    return Told(
        image_activation=_activation(image["hidden_act"]), text_activation=_activation(text["hidden_act"]),
        image_heads=image["num_attention_heads"], text_heads=text["num_attention_heads"],
        image_size=told_size(given), fill_id=text["pad_token_id"],
    )  # fmt: skip


def _activation(theirs: str) -> str:
    if theirs not in ACTIVATIONS:
        raise UserError(f"the config's hidden_act is {theirs!r}; mmkit knows {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[theirs]


def _of_open_clip(model: Mapping[str, Any], siglip: bool) -> Told:
    image, text = model["vision_cfg"], model["text_cfg"]
    for tower, settings in (("vision_cfg", image), ("text_cfg", text)):
        _check(tower, settings, FIXED[siglip])
    plain = "quick_gelu" if model.get("quick_gelu") else "gelu"
    heads = image.get("width", 768) // image["head_width"] if "head_width" in image else None
    if "timm_model_name" in image:
        heads, plain = _of_timm(image["timm_model_name"], plain)
    words = "gelu" if siglip else plain
    return Told(
        image_activation=plain, text_activation="gelu_tanh" if text.get("act_kwargs") else words, image_heads=heads,
        text_heads=text.get("heads", 8), tokenizer=text.get("hf_tokenizer_name"),
    )  # fmt: skip


def _check(tower: str, settings: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]]) -> None:
    for key, value in settings.items():
        if key in PLAIN or (key in fixed and value in fixed[key]):
            continue
        wanted = f", only {' or '.join(map(str, fixed[key]))}" if key in fixed else ""
        raise UserError(
            f"the config's {tower}.{key} = {value!r} is not known to mmkit{wanted}: load it as open_clip:FOLDER"
        )


def _of_timm(name: str, plain: str) -> tuple[int | None, str]:
    """The attention heads and the activation of one of timm's towers; built without memory."""
    import timm
    import torch

    if not timm.is_model(name):
        return None, plain
    with torch.device("meta"):
        block: Any = timm.create_model(name, num_classes=0).get_submodule("blocks.0")
    tanh = type(block.mlp.act).__name__ == "GELUTanh" or getattr(block.mlp.act, "approximate", "none") == "tanh"
    return block.attn.num_heads, "gelu_tanh" if tanh else "gelu"


def written(model: nn.Module, words: Tokenizer, pictures: tuple[int, int]) -> dict[str, Any]:
    """The ``model_cfg`` of a CLIP of ours. UserError for what open_clip cannot be told, or would read otherwise.

    pictures: (height, width) before what no whole patch covers is cut off, which is open_clip's size of a picture.
    """
    if not isinstance(model, Dual) or not isinstance(model.text, PreNormText):
        raise UserError(f"a {type(model).__name__} is none of open_clip's models")
    image, text = model.image, model.text
    if not isinstance(image, ViT):
        raise UserError("its image tower is a network of others; open_clip is told of a ViT of mmkit alone")
    if not isinstance(model.image_pool, FirstToken) or not isinstance(model.text_pool, LastToken):
        raise UserError("open_clip has the image tower of a SigLIP by timm's names alone: copy the one it came from")
    (activation, tanh), other = (_activation_of(tower) for tower in (image, text))
    if (activation, tanh) != other or tanh:
        raise UserError("open_clip has one activation for both towers, quick_gelu or gelu")
    if {tower.norm.eps for tower in (image, text)} != {1e-5} or text.fill_id is not None:
        raise UserError("its norms have another eps than CLIP's 1e-05, or its texts are filled up")
    count, (high, wide), patch = text.positions.num_embeddings, pictures, image.patch.patch[0]
    if (high // patch, wide // patch) != tuple(image.positions.grid):
        raise UserError(f"its pictures are {high} x {wide} pixels, and its image tower is for {image.positions.grid}")
    _check_words(words, count)
    return {
        "embed_dim": model.spec.embed_dim, "quick_gelu": activation is QuickGELU,
        "vision_cfg": {
            **_tower(image), "head_width": image.width // _block(image).attn.heads,
            "patch_size": patch, "image_size": high if high == wide else [high, wide],
        },
        "text_cfg": {
            **_tower(text), "heads": _block(text).attn.heads, "context_length": count,
            "vocab_size": text.words.num_embeddings,
        },
    }  # fmt: skip


def _block(tower: ViT | PreNormText) -> Any:
    return tower.blocks[0]


def _tower(tower: ViT | PreNormText) -> dict[str, Any]:
    hidden = _block(tower).mlp.fc1.out_features
    ratio = hidden / tower.width if hidden % tower.width == 0 else (hidden + 0.5) / tower.width  # it is rounded down
    return {"width": tower.width, "layers": len(tower.blocks), "mlp_ratio": ratio}


def _activation_of(tower: ViT | PreNormText) -> tuple[type, bool]:
    act = _block(tower).mlp.act
    return type(act), getattr(act, "approximate", "none") == "tanh"


def _check_words(words: Tokenizer, count: int) -> None:
    """UserError unless open_clip's own tokenizer gives the ids of this one."""
    from open_clip import SimpleTokenizer

    for text in ("A dog's photo, on the  grass!", "7 naïve", "a " * count):
        ids = words.encode(text, count)
        if SimpleTokenizer()([text], count)[0].tolist() != ids + [0] * (count - len(ids)):
            raise UserError("open_clip would read texts with CLIP's tokenizer, and this model has another")
