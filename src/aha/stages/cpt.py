"""Stage 1, continued pretraining: next-token prediction on plain text.

Documents are cut to the sequence length and packed; each attends to itself only. Sources are mixed by weight: a
source of weight 0.2 gives a fifth of the stage's tokens, and repeats itself if it is too small for that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain

from transformers import PreTrainedTokenizerBase

from aha.data.packing import Tokens, split_long
from aha.data.sources import Tally, describe, read_texts
from aha.errors import DataError
from aha.models.load import load_tokenizer
from aha.recipe.schema import Cpt, Source
from aha.stages.context import Context
from aha.stages.supervised import train_on


def run(context: Context) -> None:
    """Train on `cpt.tokens` tokens of text."""
    block, seed = context.plan.recipe.cpt, context.plan.recipe.seed
    assert block is not None
    parent = context.receive()
    tokenizer = load_tokenizer(parent)
    tallies = [Tally(describe(source)) for source in block.data]
    weights = sum(source.weight for source in block.data)
    sequences = chain.from_iterable(
        _read(source, seed, tokenizer, block, round(block.tokens * source.weight / weights), tally)
        for source, tally in zip(block.data, tallies, strict=True)
    )
    train_on(context, block, parent, sequences, tallies, random.Random(seed))


def _read(
    source: Source, seed: int, tokenizer: PreTrainedTokenizerBase, block: Cpt, budget: int, tally: Tally
) -> Iterator[Tokens]:
    """`budget` tokens of one source; one that is too small for its share is read again, as often as it takes."""
    taken = 0
    for ids in _documents(source, seed, tokenizer, tally):
        taken += len(ids)
        yield from (Tokens(piece, piece) for piece in split_long(ids, block.max_tokens))
        if taken >= budget:
            break
    tally.settle(source.bad_rows)
    if not taken:
        raise DataError(f"{tally.source}: no text")
    while taken < budget:
        for ids in _documents(source, seed, tokenizer, Tally(tally.source)):
            for piece in split_long(ids, block.max_tokens):
                if taken >= budget:
                    return
                taken += len(piece)
                yield Tokens(piece, piece)


def _documents(source: Source, seed: int, tokenizer: PreTrainedTokenizerBase, tally: Tally) -> Iterator[list[int]]:
    """Each document as token ids, ended by the end token."""
    for text in read_texts(source, seed, tally):
        tally.kept += 1
        yield [*tokenizer(text, add_special_tokens=False, verbose=False).input_ids, tokenizer.eos_token_id]
