"""The picture of a batch: the pixels come back, and hidden words are told apart."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmkit.data.collate import Collator, Sample
from mmkit.data.images.transforms import EvalTransform
from mmkit.data.records import JsonLines
from mmkit.data.show.batch import grid, sample_batch, to_image
from mmkit.data.show.words import chips
from mmkit.data.sources.open import open_source
from mmkit.errors import UserError


def test_pixels_come_back(pictures):
    image = Image.open(pictures / "0.png")
    back = to_image(EvalTransform(size=(20, 30))(image))
    np.testing.assert_allclose(np.asarray(back).astype(int), np.asarray(image).astype(int), atol=1)


def test_hidden_words_are_chips(tokenizer):
    ids = tokenizer.encode("a dog in a cat", 40)
    other = next(i for i in range(5, tokenizer.vocab_size) if i != ids[2])
    shown = list(ids)
    shown[1], shown[2] = tokenizer.mask_id, other
    masked = (shown, [1, 2, 3], ids[1:4])
    sample = Sample(pixels=torch.zeros(3, 8, 8), ids=ids, image_id=1, caption_id=1, key="x", masked=masked)
    batch = Collator(pad_id=0, max_tokens=40)([sample, sample])
    found = chips(batch, 1, tokenizer)
    assert {chip.kind for chip in found} >= {"plain", "mask", "random"}
    assert found[0].kind == "mask"
    assert "[CLS]" not in "".join(chip.text for chip in found)
    assert "".join(c.text for c in found if c.kind == "plain").endswith("cat")


@pytest.mark.parametrize("name", ["openmoji", "openmoji:zh", "jsonl"])
def test_grid_of_a_source(name, pictures):
    source = open_source(str(pictures / "a.jsonl") if name == "jsonl" else name)
    batch, tokenizer = sample_batch(source, n=6, size=32)
    picture = grid(batch, tokenizer, columns=3)
    assert picture.mode == "RGB"
    assert picture.width == 3 * 200 + 4 * 14
    assert len(set(np.asarray(picture.crop((14, 14, 214, 214))).reshape(-1, 3).sum(1))) > 20  # a picture is there


def test_sources_by_name(pictures):
    assert isinstance(open_source(str(pictures / "a.jsonl")), JsonLines)
    assert next(iter(open_source("openmoji:de").captions()))
    with pytest.raises(UserError, match="no names in language"):
        open_source("openmoji:xx")
    with pytest.raises(UserError, match="no such file"):
        open_source(str(pictures / "zzz.jsonl"))
