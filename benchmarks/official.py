"""The pre-training step of ALBEF as it was published (Li et al. 2021, section 3), to measure ours against.

Written anew from a description of the algorithm, with the official names of weights, so that official files load. It
does what the published code does, at its pace: float32; query, key and value as three products; the keys and values of
an image once for the true pairs, twice for the wrong ones, once for the hidden words; every position on the vocabulary;
negatives drawn row by row; teacher and optimizer parameter by parameter; the teacher's own dropout. It is no example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """Of the towers; ``layers`` of the text, of which those from ``fusion_layer`` on read the image."""

    vocab: int
    image: int = 256
    patch: int = 16
    image_depth: int = 12
    image_width: int = 768
    image_heads: int = 12
    layers: int = 12
    fusion_layer: int = 6
    width: int = 768
    heads: int = 12
    hidden: int = 3072
    positions: int = 512
    embed: int = 256
    queue: int = 65_536
    dropout: float = 0.1


class ImageAttention(nn.Module):
    """Queries, keys and values in one product; no mask, no dropout."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        size, tokens, width = x.shape
        qkv = self.qkv(x).reshape(size, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = ((q @ k.transpose(-2, -1)) * (width // self.heads) ** -0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(size, tokens, width))


class ImageMLP(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class ImageBlock(nn.Module):
    """Pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = ImageAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = ImageMLP(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ImageEncoder(nn.Module):
    """A ViT whose patches a convolution reads."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        width = s.image_width
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, s.patch, s.patch)})
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (s.image // s.patch) ** 2, width) * 0.02)
        self.blocks = nn.ModuleList(ImageBlock(width, s.image_heads) for _ in range(s.image_depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, 1 + P, D)."""
        x = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Embeddings(nn.Module):
    """Word + type + position, norm, dropout."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(s.vocab, s.width, padding_idx=0)
        self.position_embeddings = nn.Embedding(s.positions, s.width)
        self.token_type_embeddings = nn.Embedding(2, s.width)
        self.LayerNorm = nn.LayerNorm(s.width, eps=1e-12)
        self.dropout = nn.Dropout(s.dropout)
        self.register_buffer("position_ids", torch.arange(s.positions).expand(1, -1))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, D)."""
        x = self.word_embeddings(ids) + self.token_type_embeddings(torch.zeros_like(ids))
        x = x + self.position_embeddings(self.position_ids[:, : ids.shape[1]])
        return self.dropout(self.LayerNorm(x))


class Heads(nn.Module):
    """Attention of words to words, or to ``source``: three products, the mask added to the scores."""

    def __init__(self, s: Sizes, source_width: int) -> None:
        super().__init__()
        self.heads = s.heads
        self.query = nn.Linear(s.width, s.width)
        self.key = nn.Linear(source_width, s.width)
        self.value = nn.Linear(source_width, s.width)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D) that read (B, N, E) -> (B, L, D)."""
        k, v, q = self._split(self.key(source)), self._split(self.value(source)), self._split(self.query(x))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask
        read = self.dropout(scores.softmax(dim=-1)) @ v
        return read.permute(0, 2, 1, 3).contiguous().flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).permute(0, 2, 1, 3)


class Output(nn.Module):
    """Linear and dropout, then the norm of the sum with what went in."""

    def __init__(self, into: int, s: Sizes) -> None:
        super().__init__()
        self.dense = nn.Linear(into, s.width)
        self.LayerNorm = nn.LayerNorm(s.width, eps=1e-12)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """(B, L, into) and (B, L, D) -> (B, L, D)."""
        return self.LayerNorm(self.dropout(self.dense(x)) + before)


class Attention(nn.Module):
    """Attention with its output."""

    def __init__(self, s: Sizes, source_width: int) -> None:
        super().__init__()
        self.self = Heads(s, source_width)
        self.output = Output(s.width, s)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.output(self.self(x, source, mask), x)


class TextLayer(nn.Module):
    """Post-norm: words read words, then the image where this is a fusion layer, then the MLP."""

    def __init__(self, s: Sizes, fuses: bool) -> None:
        super().__init__()
        self.attention = Attention(s, s.width)
        if fuses:
            self.crossattention = Attention(s, s.image_width)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(s.width, s.hidden)})
        self.output = Output(s.hidden, s)
        self.fuses = fuses

    def forward(self, x: Tensor, mask: Tensor, image: Tensor | None, image_mask: Tensor | None) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = self.attention(x, x, mask)
        if self.fuses:
            x = self.crossattention(x, image, image_mask)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Text(nn.Module):
    """The whole BERT with its vocabulary head."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        layers = nn.ModuleList(TextLayer(s, i >= s.fusion_layer) for i in range(s.layers))
        self.bert = nn.ModuleDict({"embeddings": Embeddings(s), "encoder": nn.ModuleDict({"layer": layers})})
        transform = {"dense": nn.Linear(s.width, s.width), "LayerNorm": nn.LayerNorm(s.width, eps=1e-12)}
        predictions = nn.ModuleDict(
            {"transform": nn.ModuleDict(transform), "decoder": nn.Linear(s.width, s.vocab)}
        )  # fmt: skip
        predictions["decoder"].weight = self.bert["embeddings"].word_embeddings.weight
        predictions.register_parameter("bias", predictions["decoder"].bias)
        self.cls = nn.ModuleDict({"predictions": predictions})
        self.fusion_layer = s.fusion_layer
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(
        self, x: Tensor, mask: Tensor, image: Tensor | None = None, mode: str = "multi_modal"
    ) -> Tensor:  # fmt: skip
        """Ids (B, L) -> (B, L, D); in the mode "text" by the lower layers alone, in "fusion" states by the upper."""
        if mode != "fusion":
            x = self.bert["embeddings"](x)
        mask = (1.0 - mask[:, None, None, :].to(x.dtype)) * -10_000.0
        image_mask = None
        if image is not None:
            image_mask = (1.0 - torch.ones(image.shape[:2], device=x.device)[:, None, None, :]) * -1e9
        layers = self.bert["encoder"]["layer"]
        wanted = {"text": layers[: self.fusion_layer], "fusion": layers[self.fusion_layer :], "multi_modal": layers}
        for layer in wanted[mode]:
            x = layer(x, mask, image, image_mask)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """States (B, L, D) -> (B, L, V)."""
        head = self.cls["predictions"]
        return head["decoder"](head["transform"]["LayerNorm"](F.gelu(head["transform"]["dense"](x))))


# From weights (B, B) to one index a row.
Choose = Callable[[Tensor], list[int]]


def choose_by_row(weights: Tensor) -> list[int]:
    """One index of each row in proportion to its weights, a row at a time."""
    return [torch.multinomial(weights[b], 1).item() for b in range(len(weights))]


class OfficialALBEF(nn.Module):
    """``forward`` gives the losses of the hidden words, of the contrast and of the pairs; teacher and queue change.

    choose: how negatives are drawn, an image for each text first, then a text for each image.
    """

    def __init__(self, s: Sizes, choose: Choose = choose_by_row, momentum: float = 0.995) -> None:
        super().__init__()
        self.choose = choose
        self.momentum = momentum
        self.temp = nn.Parameter(torch.ones([]) * 0.07)
        for end in ("", "_m"):
            self.add_module(f"visual_encoder{end}", ImageEncoder(s))
            self.add_module(f"vision_proj{end}", nn.Linear(s.image_width, s.embed))
            self.add_module(f"text_encoder{end}", Text(s))
            self.add_module(f"text_proj{end}", nn.Linear(s.width, s.embed))
        self.itm_head = nn.Linear(s.width, 2)
        self.pairs = [
            (self.get_submodule(name), self.get_submodule(f"{name}_m"))
            for name in ("visual_encoder", "vision_proj", "text_encoder", "text_proj")
        ]
        for student, teacher in self.pairs:
            for p, p_m in zip(student.parameters(), teacher.parameters(), strict=True):
                p_m.data.copy_(p.data)
                p_m.requires_grad = False
        self.register_buffer("image_queue", F.normalize(torch.randn(s.embed, s.queue), dim=0))
        self.register_buffer("text_queue", F.normalize(torch.randn(s.embed, s.queue), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(
        self, pixels: Tensor, ids: Tensor, mask: Tensor, masked: tuple[Tensor, Tensor], alpha: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """mask: (B, L), 1 = a token. masked: ids with hidden words, and the words there, -100 elsewhere."""
        with torch.no_grad():
            self.temp.clamp_(0.001, 0.5)
        image = self.visual_encoder(pixels)
        image_feat = F.normalize(self.vision_proj(image[:, 0]), dim=-1)
        text = self.text_encoder(ids, mask, mode="text")
        text_feat = F.normalize(self.text_proj(text[:, 0]), dim=-1)
        with torch.no_grad():
            self._average()
            image_m = self.visual_encoder_m(pixels)
            image_feat_m = F.normalize(self.vision_proj_m(image_m[:, 0]), dim=-1)
            image_all = torch.cat([image_feat_m.t(), self.image_queue.clone()], dim=1)
            text_feat_m = F.normalize(self.text_proj_m(self.text_encoder_m(ids, mask, mode="text")[:, 0]), dim=-1)
            text_all = torch.cat([text_feat_m.t(), self.text_queue.clone()], dim=1)
            sim_i2t_m, sim_t2i_m = image_feat_m @ text_all / self.temp, text_feat_m @ image_all / self.temp
            hard = torch.zeros_like(sim_i2t_m)
            hard.fill_diagonal_(1)
            i2t_targets = alpha * F.softmax(sim_i2t_m, dim=1) + (1 - alpha) * hard
            t2i_targets = alpha * F.softmax(sim_t2i_m, dim=1) + (1 - alpha) * hard
        sim_i2t, sim_t2i = image_feat @ text_all / self.temp, text_feat @ image_all / self.temp
        loss_i2t = -torch.sum(F.log_softmax(sim_i2t, dim=1) * i2t_targets, dim=1).mean()
        loss_t2i = -torch.sum(F.log_softmax(sim_t2i, dim=1) * t2i_targets, dim=1).mean()
        self._enqueue(image_feat_m, text_feat_m)
        loss_itm = self._match(image, text, mask, sim_i2t, sim_t2i)
        loss_mlm = self._words(masked, mask, image, image_m, alpha)
        return loss_mlm, (loss_i2t + loss_t2i) / 2, loss_itm

    def _match(self, image: Tensor, text: Tensor, mask: Tensor, sim_i2t: Tensor, sim_t2i: Tensor) -> Tensor:
        size = len(image)
        true = self.text_encoder(text, mask, image, mode="fusion")
        with torch.no_grad():
            weights_i2t, weights_t2i = F.softmax(sim_i2t[:, :size], dim=1), F.softmax(sim_t2i[:, :size], dim=1)
            weights_i2t.fill_diagonal_(0)
            weights_t2i.fill_diagonal_(0)
        image_neg = torch.stack([image[i] for i in self.choose(weights_t2i)])
        chosen = self.choose(weights_i2t)
        text_neg, mask_neg = torch.stack([text[i] for i in chosen]), torch.stack([mask[i] for i in chosen])
        wrong = self.text_encoder(
            torch.cat([text, text_neg]), torch.cat([mask, mask_neg]), torch.cat([image_neg, image]), mode="fusion"
        )
        logits = self.itm_head(torch.cat([true[:, 0], wrong[:, 0]]))
        labels = torch.cat([torch.ones(size), torch.zeros(2 * size)]).long().to(logits.device)
        return F.cross_entropy(logits, labels)

    def _words(
        self, masked: tuple[Tensor, Tensor], mask: Tensor, image: Tensor, image_m: Tensor, alpha: float
    ) -> Tensor:  # fmt: skip
        ids, labels = masked
        with torch.no_grad():
            logits_m = self.text_encoder_m.logits(self.text_encoder_m(ids, mask, image_m))
        logits = self.text_encoder.logits(self.text_encoder(ids, mask, image))
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        soft = -torch.sum(F.log_softmax(logits, dim=-1) * F.softmax(logits_m, dim=-1), dim=-1)
        return (1 - alpha) * loss + alpha * soft[labels != -100].mean()

    @torch.no_grad()
    def _average(self) -> None:
        for student, teacher in self.pairs:
            for p, p_m in zip(student.parameters(), teacher.parameters(), strict=True):
                p_m.data = p_m.data * self.momentum + p.data * (1.0 - self.momentum)

    @torch.no_grad()
    def _enqueue(self, image_feat: Tensor, text_feat: Tensor) -> None:
        size, ptr = len(image_feat), int(self.queue_ptr)
        assert self.image_queue.shape[1] % size == 0
        self.image_queue[:, ptr : ptr + size] = image_feat.t()
        self.text_queue[:, ptr : ptr + size] = text_feat.t()
        self.queue_ptr[0] = (ptr + size) % self.image_queue.shape[1]


@dataclass(frozen=True)
class Draws:
    """What hides words, each (B, L): those that may be hidden, are, get any word; and that word."""

    select: Tensor
    replace: Tensor
    random: Tensor
    words: Tensor

    @classmethod
    def new(cls, ids: Tensor, vocab: int, share: float = 0.15) -> Draws:
        """Drawn on the CPU."""
        select, replace, random = (torch.bernoulli(torch.full(ids.shape, p)) for p in (share, 0.8, 0.5))
        return cls(select, replace, random, torch.randint(vocab, ids.shape))


def hide(ids: Tensor, draws: Draws, mask_id: int, kept: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Ids with hidden words, and the words there, -100 elsewhere; ``kept`` are the ids that are never hidden."""
    chosen = draws.select.bool().to(ids.device)
    for token in kept:
        chosen &= ids != token
    labels = ids.masked_fill(~chosen, -100)
    replaced = draws.replace.bool().to(ids.device) & chosen
    random = draws.random.bool().to(ids.device) & chosen & ~replaced
    hidden = ids.masked_fill(replaced, mask_id)
    return torch.where(random, draws.words.to(ids.device), hidden), labels


def optimizer_of(model: OfficialALBEF, lr: float, decay: float = 0.02) -> torch.optim.AdamW:
    """AdamW with the default loops; one-dimensional parameters and biases do not decay, the temperature does."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = [p for name, p in trained if p.ndim == 1 or name.endswith(".bias")]
    decayed = [p for name, p in trained if not (p.ndim == 1 or name.endswith(".bias"))]
    return torch.optim.AdamW(
        [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": decay}], lr
    )  # fmt: skip
