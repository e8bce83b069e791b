"""Published preprocessing: the pixels of the source's own processor for every field, or a refusal that names it."""

import json
from functools import cache

import numpy as np
import open_clip
import pytest
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file

import mmkit
from mmkit.cli.main import main
from mmkit.convert.pictures.read import (
    CLASSES,
    Reading,
    beside,
    of_open_clip,
    of_transformers,
    picture_transform,
    reading,
)
from mmkit.data.images.opening import to_rgb
from mmkit.data.images.variable_size import HALF
from mmkit.errors import UserError
from tests.convert.test_family import CLIP_WORDS, random_weights, tower
from tests.models import family


def pictures():
    """RGB of several shapes, odd ones too; with transparency, a palette, grey."""
    rng = np.random.default_rng(0)
    shapes = [(40, 61), (97, 33), (32, 32), (101, 35), (24, 20), (47, 46)]
    made = [Image.fromarray(rng.integers(0, 256, (9, 9, 4), dtype=np.uint8)).resize(s, 3) for s in shapes]
    kinds = [made[1].convert("RGB").quantize(16), made[2].convert("L")]
    seen_through = [made[0], made[3].convert("LA")] if composites() else []
    return [*(picture.convert("RGB") for picture in made), *kinds, *seen_through]


@cache
def composites():
    """Whether this transformers lays what one sees through on white, as mmkit does; until 5.17 it drops how much."""
    clear = Image.new("RGBA", (1, 1), (0, 0, 0, 0))
    return np.asarray(transformers.image_transforms.convert_to_rgb(clear)).min() == 255


def same_pixels(transform, theirs):
    for picture in pictures():
        found, wanted = transform(to_rgb(picture)), torch.as_tensor(theirs(picture), dtype=torch.float32)
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max().clamp(min=1)


SQUARE = {"height": 32, "width": 32}
CLIP = {"size": {"shortest_edge": 32}, "crop_size": SQUARE}
FIELDS = {
    "plain": {},
    "mean": {"image_mean": [0.5, 0.4, 0.3]},
    "one mean": {"image_mean": 0.5, "image_std": 0.25},
    "std": {"image_std": [0.2, 0.3, 0.4]},
    "not normalised": {"do_normalize": False},
    "not rescaled": {"do_rescale": False},
    "factor": {"rescale_factor": 1 / 127.5},
    "factor alone": {"rescale_factor": 0.01, "do_normalize": False},
    "squashed, no crop": {"do_center_crop": False, "size": SQUARE},
    "edge before the crop": {"size": {"shortest_edge": 41}},
    "edge below the crop": {"size": {"shortest_edge": 27}},
    "squashed, cropped": {"size": {"height": 45, "width": 37}},
    "only cropped": {"do_resize": False},
    "as numbers": {"size": 36, "crop_size": 32},
    "size as list": {"size": [32, 40]},
    "number is a square": {"size": 36, "default_to_square": True},
    "high": {"crop_size": {"height": 32, "width": 24}},
    "nulls": {"do_pad": None, "pad_size": None, "device": None},
    "null is not done": {"do_center_crop": None, "do_normalize": None, "size": SQUARE},
    "no padding": {"do_pad": False, "do_convert_rgb": True},
    "padded to itself": {"do_pad": True, "pad_size": SQUARE},
    **{f"resample {code}": {"resample": code} for code in range(6)},
}


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_of_transformers(name):
    given = CLIP | FIELDS[name]
    process = transformers.CLIPImageProcessorPil(**given)
    size = (32, given["crop_size"]["width"]) if isinstance(given["crop_size"], dict) else 32
    transform = of_transformers(given, "CLIP").transform(size, 8)
    same_pixels(transform, lambda picture: process(picture, return_tensors="np").pixel_values[0])


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("Siglip", {"size": SQUARE, "resample": 3}),
        ("Siglip", {"size": SQUARE, "resample": 2, "image_std": [1.0] * 3}),
        ("ViT", {"size": 32}),
        ("ViT", {"size": SQUARE, "resample": 3}),
        ("DeiT", {"size": 40, "crop_size": 32}),
        ("Blip", {"size": SQUARE}),
        ("CLIP", CLIP),
    ],
)
@pytest.mark.parametrize("form", ["{}ImageProcessor", "{}ImageProcessorFast", "{}FeatureExtractor"])
def test_the_class_gives_what_is_absent(kind, given, form):
    process = getattr(transformers, f"{kind}ImageProcessorPil")(**given, do_convert_rgb=True)
    key = "feature_extractor_type" if "Extractor" in form else "image_processor_type"
    transform = of_transformers(given | {key: form.format(kind)}, "CLIP").transform(32, 8)
    same_pixels(transform, lambda picture: process(picture, return_tensors="np").pixel_values[0])


@pytest.mark.parametrize("name", CLASSES)
def test_a_file_that_names_its_class_alone_says_what_the_class_would_write(name):
    whole = json.loads(getattr(transformers, f"{name}ImageProcessorPil")().to_json_string())
    kind = "Vilt" if name == "Vilt" else "CLIP"
    bare = of_transformers({"image_processor_type": f"{name}ImageProcessor"}, kind)
    assert bare == of_transformers({**whole, "image_processor_type": f"{name}ImageProcessor"}, kind)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"resample": 2},
        {"image_mean": [0.4] * 3, "image_std": [0.3] * 3},
        {"do_normalize": False},
        {"size_divisor": 16},
        {"rescale_factor": 0.01},
        {"size": 40},
        {"do_rescale": False},
        {"do_pad": False},
        {"size": {"shortest_edge": 50}},
    ],
)
def test_each_field_of_vilt(given):
    given = {"size": {"shortest_edge": 32}, "size_divisor": 8} | given
    process = transformers.ViltImageProcessorPil(**given, do_convert_rgb=True)
    transform = of_transformers(given, "Vilt").keeping_shape(8)
    same_pixels(transform, lambda picture: process(picture, return_tensors="np").pixel_values[0])


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"mean": [0.5] * 3, "std": [0.2, 0.3, 0.4]},
        {"interpolation": "bilinear"},
        {"interpolation": "random"},
        {"resize_mode": "squash"},
        {"resize_mode": "longest"},
        {"resize_mode": "longest", "fill_color": 90},
        {"resize_mode": "squash", "interpolation": "bilinear"},
        {"size": [32, 24]},
        {"size": [24, 32], "resize_mode": "squash"},
        {"size": [24, 32], "interpolation": "bilinear"},
        {"size": [24, 32], "resize_mode": "longest"},
        {"mean": None},
    ],
)
def test_each_field_of_open_clip(given):
    """Of opaque pictures: open_clip drops transparency, and resizes palettes without mixing colours."""
    given = {"size": 32} | given
    theirs = image_transform_v2(PreprocessCfg(**{k: v for k, v in given.items() if v is not None}), is_train=False)
    size = given["size"]
    transform = of_open_clip(given).transform(tuple(size) if isinstance(size, list) else size, 8)
    same_pixels(transform, lambda picture: theirs(to_rgb(picture)))


def test_pixels_beyond_the_last_whole_patch():
    process = transformers.SiglipImageProcessorPil(size={"height": 38, "width": 38})
    transform = of_transformers({"size": {"height": 38, "width": 38}}, "Siglip").transform(32, 8)
    published = Reading(file="published", fit="squash", mean=HALF, std=HALF)
    of_config = picture_transform(None, published, 32, 8, (38, 38))  # no file, and the config says 38
    for made in (transform, of_config):
        same_pixels(made, lambda picture: process(picture, return_tensors="np").pixel_values[0][:, :32, :32])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"crop_pct": 0.9}, "crop_pct = 0.9"),
        ({"align_long_axis": False}, "align_long_axis = False"),
        ({"crop_size": {"shortest_edge": 32}}, "crop_size is .*it needs height and width"),
        ({"size": {"longest_edge": 32}}, "longest_edge"),
        ({"size": {"shortest_edge": 32, "longest_edge": 40}}, "longest_edge"),
        ({"size": {"max_height": 32, "max_width": 32}}, "max_height"),
        ({"offset": True}, "offset"),
        ({"image_mean": None}, "image_mean is None"),
        ({"rescale_factor": None}, "rescale_factor is None"),
        ({"size": None}, "size"),
        ({"crop_size": None}, "crop_size"),
        *(({"resample": code}, f"resample is {code}") for code in (6, 7, -1, True)),
        ({"resample": "cubic"}, "cubic"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"do_center_crop": False}, "not cropped"),
        ({"crop_size": {"height": 64, "width": 64}}, "64 x 64 pixels, and this model reads 32 x 32"),
        ({"crop_size": {"height": 24, "width": 24}}, "24 x 24"),
        ({"do_pad": True, "pad_size": {"height": 40, "width": 40}}, "pad_size"),
        ({"image_processor_type": "DonutImageProcessor"}, "DonutImageProcessor"),
        ({"do_resize": "yes"}, "do_resize is 'yes'"),
        ({"auto_map": {"AutoImageProcessor": "x--y.Z"}}, "auto_map"),
        ({"data_format": "channels_last"}, "data_format"),
        ({"image_processor_type": "ViltImageProcessor"}, "ViltImageProcessor"),
        ({"size_divisor": 8}, "size_divisor"),
    ],
)
def test_what_is_not_known_is_refused_by_its_name(given, says):
    with pytest.raises(UserError, match=rf"preprocessor_config.json: .*{says}"):
        of_transformers(CLIP | given, "CLIP").transform(32, 8)


def test_a_size_alone_is_the_shorter_side_for_a_siglip():
    with pytest.raises(UserError, match="resized and not cropped"):
        of_transformers({"size": 32}, "Siglip").transform(32, 8)
    assert of_transformers({"size": 32, "default_to_square": True}, "Siglip").transform(32, 8).size == 32


def test_what_has_no_effect_on_the_pixels_is_not_kept():
    made = of_transformers(CLIP | {"do_resize": False}, "CLIP").transform(32, 8)
    assert (made.fit, made.to) == ("none", None)
    assert of_open_clip({"size": 32, "fill_color": 128}).transform(32, 8).fill == (0, 0, 0)  # it is covered


@pytest.mark.parametrize("key", ["data_format", "do_flip", "use_square_size", "offset", "rescale_offset", "new"])
def test_what_is_not_done_and_the_form_that_all_have_are_no_fields_of_their_own(key):
    values = {"data_format": (None, "channels_first", "FIRST"), "new": (None,)}.get(key, (None, False))
    for value in values:
        assert of_transformers(CLIP | {key: value}, "CLIP") == of_transformers(CLIP, "CLIP")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"do_resize": False}, "resized and not cropped"),
        ({"size": SQUARE}, "a ViLT keeps the shape of pictures, size.shortest_edge"),
        ({"size": 32, "default_to_square": True}, "a ViLT keeps the shape"),
        ({"size_divisor": 12}, "12"),
        ({"do_center_crop": True}, "not cropped"),
        ({"size": {"shortest_edge": 32, "longest_edge": 60}}, "longest_edge"),
        ({"size_divisor": 0}, "size_divisor is 0"),
        ({"image_processor_type": "ViTImageProcessor"}, "ViTImageProcessor"),
    ],
)
def test_what_a_vilt_cannot_obey(given, says):
    with pytest.raises(UserError, match=says):
        of_transformers({"size": {"shortest_edge": 32}, "size_divisor": 8} | given, "Vilt").keeping_shape(8)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"mode": "L"}, "mode is 'L'"),
        ({"interpolation": "nearest"}, "nearest"),
        ({"resize_mode": "crop"}, "crop"),
        ({"crop_pct": 0.9}, r"preprocess_cfg.crop_pct = 0.9"),
        ({"fill_color": [1, 2, 3]}, "fill_color"),
        ({"fill_color": 256}, "fill_color is 256; mmkit knows 0 to 255"),
        ({"fill_color": -1}, "fill_color is -1"),
    ],
)
def test_what_open_clip_may_not_say(given, says):
    with pytest.raises(UserError, match=rf"open_clip_config.json: .*{says}"):
        of_open_clip({"size": 32} | given).transform(32, 8)


def test_which_file_counts(tmp_path):
    """The nested form before the old one, as in transformers; open_clip's own for weights of its names."""
    assert beside(tmp_path / "x.safetensors") == {}
    files = {
        "preprocessor_config.json": {"image_mean": [0.1] * 3},
        "open_clip_config.json": {"preprocess_cfg": {"mean": [0.2] * 3}},
        "processor_config.json": {"processor_class": "CLIPProcessor", "image_processor": {"image_mean": [0.3] * 3}},
    }
    means = {}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8-sig")
        found = beside(tmp_path / "x.safetensors")
        means[name] = reading(found, "CLIP").mean[0], reading(found, "CLIP", open_clip=True).mean[0]
    assert list(means.values()) == [(0.1, 0.1), (0.1, 0.2), (0.3, 0.2)]
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    assert reading(beside(tmp_path / "x.safetensors"), "CLIP").mean[0] == 0.1
    (tmp_path / "preprocessor_config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"preprocessor_config\.json: expected a JSON object"):
        beside(tmp_path / "x.safetensors")


def test_what_holds_no_settings_is_named():
    with pytest.raises(UserError, match=r"image_processor: should hold settings by name, and is 3"):
        reading({"processor_config.json: image_processor": 3}, "CLIP")


def convert(capsys, *arguments):
    assert main(["convert", *map(str, arguments)]) == 0
    return " ".join(capsys.readouterr().err.split())


def near(found, wanted):
    assert (found - wanted / wanted.norm(dim=-1, keepdim=True)).abs().max() < 1e-4


@pytest.fixture(scope="module")
def clip_of_transformers():
    text = tower(vocab_size=CLIP_WORDS, max_position_embeddings=12, eos_token_id=CLIP_WORDS - 1)
    config = transformers.CLIPConfig(
        text_config=text, vision_config=tower(image_size=32, patch_size=8), projection_dim=24
    )
    return random_weights(transformers.CLIPModel(config))


@pytest.mark.parity("CLIP, its own preprocessing", "transformers")
@pytest.mark.parametrize(
    "name", ["mean", "squashed, no crop", "edge before the crop", "resample 2", "not normalised", "plain"]
)
@torch.no_grad()
def test_features_of_a_clip_with_its_own_preprocessing(name, clip_of_transformers, tmp_path, capsys):
    clip_of_transformers.save_pretrained(tmp_path / "theirs")
    process = transformers.CLIPImageProcessorPil(**(CLIP | FIELDS[name]))
    process.save_pretrained(tmp_path / "theirs")
    said = convert(capsys, "auto", tmp_path / "theirs", tmp_path / "ours")
    assert "pictures as preprocessor_config.json says" in said
    predictor = mmkit.load(tmp_path / "ours")
    pixels = process(pictures(), return_tensors="pt").pixel_values
    near(predictor.encode_image(pictures()), clip_of_transformers.get_image_features(pixel_values=pixels).pooler_output)
    assert predictor.encode_image(pictures()).std(0).max() > 1e-3
    larger = mmkit.load(tmp_path / "ours", image_size=64)
    assert larger.transform.size == (64, 64)
    assert larger.transform.mean == predictor.transform.mean


@pytest.mark.parity("CLIP, its own preprocessing", "open_clip")
@pytest.mark.parametrize("look", [{"interpolation": "bilinear"}, {"resize_mode": "longest", "fill_color": 128}])
@torch.no_grad()
def test_features_of_open_clip_with_its_own_preprocessing(look, tmp_path, capsys):
    config = json.loads(json.dumps(family.CONFIGS["clip"]))
    config["text_cfg"]["vocab_size"] = CLIP_WORDS
    model = random_weights(open_clip.model.CLIP(**config))
    (tmp_path / "theirs").mkdir()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "theirs/open_clip_model.safetensors")
    (tmp_path / "theirs/open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": look}))
    convert(capsys, "auto", tmp_path / "theirs", tmp_path / "ours")
    theirs = image_transform_v2(PreprocessCfg(size=32, **look), is_train=False)
    shown = [to_rgb(picture) for picture in pictures()]
    wanted = model.encode_image(torch.stack([theirs(picture) for picture in shown]))
    near(mmkit.load(tmp_path / "ours").encode_image(shown), wanted)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_what_lies_elsewhere_counts_alone(file, clip_of_transformers, tmp_path, capsys):
    clip_of_transformers.save_pretrained(tmp_path / "theirs")
    (tmp_path / "other").mkdir()
    for name, mean in (("preprocessor_config.json", 0.25), ("processor_config.json", 0.5)):
        said = CLIP | {"image_mean": [mean] * 3}
        inner = {"image_processor": said} if name == "processor_config.json" else said
        (tmp_path / "other" / name).write_text(json.dumps(inner))
    asked = ["auto", tmp_path / "theirs/model.safetensors", tmp_path / "ours", "--preprocessor"]
    convert(capsys, *asked, tmp_path / "other" / file)
    wanted = 0.25 if file == "preprocessor_config.json" else 0.5
    assert mmkit.load(tmp_path / "ours").transform.mean == (wanted,) * 3
    asked[2] = tmp_path / "again"
    for name in (tmp_path / "other/none.json", tmp_path / "theirs/config.json", tmp_path / "preprocessor_config.json"):
        assert main(["convert", *map(str, asked), str(name)]) == 2
        assert f"--preprocessor {name}: no such file, or not called" in " ".join(capsys.readouterr().err.split())


def test_without_a_file_what_is_taken_is_said(clip_of_transformers, tmp_path, capsys):
    clip_of_transformers.save_pretrained(tmp_path / "theirs")
    said = convert(capsys, "auto", tmp_path / "theirs", tmp_path / "ours")
    assert "nothing beside the weights tells how pictures are read" in said
    process = transformers.CLIPImageProcessorPil(**CLIP)
    same_pixels(
        mmkit.load(tmp_path / "ours").transform,
        lambda picture: process(picture, return_tensors="np").pixel_values[0],
    )
    (tmp_path / "theirs/preprocessor_config.json").write_text(json.dumps(CLIP | {"crop_pct": 0.9}))
    assert main(["convert", "auto", str(tmp_path / "theirs"), str(tmp_path / "again")]) == 2
    assert "preprocessor_config.json: crop_pct = 0.9" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "again").exists()
    assert load_file(tmp_path / "theirs/model.safetensors")


def test_rows_beyond_the_words_are_kept_and_said(tmp_path, capsys):
    """CLIP with a matrix filled up to a round number of rows; its tokenizer has fewer words."""
    text = tower(vocab_size=CLIP_WORDS + 64, max_position_embeddings=12, eos_token_id=CLIP_WORDS - 1)
    vision = tower(image_size=32, patch_size=8)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    model = random_weights(transformers.CLIPModel(config))
    model.save_pretrained(tmp_path / "theirs")
    said = convert(capsys, "auto", tmp_path / "theirs", tmp_path / "ours")
    assert f"have {CLIP_WORDS + 64} rows of words and the tokenizer {CLIP_WORDS} words" in said
    predictor = mmkit.load(tmp_path / "ours")
    assert predictor.model.spec.vocab_size == CLIP_WORDS + 64
    ids = open_clip.SimpleTokenizer()(["a dog"], context_length=12)
    with torch.no_grad():
        near(predictor.encode_text(["a dog"]), model.get_text_features(ids).pooler_output)
    mmkit.hub.folder.save(
        tmp_path / "again", predictor, json.loads((tmp_path / "ours/config.json").read_text())["experiment"]
    )
    assert mmkit.load(tmp_path / "again").model.spec.vocab_size == CLIP_WORDS + 64
    convert(capsys, "clip-transformers", tmp_path / "ours", tmp_path / "back.safetensors", "--reverse")
    rows = "text_model.embeddings.token_embedding.weight"
    back, given = load_file(tmp_path / "back.safetensors"), load_file(tmp_path / "theirs/model.safetensors")
    assert torch.equal(back[rows], given[rows])


def test_fewer_rows_than_words_are_refused(tmp_path, capsys):
    text = tower(vocab_size=CLIP_WORDS - 8, max_position_embeddings=12, eos_token_id=5)
    config = transformers.CLIPConfig(text_config=text, vision_config=tower(image_size=32, patch_size=8))
    transformers.CLIPModel(config).save_pretrained(tmp_path / "theirs")
    assert main(["convert", "auto", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 2
    assert f"know {CLIP_WORDS - 8} words and the tokenizer clip has {CLIP_WORDS}" in " ".join(
        capsys.readouterr().err.split()
    )
