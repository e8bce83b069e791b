"""What stands around a text for the models that were published with it; pictures as CLIP cuts them."""

import numpy as np
import open_clip
import pytest
import sentencepiece
import torch
import transformers
from PIL import Image
from torchvision.transforms import v2

from mmkit.data.images.centre_crop import CentreCrop
from mmkit.data.images.transforms import CLIP_MEAN, CLIP_STD
from mmkit.data.texts.cleaning import CAPTION_WORDS, QUESTION_WORDS
from mmkit.data.texts.huggingface.tokenizer import HuggingFaceTokenizer
from mmkit.data.texts.protocol import Framing
from mmkit.data.texts.tokenizers import from_hub, load_tokenizer
from mmkit.errors import UserError

CLIP = Framing(last=True, grows=False)
TEXTS = ["A photo of a dog, isn't it?", "你好 world", "naïve café №5 🐶", "", "many words " * 30]


def test_clip_texts_are_those_of_open_clip_and_stay_so_when_saved(tmp_path):
    ours = from_hub(name="clip", framing=CLIP, folder=tmp_path)
    assert ours.vocab_size == 49_408
    assert (ours.cls_id, ours.sep_id, ours.mask_id) == (49_406, 49_407, None)
    theirs = open_clip.SimpleTokenizer()
    for tokenizer in (ours, load_tokenizer(tmp_path)):
        for text in TEXTS:
            ids = theirs([text], context_length=20)[0]
            assert tokenizer.encode(text, 20) == ids[ids != 0].tolist()
    assert ours.decode(ours.encode("a dog on the grass", 20)) == "a dog on the grass"
    assert [*ours.starts_word(ours.encode("unbelievable dog", 20))].count(True) == 4


def test_a_tokenizer_grows_where_it_may():
    grown = HuggingFaceTokenizer("clip")
    assert grown.vocab_size > 49_408
    assert grown.mask_id >= 49_408
    ids = grown.encode("a dog", 9)
    assert ids[0] == grown.cls_id
    assert len(ids) == 3


def test_without_a_beginning_and_without_punctuation():
    tokenizer = HuggingFaceTokenizer("clip", Framing(first=False, last=True, canonical=True, grows=False))
    plain = HuggingFaceTokenizer("clip", Framing(first=False, last=True, grows=False))
    for text in ("Isn't it, my_dog?", "  A   (small)  cat. "):
        expected = open_clip.tokenizer.canonicalize_text(text)
        assert tokenizer.encode(text, 30) == plain.encode(expected, 30)
    assert tokenizer.encode("two cats", 30)[-1] == tokenizer.sep_id
    assert len(tokenizer.encode("many words " * 30, 8)) == 8
    assert tokenizer.encode("many words " * 30, 8)[-1] == tokenizer.sep_id


def test_siglip_texts_are_those_of_transformers(tmp_path):
    """As SigLIP is published: a sentencepiece file that only a slow tokenizer reads."""
    lines = ["a photo of a dog", "two cats on the mat", "many more things and words here in text"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(tmp_path / "spiece"), vocab_size=34, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=3,
    )  # fmt: skip
    theirs = transformers.SiglipTokenizer(vocab_file=str(tmp_path / "spiece.model"))
    theirs.save_pretrained(tmp_path)
    framing = Framing(first=False, last=True, canonical=True, grows=False)
    ours = from_hub(name=str(tmp_path), framing=framing, folder=tmp_path / "saved")
    assert (ours.vocab_size, ours.pad_id) == (34, theirs.pad_token_id)
    for tokenizer in (ours, load_tokenizer(tmp_path / "saved")):
        for text in ("A photo of a dog, isn't it?", "two cats  on the Mat", "unknown 你好", ""):
            assert tokenizer.encode(text, 30) == theirs(text).input_ids


def test_a_damaged_framing_is_named(tmp_path):
    from_hub(name="clip", framing=CLIP, folder=tmp_path)
    (tmp_path / "framing.json").write_text('{"middle": true}')
    with pytest.raises(UserError, match=r"framing\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("size", [32, (24, 40)])
@pytest.mark.parametrize("shape", [(40, 60), (64, 33), (24, 40), (100, 35), (7, 90)])
def test_a_centre_crop_is_that_of_torchvision(shape, size):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    pixels = CentreCrop(size=size)(image)
    high, wide = (size, size) if isinstance(size, int) else size
    assert pixels.shape == (3, high, wide)
    if isinstance(size, int):
        theirs = v2.Compose([
            v2.Resize(size, v2.InterpolationMode.BICUBIC), v2.CenterCrop(size), v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(CLIP_MEAN, CLIP_STD),
        ])(image)  # fmt: skip
        torch.testing.assert_close(pixels, theirs, rtol=1e-5, atol=1e-6)


def test_a_text_that_is_measured_whole_has_all_its_words(bert_folder):
    tokenizer = HuggingFaceTokenizer(bert_folder, Framing(clean="albef"))
    text = " ".join(["dog"] * 70)
    for kind, words in (("caption", CAPTION_WORDS), ("question", QUESTION_WORDS)):
        assert words < 70
        assert len(tokenizer.encode(text, 512, kind)) == 1 + words
        assert len(tokenizer.encode(text, None, kind)) == 1 + 70
