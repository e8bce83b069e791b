"""Grounding DINO's step from equal feature maps and words, losses of all layers and backward included, beside
transformers' own.

    python benchmarks/grounding.py --setting small --threads 1 --steps 10 --cpu
    python benchmarks/grounding.py --setting paper --steps 2 --json grounding.json

Both begin at the maps of a backbone and the states of a text tower, and have the same weights, prompts and boxes and no
dropout; logits, boxes and gradients of both are compared before anything is measured. They take their steps in turns;
what counts is the ratio of paired steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from paired import Clock, Work, command, in_turns, random_truth
from torch import Tensor, nn
from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

from mmkit.convert.tables.table import Entry, read
from mmkit.data.texts.prompts import Prompter
from mmkit.heads.boxes.matching import Costs
from mmkit.heads.boxes.truth import Truth
from mmkit.nn.sine import of_cells
from mmkit.prompt import Prompt
from projects.grounding import tables
from projects.grounding.layers import Decoder, EnhancerLayer, Found, Map, Selection, Words
from projects.grounding.levels import GROUPS
from projects.grounding.losses import matches_of, sums

TEMPERATURE, POINTS = 20.0, 4
DOT, CLS, SEP, FIRST = 1012, 101, 102, 2000


@dataclass(frozen=True)
class Setting:
    """Sizes of one comparison. maps: (channels, rows, columns) of each; boxes: of a picture, at most."""

    batch: int
    maps: tuple[tuple[int, int, int], ...]
    width: int
    text_width: int
    heads: int
    hidden: int
    enhancer: int
    decoder: int
    queries: int
    phrases: int
    boxes: int


SETTINGS = {
    "small": Setting(16, ((128, 8, 8),), 128, 128, 4, 256, 2, 3, 12, 40, 3),
    "paper": Setting(
        1, ((192, 50, 67), (384, 25, 34), (768, 13, 17)), 256, 768, 8, 2048, 6, 6, 900, 60, 20
    ),  # Swin-T at 400 x 533 pixels, which is half of the published size
}  # fmt: skip


class Numbers:
    """A tokenizer with BERT's special ids, for phrases that are numbers."""

    pad_id, unk_id, cls_id, sep_id = 0, 100, CLS, SEP

    def encode(self, text: str, max_tokens: int | None, kind: str = "caption") -> list[int]:
        """Two tokens for a number."""
        words = [DOT] if text == "." else [FIRST + int(text), FIRST + 500 + int(text)] if text.isdigit() else []
        return [CLS, *words, SEP]


class Given(nn.Module):
    """In the place of transformers' backbone: the maps of this step."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []
        self.width = 0

    def position_embedding(self, source: Tensor, mask: Tensor) -> Tensor:
        """As its own, of whole pictures."""
        size = (source.shape[2], source.shape[3])
        places = of_cells(torch.ones(1, *size, dtype=torch.bool), self.width, TEMPERATURE)
        return places.mT.unflatten(2, size).expand(len(source), -1, -1, -1)

    def forward(self, pixels: Tensor, mask: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        """Maps with their masks, and positions."""
        whole = [torch.ones(len(one), *one.shape[2:], dtype=torch.bool) for one in self.maps]
        places = [self.position_embedding(one, real) for one, real in zip(self.maps, whole, strict=True)]
        return list(zip(self.maps, whole, strict=True)), places


class GivenWords(nn.Module):
    """In the place of transformers' text tower: the states of this step."""

    states: Tensor

    def forward(self, *_: Any, **__: Any) -> SimpleNamespace:
        """As a tower's output."""
        return SimpleNamespace(last_hidden_state=self.states)


def theirs_of(s: Setting) -> GroundingDinoForObjectDetection:
    """Transformers' model without its towers."""
    extra = int(len(s.maps) > 1)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=s.maps[0][0] // (2 if extra else 8), depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1],
            out_indices=[2, 3, 4] if extra else [4],
        ),
        text_config=BertConfig(vocab_size=3100, hidden_size=s.text_width, num_hidden_layers=1, num_attention_heads=1),
        d_model=s.width, encoder_layers=s.enhancer, decoder_layers=s.decoder, encoder_attention_heads=s.heads,
        decoder_attention_heads=s.heads, encoder_ffn_dim=s.hidden, decoder_ffn_dim=s.hidden, num_queries=s.queries,
        num_feature_levels=len(s.maps) + extra, dropout=0.0, fusion_droppath=0.0, auxiliary_loss=True,
    )  # fmt: skip
    model = GroundingDinoForObjectDetection(config)
    model.model.decoder.bbox_embed = model.bbox_embed
    model.model.backbone, model.model.text_backbone = Given(), GivenWords()
    model.model.backbone.width = s.width
    for box in (model.bbox_embed[0], model.model.encoder_output_bbox_embed):
        nn.init.normal_(box.layers[-1].weight, std=0.02)
    return model


class Ours(nn.Module):
    """The same from our parts, under the head's names."""

    def __init__(self, s: Setting) -> None:
        super().__init__()
        extra, channels = int(len(s.maps) > 1), [one[0] for one in s.maps]
        count = len(channels) + extra
        halves = [nn.Conv2d(channels[-1], s.width, 3, stride=2, padding=1)] * extra
        self.levels = nn.ModuleDict({
            "project": nn.ModuleList([*(nn.Conv2d(own, s.width, 1) for own in channels), *halves]),
            "groups": nn.ModuleList(nn.GroupNorm(GROUPS, s.width) for _ in range(count)),
        })  # fmt: skip
        self.levels.places = nn.Parameter(torch.zeros(count, s.width))
        self.text = nn.Linear(s.text_width, s.width)
        maps = {"levels": count, "points": POINTS}
        self.enhancer = nn.ModuleList(EnhancerLayer(s.width, s.heads, s.hidden, 0.0, **maps) for _ in range(s.enhancer))
        self.selection = Selection(s.width, scaled=False)
        self.decoder = Decoder(s.queries, s.decoder, s.width, s.heads, s.hidden, 0.0, **maps, scaled=False)
        self.queries = s.queries

    def find(self, maps: list[Tensor], states: Tensor, prompt: Prompt) -> Found:
        """What all layers say, those of the chosen cells first."""
        sources = [*maps, *maps[-1:]][: len(self.levels["project"])]
        made = [
            group(project(one))
            for one, project, group in zip(sources, self.levels["project"], self.levels["groups"], strict=True)
        ]
        shapes = tuple((one.shape[2], one.shape[3]) for one in made)
        width = made[0].shape[1]
        places = torch.cat([
            of_cells(torch.ones(1, *shape, dtype=torch.bool), width, TEMPERATURE) + place
            for shape, place in zip(shapes, self.levels.places, strict=True)
        ], 1)  # fmt: skip
        seen = Map(torch.cat([one.flatten(2).mT for one in made], 1), places, shapes, None)
        words = Words(self.text(states), prompt.mask, prompt.reads, prompt.positions)
        for layer in self.enhancer:
            seen, words = layer(seen, words)
        start = self.selection(seen, words, self.queries)
        found = self.decoder(start, seen, words)
        return Found(
            torch.cat([start.logits[None], found.logits]), torch.cat([start.boxes[None], found.boxes]), found.real
        )

    def forward(self, maps: list[Tensor], states: Tensor, prompt: Prompt, truth: Truth) -> Tensor:
        """The loss."""
        every = self.find(maps, states, prompt)
        total, _ = sums(every, prompt, truth, matches_of(every, prompt, truth, Costs(label=1.0)))
        return (2 * total.label + 5 * total.box + 2 * total.giou) / int(truth.counts.sum())


def inputs(s: Setting, prompt: Prompt, seed: int) -> tuple[list[Tensor], Tensor, Truth, list[dict[str, Tensor]]]:
    """Maps, states of words, and boxes in both forms."""
    g = torch.Generator().manual_seed(seed)
    truth, labels = random_truth(g, s.batch, s.boxes, s.phrases)
    maps = [torch.randn(s.batch, *one, generator=g) for one in s.maps]
    states = torch.randn(s.batch, prompt.ids.shape[1], s.text_width, generator=g)
    return maps, states, truth, labels


def step_of_theirs(
    model: GroundingDinoForObjectDetection, maps: list[Tensor], states: Tensor, prompt: Prompt,
    labels: list[dict[str, Tensor]],
) -> Any:  # fmt: skip
    """Its output, with the loss."""
    model.model.backbone.maps, model.model.text_backbone.states = maps, states
    pixels = torch.zeros(len(states), 3, 32, 32)  # nothing reads them
    return model(pixels, prompt.ids, attention_mask=prompt.mask.long(), labels=labels)


def same_weights(ours: Ours, theirs: GroundingDinoForObjectDetection, s: Setting) -> list[Entry]:
    """Give ours the weights of theirs -> the rows between both."""
    state = theirs.state_dict()
    rows = tables.rows(state, (0,) * 4, 0, len(ours.levels["project"]), s.enhancer, s.decoder, 1)
    own = [
        row for row in rows
        if isinstance(row, Entry) and row.ours.startswith(tables.HEAD) and ".levels.norms." not in row.ours
    ]  # fmt: skip
    wanted = {name for row in own for name in (*row.theirs, *row.also)}
    found = read(own, {name: value for name, value in state.items() if name in wanted})
    ours.load_state_dict({name.removeprefix(tables.HEAD): value for name, value in found.items()})
    return own


def compare(ours: Ours, theirs: GroundingDinoForObjectDetection, given: tuple[Any, ...], prompt: Prompt) -> float:
    """How far the gradients of the last layer are apart; AssertionError where logits or boxes differ."""
    maps, states, truth, labels = given
    said, found = step_of_theirs(theirs, maps, states, prompt, labels), ours.find(maps, states, prompt)
    size = prompt.ids.shape[1]
    torch.testing.assert_close(found.logits[-1], said.logits[..., :size], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.boxes[-1], said.pred_boxes, atol=1e-3, rtol=1e-3)
    said.loss.backward()
    ours(maps, states, prompt, truth).backward()
    wanted, got = theirs.model.decoder.layers[-1].fc1.weight.grad, ours.decoder.layers[-1].mlp.fc1.weight.grad
    apart = float((got - wanted).abs().max() / wanted.abs().max())
    assert apart < 1e-2, f"gradients differ by {apart}"
    return apart


def measure(s: Setting, steps: int, clock: Clock = time.perf_counter) -> dict[str, float]:
    """Median seconds of both, the median ratio of paired steps, and how far gradients are apart."""
    torch.manual_seed(0)
    theirs, ours = theirs_of(s).train(), Ours(s)
    same_weights(ours, theirs, s)
    prompter = Prompter(Numbers())
    prompt = prompter.prompt([[prompter.tokens(str(i)) for i in range(s.phrases)]] * s.batch)
    apart = compare(ours, theirs, inputs(s, prompt, 0), prompt)

    def pair(step: int) -> tuple[Work, Work]:
        maps, states, truth, labels = inputs(s, prompt, step)
        return (
            partial(ours, maps, states, prompt, truth),
            lambda: step_of_theirs(theirs, maps, states, prompt, labels).loss,
        )

    return {**in_turns(pair, (ours, theirs), steps, clock), "gradients_apart": apart}


if __name__ == "__main__":
    command(__doc__, SETTINGS, "small", measure)
