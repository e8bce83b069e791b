"""Our masking of tokens, from the recorded draws of the official ALBEF: it hides the same, and puts the same there."""

from types import SimpleNamespace

from mmkit.data.texts.masking import Masking
from tests.parity.oracle import cases, for_each, load, under

FILES = cases(lambda names: any(name.endswith("draw.bernoulli_select") for name in names))
YES, NO = 0.0, 1.0  # against a probability
MASK, WORD, KEEP = 0.9, 0.0, 0.15  # of the shares 0.8, 0.1 and 0.1


@for_each(FILES, "*draw.*", "*in.input_ids", "*in.mlm_input_ids", "*in.mlm_labels")
def test_masked_text(path):
    meta, x = load(path)
    for step in [name.removesuffix("draw.bernoulli_select") for name in x if name.endswith("bernoulli_select")]:
        given, draw = under(x, f"{step}in."), under(x, f"{step}draw.")
        tokenizer = tokenizer_of(given, draw, meta["bert"]["vocab_size"])
        for ids, *draws, masked, labels in zip(
            given["input_ids"].tolist(),
            *(draw[name].tolist() for name in ("bernoulli_select", "bernoulli_replace", "bernoulli_random")),
            draw["randint_words"].tolist(), given["mlm_input_ids"].tolist(), given["mlm_labels"].tolist(), strict=True,
        ):  # fmt: skip
            found, positions, hidden = Masking()(ids, tokenizer, Drawn(ids, draws, tokenizer))
            assert found == masked
            there = dict(zip(positions, hidden, strict=True))
            assert [there.get(i, -100) for i in range(len(ids))] == labels


def tokenizer_of(given, draw, size):
    """The ids that mean something, as far as the texts tell: [CLS] opens each, [PAD] is 0, [MASK] replaces."""
    cls = given["input_ids"][0, 0]
    replaced = draw["bernoulli_select"].bool() & draw["bernoulli_replace"].bool() & given["attention_mask"].bool()
    mask = given["mlm_input_ids"][replaced & (given["input_ids"] != cls)].unique()
    assert len(mask) <= 1
    # officially [SEP] may be hidden too, and no text has one
    return SimpleNamespace(
        pad_id=0, sep_id=0, cls_id=cls.item(), mask_id=next(iter(mask.tolist()), None), vocab_size=size
    )


class Drawn:
    """The numbers that make ``Masking`` draw what was recorded of a text."""

    def __init__(self, ids, draws, tokenizer):
        self.numbers, self.words = [], []
        for token, select, replace, random, word in zip(ids, *draws, strict=True):
            if token in (tokenizer.pad_id, tokenizer.cls_id):
                continue
            self.numbers.append(YES if select else NO)
            if select:
                self.numbers.append(MASK if replace else WORD if random else KEEP)
                self.words += [word] if random and not replace else []

    def random(self):
        return self.numbers.pop(0)

    def randrange(self, size):
        return self.words.pop(0)
