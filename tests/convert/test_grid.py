"""The shape of the pictures of a tower: told by a config, given by hand, else a square with a word about it."""

import json
import logging

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import mmkit
from mmkit.cli.main import main
from mmkit.convert.fit import fit
from mmkit.convert.grid import picture_size, told_size
from mmkit.convert.read_file import read_checkpoint
from mmkit.convert.towers import copy_into, fill
from mmkit.errors import UserError
from mmkit.models.sizes.albef import albef
from mmkit.nn.positions import GridPositions
from tests.convert.test_family import random_weights
from tests.models import family
from tests.parity.measure import assert_near
from tests.parity.oracle import cases, load, under

WIDE = (32, 72)  # 4 x 9 patches of 8: as many as a square of 6 x 6
PRETRAIN = cases(lambda names: "sd.text_encoder.cls.predictions.bias" in names)


def test_where_a_config_says_it():
    assert told_size({"image_size": 384}) == (384, 384)
    assert told_size({"vision_config": {"image_size": [32, 72]}}) == WIDE
    assert told_size({"model_cfg": {"vision_cfg": {"image_size": [32, 72]}}}) == WIDE
    assert told_size({"vision_cfg": {"image_size": 32}}) == (32, 32)
    timm_says = {"pretrained_cfg": {"input_size": [3, 32, 72]}}
    assert told_size(timm_says) == WIDE
    assert told_size(timm_says | {"model_args": {"img_size": 64}}) == (64, 64)
    assert told_size({"hidden_size": 3}) is None
    with pytest.raises(UserError, match="the config's image_size = 'big'"):
        told_size({"image_size": "big"})


def test_what_positions_cover(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "mmkit")
    monkeypatch.setattr(logging.getLogger("mmkit"), "propagate", True)
    assert picture_size(36, (8, 8), WIDE) == WIDE
    assert picture_size(36, (8, 8), (48, 48), WIDE) == WIDE
    assert not caplog.messages
    assert picture_size(4, (14, 14), (31, 31)) == (28, 28)
    assert set(caplog.messages) == {"pictures of 28x28 pixels in place of 31x31, as many as whole patches cover"}
    assert picture_size(36, (8, 8), None) == (48, 48)
    assert "36 image positions taken as a square of 6 x 6" in caplog.messages[-1]
    with pytest.raises(UserError, match=r"32 image positions are no square grid.*--image-size HEIGHTxWIDTH"):
        picture_size(32, (8, 8), None)
    with pytest.raises(UserError, match=r"do not cover 48 x 48 pixels \(its config\), which are 6 x 6 patches of 8"):
        picture_size(32, (8, 8), (48, 48))
    with pytest.raises(UserError, match=r"\(--image-size\)"):
        picture_size(32, (8, 8), (64, 32), (32, 72))
    with pytest.raises(UserError, match="patches are 8 x 16 pixels"):
        picture_size(36, (8, 16), None)


@pytest.fixture
def wide_clip(tmp_path):
    config = json.loads(json.dumps(family.CONFIGS["clip"]))
    config["text_cfg"]["vocab_size"] = 49_408
    config["vision_cfg"]["image_size"] = list(WIDE)
    model = random_weights(open_clip.model.CLIP(**config))
    (tmp_path / "theirs").mkdir()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "theirs/open_clip_model.safetensors")
    (tmp_path / "theirs/open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return model, tmp_path / "theirs"


@pytest.mark.parity("CLIP, pictures of 32 x 72", "open_clip")
@torch.no_grad()
def test_a_clip_with_wide_pictures(wide_clip, tmp_path, capsys):
    model, source = wide_clip
    pixels = torch.randn(2, 3, *WIDE)
    expected = model.encode_image(pixels, normalize=True)

    def found(name):
        own = mmkit.load(tmp_path / name).model
        return own.embed_image(own.encode_image(pixels))

    assert main(["convert", "auto", str(source), str(tmp_path / "told")]) == 0
    assert mmkit.load(tmp_path / "told").transform.size == WIDE
    assert_near(found("told"), expected, 1e-5)
    assert main(["convert", "clip", str(tmp_path / "told"), str(tmp_path / "b.safetensors"), "--reverse"]) == 0
    assert load_file(tmp_path / "b.safetensors").keys() == model.state_dict().keys()

    (source / "open_clip_config.json").unlink()
    rest = ["--activation", "gelu", "--image-heads", "4", "--text-heads", "2"]
    assert main(["convert", "auto", str(source), str(tmp_path / "given"), *rest, "--image-size", "32x72"]) == 0
    assert_near(found("given"), expected, 1e-5)
    capsys.readouterr()
    assert main(["convert", "auto", str(source), str(tmp_path / "square"), *rest]) == 0
    assert "36 image positions taken as a square of 6 x 6, 48 pixels" in " ".join(capsys.readouterr().err.split())
    for size, why in (("32x64", "do not cover 32 x 64 pixels (--image-size)"), ("wide", "--image-size wide = 0")):
        assert main(["convert", "auto", str(source), str(tmp_path / "no"), *rest, "--image-size", size]) == 2
        assert why in " ".join(capsys.readouterr().err.split())


@torch.no_grad()
def test_an_albef_with_wide_pictures(tokenizer, tmp_path, capsys):
    meta, x = load(PRETRAIN[0])
    state = {name: value.clone() for name, value in under(x, "sd.").items() if "_m." not in name}
    patch, width = meta["vit"]["patch"], meta["vit"]["width"]
    state["visual_encoder.pos_embed"] = torch.randn(1, 1 + 2 * 8, width)
    save_file(state, tmp_path / "a.safetensors")
    rest = ["--tokenizer", tokenizer(meta["bert"]["vocab_size"]), "--image-heads", "2", "--text-heads", "2"]
    size = f"{2 * patch}x{8 * patch}"
    assert main(["convert", "albef", str(tmp_path / "a.safetensors"), str(tmp_path / "a"), *rest]) == 0
    assert "16 image positions taken as a square of 4 x 4" in " ".join(capsys.readouterr().err.split())
    arguments = ["albef", str(tmp_path / "a.safetensors"), str(tmp_path / "b"), *rest, "--image-size", size]
    assert main(["convert", *arguments]) == 0
    assert mmkit.load(tmp_path / "b").model.image.positions.grid == (2, 8)


def test_as_many_positions_as_the_model_has_and_no_square_are_its_own_grid(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "mmkit")
    monkeypatch.setattr(logging.getLogger("mmkit"), "propagate", True)
    own = nn.ModuleDict({"positions": GridPositions((4, 8), 6, prefix=1)})
    table = torch.randn(33, 6)
    assert fit({"positions.table": table}, own)[0]["positions.table"] is table
    assert "32 positions taken as a grid of 4x8, this model's own" in caplog.text
    with pytest.raises(UserError, match=r"31 positions are no grid of 5x5.*image_size"):
        fit({"positions.table": table[:-1]}, own)


@torch.no_grad()
def test_a_run_that_starts_from_a_vit_of_wide_pictures(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "mmkit")
    monkeypatch.setattr(logging.getLogger("mmkit"), "propagate", True)
    torch.manual_seed(0)
    sizes = {"img_size": WIDE, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
    theirs = timm.create_model("vit_base_patch16_224", **sizes).eval()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    pixels = torch.randn(1, 3, *WIDE)

    def tokens():
        own = albef(
            40, image_size=WIDE, max_tokens=8, patch=8, image_depth=2, image_width=32, image_heads=2, text_depth=1,
            fusion_depth=1, text_width=32, text_heads=2, embed_dim=8,
        ).eval()  # fmt: skip
        copy_into(own, {}, fill(own, {}, "image", read_checkpoint(tmp_path)), "image", str(tmp_path))
        return own.encode_image(pixels).x

    tokens()
    assert "36 positions taken as a square of 6x6, as nothing beside them tells" in caplog.text
    caplog.clear()
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"input_size": [3, *WIDE]}}))
    assert_near(tokens(), theirs.forward_features(pixels), 1e-5)
    assert not caplog.messages
