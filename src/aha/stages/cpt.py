"""Stage 1, continued pretraining: next-token prediction on plain text.

Documents are cut to the sequence length and packed; each attends to itself only. Sources are mixed by weight: a
source of weight 0.2 gives a fifth of the stage's tokens, and repeats itself if it is too small for that.
"""

from __future__ import annotations

import random

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
    block = context.plan.recipe.cpt
    assert block is not None
    parent = context.receive()
    tokenizer = load_tokenizer(parent)
    weights = sum(source.weight for source in block.data)
    sequences: list[Tokens] = []
    tallies: list[Tally] = []
    for source in block.data:
        share = round(block.tokens * source.weight / weights)
        found, tally = _read(source, context.plan.recipe.seed, tokenizer, block, share)
        sequences += found
        tallies.append(tally)
    random.Random(context.plan.recipe.seed).shuffle(sequences)
    train_on(context, block, parent, sequences, tallies)


def _read(
    source: Source, seed: int, tokenizer: PreTrainedTokenizerBase, block: Cpt, budget: int
) -> tuple[list[Tokens], Tally]:
    """`budget` tokens of one source, each document ended by the end token."""
    tally = Tally(describe(source))
    sequences: list[Tokens] = []
    taken = 0
    for text in read_texts(source, seed, tally):
        ids = [*tokenizer(text, add_special_tokens=False, verbose=False).input_ids, tokenizer.eos_token_id]
        for piece in split_long(ids, block.max_tokens):
            sequences.append(Tokens(piece, piece))
        tally.kept += 1
        taken += len(ids)
        if taken >= budget:
            break
    tally.settle(source.bad_rows)
    if not sequences:
        raise DataError(f"{tally.source}: no text")
    return _repeat(sequences, taken, budget), tally


def _repeat(sequences: list[Tokens], taken: int, budget: int) -> list[Tokens]:
    """A source too small for its share is read again from the start, as often as it takes."""
    repeated = list(sequences)
    while taken < budget:
        for sequence in sequences:
            if taken >= budget:
                break
            repeated.append(sequence)
            taken += len(sequence.ids)
    return repeated
