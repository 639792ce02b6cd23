"""Stage 2, distillation: supervised fine-tuning on a teacher's traces (DeepSeek-R1, arXiv:2501.12948, section 2.4).

The loss is on the assistant's tokens only. A trace longer than `max_tokens` is dropped and counted: cut in two it would
teach a model to think without an answer.
"""

from __future__ import annotations

from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from aha.data.chat import training_ids
from aha.data.packing import Tokens
from aha.data.sources import Tally, describe, read_conversations
from aha.errors import DataError
from aha.models.load import load_tokenizer
from aha.recipe.schema import Distill
from aha.stages.context import Context
from aha.stages.supervised import train_on


def run(context: Context) -> None:
    """Train on the recipe's traces for `epochs` or `steps`."""
    block = context.plan.recipe.distill
    assert block is not None
    parent = context.receive()
    tallies = [Tally(describe(source)) for source in block.data]
    train_on(context, block, parent, _read(context, block, load_tokenizer(parent), tallies), tallies)


def _read(
    context: Context, block: Distill, tokenizer: PreTrainedTokenizerBase, tallies: list[Tally]
) -> Iterator[Tokens]:
    """The traces of all sources that are no longer than `max_tokens`."""
    recipe = context.plan.recipe
    for source, tally in zip(block.data, tallies, strict=True):
        for messages in read_conversations(source, recipe.seed, recipe.chat.system, tally):
            try:
                ids, labels = training_ids(tokenizer, messages)
            except (DataError, KeyError, TypeError, ValueError) as error:
                tally.spoil(f"{tally.source} row {tally.read}", str(error)[:200])
                continue
            if len(ids) > block.max_tokens:
                tally.too_long += 1
            else:
                tally.kept += 1
                yield Tokens(ids, labels)
        tally.settle(source.bad_rows)
        if tally.kept == 0:
            raise DataError(
                f"{tally.source}: all {tally.too_long} traces are longer than distill.max_tokens {block.max_tokens}"
            )
        if tally.too_long:
            context.say(
                f"{tally.source}: {tally.too_long} of {tally.read} traces are longer than {block.max_tokens} tokens and were dropped"
            )
