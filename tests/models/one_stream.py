"""The one-stream model of transformers at a tiny random size, our copy of it, and the losses of both."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import ViltConfig, ViltForMaskedLM

from mmkit.convert.tables import vilt as convert
from mmkit.convert.tables.table import read
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.sizes.vilt import vilt
from mmkit.task import Task
from tests.examples import VOCAB

STEP = 3  # of the draws of negatives


def theirs() -> nn.Module:
    """With a vocabulary head of its own and the layer that ranks pairs."""
    torch.manual_seed(0)
    config = ViltConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=72,
        image_size=32, patch_size=8, max_position_embeddings=16, max_image_length=-1, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, tie_word_embeddings=False,
    )  # fmt: skip
    model = ViltForMaskedLM(config)
    decoder = model.mlm_score.decoder
    decoder.weight = nn.Parameter(decoder.weight.detach().clone())  # the released weights are untied
    model.rank_output = nn.Linear(32, 1)  # as in ViltForImageAndTextRetrieval
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def ours(model: nn.Module) -> Task:
    """The same as a task."""
    state = model.state_dict()
    own = vilt(VOCAB, **convert.arguments(state, model.config.to_dict()), dropout=0.0)
    heads = {"itm": ITM(own.spec, negatives="random", pooler=True), "mlm": MLM(own.spec, tied=False)}
    task = Task(own, heads, momentum=None).eval()
    task.load_state_dict(read(convert.table(state), state))
    return task


def read_by(model, ids, mask, pixels, pixel_mask):
    """Their states and the pooled one."""
    out = model.vilt(input_ids=ids, attention_mask=mask, pixel_values=pixels, pixel_mask=pixel_mask)
    return out.last_hidden_state, out.pooler_output


def their_mlm_loss(model, b):
    """Over the hidden words of a batch."""
    size = len(b)
    labels = torch.full_like(b.ids, -100).scatter_(1, b.masked.positions, b.masked.labels.view(size, 2))
    whole = torch.ones(size, 32, 32, dtype=torch.bool)
    out = model(input_ids=b.masked.ids, attention_mask=b.mask, pixel_values=b.pixels, pixel_mask=whole)
    return F.cross_entropy(out.logits.flatten(0, 1), labels.flatten())


def their_matching_loss(model, task, b):
    """Over the pairs that our head draws, judged by a copy of its last layer."""
    head, rows = task.heads["itm"], torch.arange(len(b))
    image_B, text_B, _ = head._choose(task.features(b, STEP))
    texts, images = torch.cat([rows, rows, text_B]), torch.cat([rows, image_B, rows])
    whole = torch.ones(len(texts), 32, 32, dtype=torch.bool)
    _, pooled = read_by(model, b.ids[texts], b.mask[texts], b.pixels[images], whole)
    logits = F.linear(pooled, head.classify.weight.detach(), head.classify.bias.detach())
    return F.cross_entropy(logits, torch.tensor([1] * len(b) + [0] * 2 * len(b)))
