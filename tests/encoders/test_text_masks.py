"""A mask for each query and a position for each token: phrases of one prompt that do not know of each other."""

import pytest
import torch
import transformers

from mmkit.encoders.text import TextEncoder, own_reads
from mmkit.errors import UserError

WIDTH = 16


def encoder(seed=0, **options):
    torch.manual_seed(seed)
    made = TextEncoder(40, 12, depth=2, width=WIDTH, heads=2, **{"dropout": 0.0, **options})
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return made.eval()


IDS = torch.randint(0, 40, (2, 8), generator=torch.Generator().manual_seed(1))
MASK = torch.arange(8) < torch.tensor([[8], [6]])


def blocks(*sizes):
    """Phrases of these lengths, one behind the other: which token reads which, and positions that begin anew."""
    of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return of[:, None] == of, torch.cat([torch.arange(n) for n in sizes])


@pytest.mark.parametrize("masked", [False, True])
def test_who_may_read_all_reads_as_without_a_mask_of_its_own(masked):
    text, mask = encoder(), MASK if masked else None
    plain = text(IDS, mask).x
    own = text(IDS, mask, reads_BLL=torch.ones(2, 8, 8, dtype=torch.bool), positions_BL=torch.arange(8).expand(2, -1)).x
    assert torch.allclose(own[MASK], plain[MASK], atol=1e-5)


def test_phrases_in_one_prompt_are_as_if_they_stood_alone():
    text = encoder()
    reads, places = blocks(3, 1, 4)
    together = text(IDS, MASK, reads_BLL=reads.expand(2, -1, -1), positions_BL=places.expand(2, -1)).x
    for first, last in ((0, 3), (3, 4), (4, 8)):
        alone = text(IDS[:1, first:last]).x
        assert torch.allclose(together[:1, first:last], alone, atol=1e-5)
    assert torch.allclose(together[1, 4:6], text(IDS[1:, 4:6]).x[0], atol=1e-5)  # padding behind it is not read
    assert together.isfinite().all()


def test_a_token_that_reads_none_reads_itself():
    none = torch.zeros(2, 8, 8, dtype=torch.bool)
    assert torch.equal(own_reads(none, MASK), torch.eye(8, dtype=torch.bool).expand(2, -1, -1))
    every = own_reads(~none, MASK)
    assert every[1].tolist() == [[j < 6 or i == j for j in range(8)] for i in range(8)]
    assert torch.equal(own_reads(~none, None), ~none)


def test_gradients_stay_within_a_phrase():
    text = encoder().train()
    words = text.embeddings.words.weight
    ids = torch.arange(8)[None]
    reads, places = blocks(5, 3)
    text(ids, reads_BLL=reads[None], positions_BL=places[None]).x[0, 5:].sum().backward()
    touched = words.grad.abs().sum(1) > 0
    assert touched[:8].tolist() == [False] * 5 + [True] * 3


def test_it_is_transformers_bert_with_such_masks():
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=12, hidden_dropout_prob=0, attention_probs_dropout_prob=0, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.BertModel(config, add_pooling_layer=False).eval()
    ours = encoder(mlp_width=64)
    with torch.no_grad():
        theirs.embeddings.word_embeddings.weight.copy_(ours.embeddings.words.weight)
        theirs.embeddings.position_embeddings.weight.copy_(ours.embeddings.positions.weight)
        theirs.embeddings.token_type_embeddings.weight.copy_(ours.embeddings.types.weight)
        theirs.embeddings.LayerNorm.load_state_dict(ours.embeddings.norm.state_dict())
        for layer, block in zip(theirs.encoder.layer, ours.blocks, strict=True):
            own = layer.attention.self
            for part, weight, bias in zip(
                (own.query, own.key, own.value), *(p.chunk(3) for p in (block.attn.qkv.weight, block.attn.qkv.bias)),
                strict=True,
            ):  # fmt: skip
                part.weight.copy_(weight)
                part.bias.copy_(bias)
            layer.attention.output.dense.load_state_dict(block.attn.proj.state_dict())
            layer.attention.output.LayerNorm.load_state_dict(block.norm1.state_dict())
            first, second = (m for m in block.mlp.modules() if isinstance(m, torch.nn.Linear))
            layer.intermediate.dense.load_state_dict(first.state_dict())
            layer.output.dense.load_state_dict(second.state_dict())
            layer.output.LayerNorm.load_state_dict(block.norm2.state_dict())
        reads = own_reads(torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(2)) > 0.5, MASK)
        places = torch.randint(0, 12, (2, 8), generator=torch.Generator().manual_seed(3))
        added = torch.zeros(2, 1, 8, 8).masked_fill(~reads[:, None], -1e9)
        expected = theirs(input_ids=IDS, attention_mask=added, position_ids=places).last_hidden_state
        found = ours(IDS, MASK, reads_BLL=reads, positions_BL=places).x
    assert torch.allclose(found[MASK], expected[MASK], atol=1e-5)


def test_checkpointing_changes_nothing():
    reads, places = blocks(5, 3)
    more = {"reads_BLL": reads.expand(2, -1, -1), "positions_BL": places.expand(2, -1)}
    plain, again = encoder().train(), encoder(checkpointing=True).train()
    assert torch.equal(plain(IDS, MASK, **more).x, again(IDS, MASK, **more).x)


def test_positions_reach_as_far_as_the_model_has_them():
    with pytest.raises(UserError, match="13 tokens, but the model has 12"):
        encoder()(torch.zeros(1, 13, dtype=torch.int64))
    restarted = torch.zeros(1, 13, dtype=torch.int64)
    assert encoder()(restarted, positions_BL=restarted).x.shape == (1, 13, WIDTH)  # a prompt longer than they are
    last = torch.full((1, 3), 11)
    assert encoder()(torch.zeros(1, 3, dtype=torch.int64), positions_BL=last).x.shape == (1, 3, WIDTH)
    for wrong in (12, -1):
        with pytest.raises(UserError, match=rf"a token at position {wrong}, but the model has 12 positions, 0 to 11"):
            encoder()(restarted[:, :2], positions_BL=torch.tensor([[3, wrong]]))
