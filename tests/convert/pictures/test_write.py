"""The way back of how pictures are read: the other program's own processor makes the pixels of our transform."""

import json
import sys
from functools import partial

import open_clip
import pytest
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

import mmkit
from mmkit.cli.main import main
from mmkit.config import dump
from mmkit.convert.pictures.write import told
from mmkit.data.images.centre_crop import CentreCrop
from mmkit.data.images.opening import to_rgb
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.images.variable_size import KeepShape
from mmkit.data.texts.protocol import Framing
from mmkit.data.texts.tokenizers import from_hub
from mmkit.hub import folder as hub
from mmkit.inference.predictor import Predictor
from mmkit.models.sizes.dual import clip
from tests.convert.pictures.test_read import pictures, same_pixels
from tests.convert.test_family import CLIP_WORDS, random_weights, tower

LOOK = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
LOW = LOOK | {"odd": "low"}


def shown():
    return [to_rgb(picture) for picture in pictures()]


class Own(EvalTransform):
    """Of the user's own, which may do anything with a picture."""


def of_transformers(content):
    process = getattr(transformers, content["image_processor_type"] + "Pil")(**content)
    return lambda picture: process(picture, return_tensors="np").pixel_values[0]


@pytest.mark.parametrize("form", ["CLIP", "Siglip"])
@pytest.mark.parametrize(
    "transform",
    [
        EvalTransform(size=(32, 24), resample="bilinear", **LOOK),
        EvalTransform(size=32, factor=0.01, **LOOK),
        CentreCrop(size=32, resample="lanczos", **LOW),
        CentreCrop(size=32, to=41, **LOW),
        CentreCrop(size=32, to=27, resample="box", **LOW),
        CentreCrop(size=(32, 24), to=(45, 37), fit="squash", **LOW),
        CentreCrop(size=32, fit="none", **LOW),
        CentreCrop(size=32, fit="squash", **LOOK),
    ],
)
def test_transformers_makes_the_same_pixels(transform, form, tmp_path):
    content, differs = told(transform, form)
    assert differs == []
    same_pixels(transform, of_transformers(content))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    assert type(transformers.AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)).__name__.startswith(
        content["image_processor_type"]
    )


@pytest.mark.parametrize("window", [{"fit": "squash"}, {"odd": "low"}])
def test_the_whole_window_is_written(window):
    transform = CentreCrop(size=32, window=38, **LOOK, **window)
    content, differs = told(transform, "CLIP")
    assert differs == []
    theirs = of_transformers(content)
    assert theirs(Image.new("RGB", (50, 50))).shape == (3, 38, 38)
    same_pixels(transform, lambda picture: theirs(picture)[:, :32, :32])


def test_transformers_vilt_makes_the_same_pixels():
    transform = KeepShape(size=40, multiple=8, resample="bilinear", **LOOK)
    content, differs = told(transform, "Vilt")
    assert differs == []
    same_pixels(transform, of_transformers(content))


@pytest.mark.parametrize(
    "transform",
    [
        EvalTransform(size=(32, 24), resample="bilinear", **LOOK),
        EvalTransform(size=32, factor=0.01, **LOOK),
        CentreCrop(size=32, resample="bilinear", **LOOK),
        CentreCrop(size=(32, 24), **LOOK),
        CentreCrop(size=32, fit="inside", fill=(90, 90, 90), **LOOK),
    ],
)
def test_open_clip_makes_the_same_pixels(transform):
    content, differs = told(transform, "open_clip")
    assert differs == []
    theirs = image_transform_v2(PreprocessCfg(**content["preprocess_cfg"]), is_train=False)
    same_pixels(transform, lambda picture: theirs(to_rgb(picture)))


@pytest.mark.parametrize(
    ("form", "transform", "says"),
    [
        ("CLIP", CentreCrop(size=32, fit="inside"), "fit='inside'"),
        ("CLIP", CentreCrop(size=(32, 24)), "fit='cover' to 32 x 24"),
        ("CLIP", CentreCrop(size=32, fit="none", odd="low", fill=(1, 1, 1)), "fill is (1, 1, 1), and there (0, 0, 0)"),
        ("CLIP", KeepShape(size=32), "KeepShape"),
        ("Vilt", EvalTransform(size=32), "EvalTransform"),
        ("Vilt", KeepShape(size=32, longest=40), "bounded by 40 pixels, and there by 53"),
        ("open_clip", EvalTransform(size=32, resample="lanczos"), "lanczos"),
        ("open_clip", CentreCrop(size=32, to=36), "(36, 36)"),
        ("open_clip", CentreCrop(size=32, fit="none"), "fit='none'"),
        ("open_clip", CentreCrop(size=(32, 24), resample="bilinear"), "resample is bilinear, and there bicubic"),
        ("open_clip", CentreCrop(size=32, fit="inside", fill=(1, 2, 3)), "fill is (1, 2, 3), and there (1, 1, 1)"),
        ("open_clip", None, "NoneType"),
        ("open_clip", Own(size=32), "Own is none of the ways"),
        ("CLIP", Own(size=32), "Own is none of the ways"),
    ],
)
def test_what_cannot_be_told_is_not_written(form, transform, says):
    content, differs = told(transform, form)
    assert content == {}
    assert says in " ".join(differs)


@pytest.mark.parametrize(("form", "odd"), [("CLIP", "even"), ("open_clip", "low")])
def test_a_middle_one_pixel_off_is_written_and_said(form, odd):
    content, differs = told(CentreCrop(size=32, odd=odd), form)
    assert content
    assert "one pixel off" in differs[0]


def run(capsys, *arguments, code=0):
    assert main(["convert", *map(str, arguments)]) == code
    return " ".join(capsys.readouterr().err.split())


def test_a_converted_clip_goes_back_with_its_preprocessing(tmp_path, capsys):
    """To transformers and to open_clip, read from there again; another file in the place is not overwritten."""
    text = tower(vocab_size=CLIP_WORDS, max_position_embeddings=12, eos_token_id=CLIP_WORDS - 1)
    vision = tower(image_size=32, patch_size=8)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    random_weights(transformers.CLIPModel(config)).save_pretrained(tmp_path / "theirs")
    given = {"size": {"height": 32, "width": 32}, "do_center_crop": False, "resample": 2, "image_mean": [0.5, 0.4, 0.3]}
    transformers.CLIPImageProcessorPil(**given).save_pretrained(tmp_path / "theirs")
    run(capsys, "auto", tmp_path / "theirs", tmp_path / "ours")
    transform = mmkit.load(tmp_path / "ours").transform
    hf, oc = tmp_path / "hf/model.safetensors", tmp_path / "oc/open_clip_model.safetensors"
    run(capsys, "clip-transformers", tmp_path / "ours", hf, "--reverse")
    process = transformers.AutoImageProcessor.from_pretrained(hf.parent, use_fast=False)
    same_pixels(transform, lambda picture: process(to_rgb(picture), return_tensors="np").pixel_values[0])
    run(capsys, "clip", tmp_path / "ours", oc, "--reverse")
    saved = json.loads((oc.parent / "open_clip_config.json").read_text())["preprocess_cfg"]
    theirs = image_transform_v2(PreprocessCfg(**saved), is_train=False)
    same_pixels(transform, lambda picture: theirs(to_rgb(picture)))
    whole = open_clip.create_model_from_pretrained(f"local-dir:{oc.parent}")  # the model of the file, by open_clip
    words, predictor = open_clip.get_tokenizer(f"local-dir:{oc.parent}"), mmkit.load(tmp_path / "ours")
    with torch.no_grad():
        images = whole[0].encode_image(torch.stack([whole[1](picture) for picture in shown()]), normalize=True)
        texts = whole[0].encode_text(words(["a dog on the grass", "two"]), normalize=True)
    torch.testing.assert_close(images, predictor.encode_image(shown()), atol=1e-5, rtol=0)
    torch.testing.assert_close(texts, predictor.encode_text(["a dog on the grass", "two"]), atol=1e-5, rtol=0)
    again = mmkit.load(f"open_clip:{oc.parent}")
    torch.testing.assert_close(again.encode_image(shown()), images, atol=1e-5, rtol=0)
    run(capsys, "auto", hf, tmp_path / "again", "--activation", "quick_gelu", "--image-heads", 2, "--text-heads", 2)
    assert mmkit.load(tmp_path / "again").transform == transform

    run(capsys, "clip-transformers", tmp_path / "ours", hf.parent / "second.safetensors", "--reverse")
    hf.with_name("preprocessor_config.json").write_text("{}")
    said = run(capsys, "clip-transformers", tmp_path / "ours", hf.parent / "third.safetensors", "--reverse", code=2)
    assert "preprocessor_config.json: exists already" in said
    assert not (hf.parent / "third.safetensors").exists()


def of_ours(folder, **changes):
    """A small CLIP of mmkit's own, with CLIP's tokenizer; changes: of its factory's arguments."""
    arguments = {
        "image_size": 32, "max_tokens": 12, "patch": 8, "image_depth": 1, "image_width": 30, "image_heads": 3,
        "image_mlp_width": 123, "text_depth": 2, "text_width": 16, "text_heads": 2, "embed_dim": 8,
    } | changes  # fmt: skip
    make = partial(clip, **arguments)
    words = from_hub(name="clip", framing=Framing(last=True, grows=False))
    model = random_weights(make(vocab_size=words.vocab_size))
    transform = CentreCrop(size=arguments["image_size"], **LOOK)
    hub.save(folder, Predictor(model, {}, words, transform, 12), {"args": {"model": dump(make), "heads": {}}})


@pytest.mark.parametrize(("activation", "size"), [("gelu", (32, 24)), ("quick_gelu", 32)])
def test_a_clip_of_ours_is_whole_for_open_clip(activation, size, tmp_path, capsys):
    """Its config tells what no tensor does: attention heads and activation, and an MLP of any width."""
    of_ours(tmp_path / "ours", activation=activation, image_size=size)
    run(capsys, "clip", tmp_path / "ours", tmp_path / "oc/open_clip_model.safetensors", "--reverse")
    theirs, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'oc'}")
    words, ours = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'oc'}"), mmkit.load(tmp_path / "ours")
    texts = ["A dog's photo", "two"]
    with torch.no_grad():
        images = theirs.encode_image(torch.stack([preprocess(picture) for picture in shown()]), normalize=True)
        found = theirs.encode_text(words(texts), normalize=True)
    torch.testing.assert_close(images, ours.encode_image(shown()), atol=1e-5, rtol=0)
    torch.testing.assert_close(found, ours.encode_text(texts), atol=1e-5, rtol=0)
    config = tmp_path / "oc/open_clip_config.json"
    run(capsys, "clip", tmp_path / "ours", tmp_path / "oc/second.safetensors", "--reverse")  # the same stands there
    whole = config.read_text()
    config.write_text(json.dumps(json.loads(whole) | {"model_cfg": {"embed_dim": 9}}))
    said = run(capsys, "clip", tmp_path / "ours", tmp_path / "oc/third.safetensors", "--reverse", code=2)
    assert "open_clip_config.json: exists already and tells other preprocessing, or another model" in said
    config.write_text(whole)
    (tmp_path / "oc/second.safetensors").unlink()
    run(capsys, "auto", tmp_path / "oc", tmp_path / "again")
    torch.testing.assert_close(mmkit.load(tmp_path / "again").encode_image(shown()), images, atol=1e-5, rtol=0)


def test_what_open_clip_cannot_be_told_of_a_model_is_said(tmp_path, capsys):
    for name, changes, says in (
        ("mixed", {"activation": "gelu", "text_activation": "quick_gelu"}, "one activation for both towers"),
        ("tanh", {"activation": "gelu_tanh"}, "one activation for both towers"),
    ):
        of_ours(tmp_path / name, **changes)
        out = tmp_path / f"{name}-oc/open_clip_model.safetensors"
        said = run(capsys, "clip", tmp_path / name, out, "--reverse")
        assert "open_clip_config.json: without model_cfg" in said
        assert says in said
        assert json.loads(out.with_name("open_clip_config.json").read_text()).keys() == {"preprocess_cfg"}


def test_a_model_of_ones_own_is_built_where_it_is_allowed(tmp_path, capsys, monkeypatch):
    name = f"own_clip_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(
        "from mmkit.models.sizes.dual import clip\n"
        "def make(vocab_size, **sizes):\n    return clip(vocab_size, **sizes)\n"
    )
    monkeypatch.chdir(tmp_path)
    of_ours(tmp_path / "ours")
    config = json.loads((tmp_path / "ours/config.json").read_text())
    config["model"]["target"] = f"{name}:make"
    (tmp_path / "ours/config.json").write_text(json.dumps(config))
    said = run(capsys, "clip", "ours", "a/open_clip_model.safetensors", "--reverse")
    assert "without model_cfg" in said
    assert f"--allow {name}" in said
    assert name not in sys.modules
    run(capsys, "clip", "ours", "b/open_clip_model.safetensors", "--reverse", "--allow", name)
    del sys.modules[name]
    written = json.loads((tmp_path / "b/open_clip_config.json").read_text())
    assert written["model_cfg"]["vision_cfg"]["head_width"] == 10
    assert "--allow: of use with --reverse alone" in run(capsys, "auto", "b", "c", "--allow", name, code=2)
