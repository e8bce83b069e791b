"""Any picture model of timm as an image tower: ViT and DeiT with registers, Swin, ConvNeXt, ResNet, EfficientNet, ...

What a call of timm gives differs by family (docs of ``forward_intermediates``); ``Timm`` reads off the network which it
is. Where a model pools by the mean and norms afterwards (``fc_norm``: BEiT, fine-tuned MAE), its last norm is the
identity, and that norm is applied to each token here. Left out: repositories of the hub by their own name, whose config
may say anything (``init`` takes weights from them).
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any, cast

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import group_parameters
from torch import Tensor, nn

from mmkit.encoders.backbone.tower import Backbone, Form, Layer, Layout, Side2
from mmkit.errors import UserError
from mmkit.types import Normalise

PREFIX = "timm:"
OTHER_SIZES: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""How families are told that pictures may have other sizes; none of them takes two of these."""


class Timm(Backbone):
    """The network "timm:NAME" with random weights.

    drop_path: the rate of stochastic depth. checkpointing: recompute blocks in the backward pass. classifier: keep the
    layer that sorts pictures into the classes of its own training, for ``logits``. UserError for a name that timm has
    not, or a network that has no such thing or does not read pictures of this size.
    """

    def __init__(
        self, name: str, image_size: Side2, *, drop_path: float = 0.0, checkpointing: bool = False,
        classifier: bool = False,
    ) -> None:  # fmt: skip
        self.asked = {"drop_path_rate": drop_path} if drop_path else {}
        self.asked |= {} if classifier else {"num_classes": 0}
        self.checkpointing = checkpointing
        check_name(name)
        super().__init__(f"{PREFIX}{name}", image_size)

    def made(self, size: Side2) -> nn.Module:
        """As timm makes it."""
        name = self.name.removeprefix(PREFIX)
        fixed = config_of(name).fixed_input_size
        sizes = tuple({"img_size": size} | way for way in OTHER_SIZES) if fixed else ({},)
        net = _first_that_fits(name, self.asked, sizes)
        if self.checkpointing:
            try:
                net.set_grad_checkpointing(True)
            except (AttributeError, AssertionError, TypeError) as error:
                raise UserError(f"{self.name}: has no gradient checkpointing; set checkpointing=False") from error
        return cast(nn.Module, net)

    def described(self) -> Form:
        """Of its attributes, which hold for every family."""
        net: Any = self.net
        prefix = int(getattr(net, "num_prefix_tokens", 0))
        data = resolve_model_data_config(net)
        first = prefix and getattr(net, "cls_token", None) is not None and net.global_pool in ("token", "")
        infos = list(getattr(net, "feature_info", ()))
        last = _two(infos[-1]["reduction"] if infos else net.patch_embed.patch_size)
        known = infos if callable(getattr(net, "forward_intermediates", None)) else []
        return Form(
            width=net.num_features, patch=last, prefix=prefix, pooling="first" if first else "mean",
            layout=_layout(net), resample=data["interpolation"],
            layers=tuple(
                Layer(name=str(info["module"]), patch=_two(info["reduction"]), width=info["num_chs"]) for info in known
            ),
            normalise=Normalise(mean=tuple(data["mean"]), std=tuple(data["std"]), factor=1 / 255),
        )  # fmt: skip

    def look(self, pixels: Tensor, names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """By ``forward_features``; by ``forward_intermediates`` where layers are asked for, which gives the same."""
        net: Any = self.net
        if not names:
            return self._normed(net.forward_features(pixels)), {}
        indices = [i for i, name in enumerate(self.layers) if name in names]
        tokens = {"return_prefix_tokens": True} if self.form.prefix else {}
        last, maps = net.forward_intermediates(pixels, indices=indices, output_fmt="NCHW", **tokens)
        found = {self.layers[i]: _with_prefix(given) for i, given in zip(indices, maps, strict=True)}
        return self._normed(last), found

    def fitted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By timm's own filter, which knows the official names and resamples positions and windows' biases."""
        own = self.net.state_dict()
        change = getattr(sys.modules[type(self.net).__module__], "checkpoint_filter_fn", None)
        given = dict(state)
        if change is not None:
            with torch.no_grad():
                given = dict(change(given, self.net))
        return {name: value for name, value in given.items() if name in own or not _of_classifier(name, self.net)}

    def depths(self) -> dict[str, int]:
        """By timm's ``group_matcher``."""
        if not callable(getattr(self.net, "group_matcher", None)):
            return super().depths()
        groups = group_parameters(self.net, cast(Any, self.net).group_matcher(coarse=False), reverse=True)
        return {f"net.{name}": depth for name, depth in groups.items()}

    def _normed(self, last: Tensor) -> Tensor:
        norm, later = getattr(self.net, "norm", None), getattr(self.net, "fc_norm", None)
        if isinstance(norm, nn.Identity) and isinstance(later, nn.Module) and not isinstance(later, nn.Identity):
            return cast(Tensor, later(last))
        return last


def check_name(name: str) -> None:
    """UserError for what is no "ARCH" or "ARCH.TAG" of timm."""
    arch = name.split(".")[0]
    if not re.fullmatch(r"[\w.-]+", name) or not timm.is_model(arch):
        near = difflib.get_close_matches(arch, timm.list_models(), 3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UserError(f"{PREFIX}{name}: timm has no such model{hint}")


def config_of(name: str) -> Any:
    """What timm says of a model and the weights of its tag; UserError for a tag that it has not."""
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        arch = name.split(".")[0]
        tags = ", ".join(known.partition(".")[2] for known in timm.list_pretrained(f"{arch}.*"))
        raise UserError(f"{PREFIX}{name}: timm has no weights of this tag; it has {tags or 'none'}") from error


def _first_that_fits(name: str, asked: Mapping[str, Any], sizes: tuple[dict[str, Any], ...]) -> Any:
    """The network; each of ``sizes`` in turn, as far as its class takes such arguments."""
    for at, size in enumerate(sizes):
        try:
            return timm.create_model(name, pretrained=False, **asked, **size)
        except TypeError as error:
            odd = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if odd is None or at + 1 == len(sizes):
                what = f"takes no {odd[1]}" if odd else str(error)
                raise UserError(f"{PREFIX}{name}: {what}") from error
    raise AssertionError("the last size has no further argument")


def _layout(net: Any) -> Layout:
    """What a family says of its maps; those that say nothing are as of convolutions."""
    said = getattr(net, "output_fmt", "NCHW")
    return "NHWC" if getattr(said, "value", said) == "NHWC" else "NCHW"


def _with_prefix(given: Any) -> Tensor:
    """A map (B, C, H, W) as it is; with its tokens that are no patches, a sequence with these first."""
    if isinstance(given, Tensor):
        return given
    patches, prefix = given
    return torch.cat([prefix, patches.flatten(2).mT], 1)


def _of_classifier(name: str, net: Any) -> bool:
    """Whether a weight belongs to the layer that sorts into classes, which this network may lack."""
    said = getattr(net, "pretrained_cfg", {}) or {}
    classifier = said.get("classifier", ())
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    return name.startswith(tuple(f"{part}." for part in names))


def _two(value: Any) -> Side2:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))
