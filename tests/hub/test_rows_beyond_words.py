"""Rows of the vocabulary that no word has, as in matrices filled up to a round number, are never guessed."""

import torch

from mmkit.data.images.transforms import EvalTransform
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.mlm import MLM
from mmkit.inference.predictor import Predictor
from mmkit.nn.vocabulary import VocabularyHead
from mmkit.types import Fused, Tokens
from tests.sizes import albef_tiny


class Words:
    vocab_size, pad_id, cls_id, sep_id, unk_id, mask_id = 20, 0, 2, 3, 1, 4
    special_ids = (0, 1, 2, 3, 4)

    def decode(self, ids):
        return " ".join(map(str, ids))


def test_heads_never_guess_a_row_without_a_word():
    torch.manual_seed(0)
    model = albef_tiny(28)
    mlm, answer = MLM(model.spec), AnswerDecoder(model.spec, depth=1, heads=2, mlp_width=32)
    with torch.no_grad():
        for bias in (mlm.bias, answer.vocabulary.bias):
            bias[20:] = 50.0
            bias[19] = 25.0
    states = torch.randn(3, model.spec.fused_width)
    before = mlm.logits(states, model.word_embeddings)
    assert before.argmax(1).min() >= 20
    predictor = Predictor(model, {"mlm": mlm, "answer": answer}, Words(), EvalTransform(size=32), 16)
    assert torch.equal(mlm.logits(states, model.word_embeddings), before)  # training is as it was
    with predictor.inference():
        logits = mlm.logits(states, model.word_embeddings)
        written, _ = answer.generate(Fused(Tokens(states[:, None], None)), Words().cls_id, Words().sep_id)
    assert (logits[:, 20:] == -torch.inf).all()
    assert torch.equal(logits[:, :20], before[:, :20])
    assert logits.argmax(1).tolist() == [19] * 3
    assert (written == 19).all()
    assert torch.allclose(logits.softmax(1)[:, :20].sum(1), torch.ones(3))


def test_all_rows_stay_where_all_have_words():
    part = VocabularyHead(4, 6).eval()
    words, states = torch.randn(6, 4), torch.randn(2, 4)
    plain = part.logits(states, words)
    for known in (6, 7, None):
        part.known = known
        assert torch.equal(part.logits(states, words), plain)
