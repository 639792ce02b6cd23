"""What an engine that disagrees with the trainer looks like: known faults, each held against what the engine said.

A fault is a set of weights: those before the last update, the base model without its adapter, the new ones with an old
output head. The trainer computes what an engine with these weights would say of the probes, and the nearest is named
if it explains the difference. This runs once, when the run is at its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from aha.models.load import read_weights
from aha.train.arrival import Sight
from aha.train.scoring import WITHOUT_ADAPTER
from aha.types import Checkpoint

if TYPE_CHECKING:
    from aha.train.probes import Probes

EXPLAINS, ALIKE = 0.5, 0.05
"""A fault explains a difference when it leaves less than this share of it; faults that leave alike are all named. (After
the first update a skipped sync and a missing adapter are the same weights.)"""


def name(probes: Probes, model: Any, first: Sight, before: Sight, now: Sight, exact: bool) -> list[str]:
    """The lines of an error message that say which fault this is, and on what evidence.

    Distances leave out what the engine rounded when it was seen first, or last: the pattern stays much the same.
    """
    if first is now:
        first = before = replace(now, engine=now.trainer)  # seen once: nothing is known of the rounding
    new = _distance(now, now.trainer, first)
    found = [(words, _distance(now, one, first, before)) for words, one in _faults(probes, model, before, now, exact)]
    nearest = min((away for _, away in found), default=new)
    if not found or nearest > EXPLAINS * new:
        tried = ", ".join(words for words, _ in found) or "none could be tried"
        return [f"  it looks like none of the known faults: {tried}"]
    names = [f"{words} ({away:.2g} nats from those)" for words, away in found if away <= nearest + ALIKE * new]
    return [f"  it looks like {'; or '.join(names)}; it is {new:.2g} nats from the new weights"]


def _distance(now: Sight, supposed: Tensor, *seen: Sight) -> float:
    """Root mean square, in nats, between what the engine says and what it would say with the weights supposed."""
    off = [now.engine - supposed - (one.engine - one.trainer) for one in seen]
    return min(one.square().mean().sqrt().item() for one in off)


def _faults(probes: Probes, model: Any, before: Sight, now: Sight, exact: bool) -> Iterator[tuple[str, Tensor]]:
    if hasattr(model, "disable_adapter") and exact:
        yield "a LoRA adapter that never arrived: the base model alone", probes.logprobs({WITHOUT_ADAPTER: now.engine})
    if before.step != now.step:
        yield f"a skipped sync: the weights of step {before.step}", before.trainer
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    folder = Path(str(base.name_or_path))
    if not exact or base is not model or not any(folder.glob("*.safetensors")):
        return
    start = dict(read_weights(Checkpoint(str(folder), "")))
    names = {id(module): name for name, module in base.named_modules()}
    head, embedding = (
        f"{names[id(one)]}.weight" for one in (base.get_output_embeddings(), base.get_input_embeddings())
    )
    if base.config.tie_word_embeddings:
        start[head] = start[embedding]
        yield "a stale tied head: the new weights under the first output head", probes.logprobs({head: start[head]})
    yield "an engine that never left the checkpoint it started from", probes.logprobs(start)
    for part in sorted({_part(name) for name in start}, key=lambda part: (len(part), part)):
        old = {name: weight for name, weight in start.items() if _part(name) == part}
        yield f"weights that came in part: {part} is the first one's", probes.logprobs(old)


def _part(name: str) -> str:
    """
    >>> _part("model.layers.3.mlp.up_proj.weight"), _part("lm_head.weight")
    ('model.layers.3', 'lm_head')
    """
    layer = re.match(r".*?\.layers\.\d+", name)
    return layer.group() if layer else name.removesuffix(".weight")
