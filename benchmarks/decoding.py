"""What writing captions costs beside transformers' ``generate``, with the same weights and to the same tokens.

    python benchmarks/decoding.py --pairs 10
    python benchmarks/decoding.py --size base --pairs 3

64 pictures, 20 tokens, 3 beams: ours with ``Captioner``'s decoder, theirs with BLIP's, whose layers are the same. Both
are given the image tokens, and no text may end early, so that each writes all of its tokens. They take turns; the ratio
is the median over pairs, of seconds and of the process's CPU seconds (for a machine that others use, with one thread).
Weights are random. ``mini`` is the size of the quickstart's captioner, ``base`` has BLIP's 6 layers of 768.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmkit.encoders.decoding import Decoding, write
from mmkit.heads.captioning import Captioner
from mmkit.types import ModelSpec, Tokens

FIRST, LAST, PAD = 2, 3, 0
SIZES = {
    "mini": {"depth": 2, "width": 128, "heads": 4, "vocab": 1600, "tokens": 65},
    "base": {"depth": 6, "width": 768, "heads": 12, "vocab": 30524, "tokens": 197},
}


def our_head(size: dict[str, int], longest: int) -> Captioner:
    """Random weights, sharp enough for beams to differ."""
    spec = ModelSpec(
        image_width=size["width"], text_width=size["width"], fused_width=size["width"], embed_dim=8,
        vocab_size=size["vocab"], fuses=True,
    )  # fmt: skip
    head = Captioner(spec, depth=size["depth"], heads=size["heads"], max_tokens=longest, dropout=0.0, types=1)
    with torch.no_grad():
        for p in head.parameters():
            if p.dim() > 1:
                p.normal_(std=0.08)
        head.decoder.embeddings.types.weight.zero_()
    return head.eval()


def their_model(head: Captioner, size: dict[str, int], longest: int) -> nn.Module:
    """BLIP's text decoder with the weights of ``head``."""
    from transformers.models.blip.configuration_blip import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

    config = BlipTextConfig(
        vocab_size=size["vocab"], hidden_size=size["width"], encoder_hidden_size=size["width"],
        intermediate_size=4 * size["width"], num_hidden_layers=size["depth"], num_attention_heads=size["heads"],
        max_position_embeddings=longest, bos_token_id=FIRST, eos_token_id=LAST, sep_token_id=LAST, pad_token_id=PAD,
        is_decoder=True, tie_word_embeddings=True,
    )  # fmt: skip
    model: Any = BlipTextLMHeadModel(config).eval()
    own, bert = head.decoder.embeddings, model.bert.embeddings
    with torch.no_grad():
        bert.word_embeddings.weight.copy_(own.words.weight)
        bert.position_embeddings.weight.copy_(own.positions.weight)
        bert.LayerNorm.load_state_dict(own.norm.state_dict())
        for block, layer in zip(head.decoder.blocks, model.bert.encoder.layer, strict=True):
            copy_layer(block, layer)
        transform = model.cls.predictions.transform
        transform.dense.load_state_dict(head.vocabulary.dense.state_dict())
        transform.LayerNorm.load_state_dict(head.vocabulary.norm.state_dict())
        model.cls.predictions.bias.copy_(head.vocabulary.bias)
    return model


def copy_layer(block: Any, layer: Any) -> None:
    """A block's weights into BERT's layer, as transformers names them."""
    own, cross = layer.attention.self, layer.crossattention.self
    for kind in ("weight", "bias"):
        thirds = getattr(block.attn.qkv, kind).chunk(3)
        for part, value in zip((own.query, own.key, own.value), thirds, strict=True):
            getattr(part, kind).copy_(value)
        for part, value in zip((cross.key, cross.value), getattr(block.cross.kv, kind).chunk(2), strict=True):
            getattr(part, kind).copy_(value)
    for part, ours in (
        (cross.query, block.cross.q), (layer.attention.output.dense, block.attn.proj),
        (layer.attention.output.LayerNorm, block.norm1), (layer.crossattention.output.dense, block.cross.proj),
        (layer.crossattention.output.LayerNorm, block.norm_cross), (layer.intermediate.dense, block.mlp.fc1),
        (layer.output.dense, block.mlp.fc2), (layer.output.LayerNorm, block.norm2),
    ):  # fmt: skip
        part.load_state_dict(ours.state_dict())


def writers(
    size: dict[str, int], pictures: int, words: int, beams: int, device: str = "cpu"
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Two calls that write about the same image tokens: ours, theirs. Each gives ids (pictures, words)."""
    torch.manual_seed(0)
    head = our_head(size, words + 2).to(device)
    model: Any = their_model(head, size, words + 2).to(device)
    image_BPD = torch.randn(pictures, size["tokens"], size["width"]).to(device)
    first_B1 = torch.full((pictures, 1), FIRST, device=device)
    how = Decoding(beams=beams, max_new_tokens=words, min_new_tokens=words)

    def mine() -> Tensor:
        with torch.no_grad():
            return write(head.writer(Tokens(image_BPD)), first_B1, LAST, how).ids

    def generated() -> Tensor:
        with torch.no_grad():
            found = model.generate(
                first_B1, attention_mask=torch.ones_like(first_B1), encoder_hidden_states=image_BPD,
                encoder_attention_mask=torch.ones(image_BPD.shape[:2], dtype=torch.int64, device=device),
                num_beams=beams, max_new_tokens=words, min_new_tokens=words, do_sample=False, pad_token_id=LAST,
                eos_token_id=LAST,
            )  # fmt: skip
        return found[:, 1:]

    return mine, generated


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--tokens", type=int, help="of each picture")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    size = SIZES[args.size] | ({"tokens": args.tokens} if args.tokens else {})
    calls = writers(size, args.pictures, args.words, args.beams, args.device)
    first = [call() for call in calls]
    same = (first[0] == first[1]).all(1).float().mean().item()
    rows: list[list[tuple[float, float]]] = [[], []]
    for _ in range(args.pairs):
        for row, call in zip(rows, calls, strict=True):
            start = time.perf_counter(), time.process_time()
            call().cpu()
            row.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    sys.stdout.write(f"{args.size}, {torch.get_num_threads()} threads; {same:.0%} of the texts are equal\n")
    for at, what in enumerate(("seconds", "CPU seconds")):
        medians = [statistics.median(t[at] for t in row) for row in rows]
        ratio = statistics.median(a[at] / b[at] for a, b in zip(*rows, strict=True))
        sys.stdout.write(f"{what}: mmkit {medians[0]:.3f}, transformers {medians[1]:.3f}, ratio of pairs {ratio:.2f}\n")


if __name__ == "__main__":
    main()
