"""MAE's files: the same pixels as transformers paints from them, there and back, and refused without a decoder."""

import pytest
import torch
import transformers
from PIL import Image

import mmkit
from mmkit.cli import main
from mmkit.data.images.transforms import IMAGENET_MEAN
from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.nn.positions import sincos_positions
from mmkit.types import Batch
from projects.mim import reconstruct
from projects.mim.layout import colours_first, colours_last
from tests.parity.measure import assert_near, assert_same_state

LAYOUT = "projects/mim/layout.py"
NAMES = (
    ("decoder.decoder_layers.", "decoder_blocks."), ("decoder.", ""),
    ("vit.embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("vit.embeddings.position_embeddings", "pos_embed"), ("vit.embeddings.", ""), ("vit.layers.", "blocks."),
    ("vit.layernorm", "norm"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
    ("attention.o_proj", "attn.proj"),
)  # fmt: skip


def their_model():
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=256,
        layer_norm_eps=1e-6, decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=1,
        decoder_intermediate_size=128,
    )  # fmt: skip
    model = transformers.ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        model.vit.embeddings.position_embeddings.copy_(sincos_positions((4, 4), 64, 1))
        model.decoder.decoder_pos_embed.copy_(sincos_positions((4, 4), 32, 1))
    return model


def official(model):
    """The state of a model of transformers in the names of facebookresearch/mae."""
    state, found = dict(model.state_dict()), {}
    for name in list(state):
        if ".attention.q_proj." in name:
            parts = [state.pop(name.replace("q_proj", f"{x}_proj")) for x in "qkv"]
            state[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    for name, value in state.items():
        for theirs, other in NAMES:
            name = name.replace(theirs, other)
        found[name] = value.clone()
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mae")
    state = official(their_model())
    assert {
        "decoder_pred.weight",
        "mask_token",
        "decoder_blocks.0.attn.qkv.bias",
        "blocks.0.mlp.fc1.bias",
    } <= state.keys()
    torch.save({"model": state, "epoch": 3}, folder / "full.pth")
    none = {name: value for name, value in state.items() if "decoder" not in name and name != "mask_token"}
    torch.save({"model": none}, folder / "none.pth")
    assert main(["convert", f"{LAYOUT}:MAE_PIXELS", str(folder / "full.pth"), str(folder / "mae")]) == 0
    return folder, state


@pytest.mark.parity("MAE, the official file", "transformers")
def test_a_converted_file_paints_what_transformers_paints(files):
    predictor = mmkit.load(files[0] / "mae")
    assert (predictor.reads_words, predictor.transform.mean) == (False, IMAGENET_MEAN)
    pixels = torch.randn(2, 3, 32, 32)
    f = Features(predictor.model, Batch(pixels=pixels, image_id=torch.arange(2)))
    with torch.no_grad():
        theirs = their_model()
        wanted = theirs(pixels, noise=f.random("mae").uniform(16))
        shown = predictor.heads["mae"].reconstruct(f)
        painted = theirs.unpatchify(wanted.logits)
    hidden = shown.hidden[:, None].expand_as(pixels)
    assert torch.equal(theirs.unpatchify(wanted.mask[..., None].expand(-1, -1, 192))[:, 0].bool(), shown.hidden)
    assert_near(shown.pixels[hidden], painted[hidden], 1e-5, "painted")


@pytest.mark.parity("MAE, the official file", "the file")
def test_there_and_back(files, tmp_path):
    folder, state = files
    assert main(["convert", f"{LAYOUT}:MAE_PIXELS", str(folder / "mae"), str(tmp_path / "b.pth"), "--reverse"]) == 0
    again = torch.load(tmp_path / "b.pth", weights_only=True)["model"]
    assert_same_state(again, state)


def test_rows_by_colour():
    rows = torch.tensor([10 * pixel + colour for pixel in range(4) for colour in range(3)])
    assert colours_first(rows, (2, 2)).tolist() == [0, 10, 20, 30, 1, 11, 21, 31, 2, 12, 22, 32]
    assert torch.equal(colours_last(colours_first(rows, (2, 2)), (2, 2)), rows)


def test_weights_without_a_decoder_are_refused(files, tmp_path, capsys):
    assert main(["convert", f"{LAYOUT}:MAE", str(files[0] / "none.pth"), str(tmp_path / "x")]) == 2
    assert "these weights have no decoder" in capsys.readouterr().err
    assert main(["convert", f"{LAYOUT}:MAE", str(files[0] / "full.pth"), str(tmp_path / "x"), "--tokenizer", "x"]) == 2
    assert capsys.readouterr().err
    damaged = {name: value + 1 if name == "decoder_pos_embed" else value for name, value in files[1].items()}
    torch.save({"model": damaged}, tmp_path / "other.pth")
    assert main(["convert", f"{LAYOUT}:MAE", str(tmp_path / "other.pth"), str(tmp_path / "x")]) == 2
    assert "positions are not the fixed ones" in capsys.readouterr().err


def test_a_picture_says_what_leaked(files, tmp_path, capsys):
    """What is visible is the truth, what was hidden is grey in the first column; the note is that of the target."""
    reconstruct.main([str(files[0] / "mae"), "--n", "2", "--out", str(tmp_path / "a.png")])
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.width == 8 + 2 * (3 * 40 + 8)  # two of three pictures of 32 pixels side by side
    assert reconstruct.wrapped("a bb ccc", 4, len) == ["a bb", "ccc"]
    predictor = mmkit.load(files[0] / "mae")
    seen = {}

    def keep(columns, note):
        seen.update(columns=columns, note=note)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruct, "_drawn", keep)
        image = [torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8).numpy() for _ in range(2)]
        images = [Image.fromarray(x) for x in image]
        reconstruct.reconstructed(predictor, images)
        assert seen["note"] == f"75 % hidden; {reconstruct.PLAIN}"
        first, painted, true = seen["columns"]
        grey = (first == 128).all(1)
        assert 0.74 < grey.float().mean() < 0.77
        shown = ~grey[:, None].expand_as(true)
        assert torch.equal(first[shown], true[shown])
        assert torch.equal(painted[shown], true[shown])
        assert not torch.equal(painted, true)
        wanted = torch.stack([predictor.transform.raw_pixels(x).bytes for x in images])
        assert (true.int() - wanted.int()).abs().max() <= 1
        predictor.heads["mae"].norm_pix = True
        reconstruct.reconstructed(predictor, images)
        assert seen["note"].endswith(reconstruct.LEAKS)
    predictor.heads = {}
    with pytest.raises(UserError, match="no head that paints"):
        reconstruct.reconstructed(predictor, images)
    with pytest.raises(SystemExit):
        reconstruct.main([str(files[0] / "mae"), "--n", "0", "--out", str(tmp_path / "b.png")])
    assert "--n 0" in capsys.readouterr().err
