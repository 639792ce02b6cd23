"""Problems out of reasoning-gym's generators (arXiv:2505.24760), split honestly, and traces for the tasks we can solve.

A question belongs to the train or to the held-out split by a hash of its text, as in the arithmetic world; so whatever
the seeds and options of two sources are, no question stands on both sides. A trace is written by `solvers.py` and kept
only if its answer is the reference, word for word and in the eyes of the task's own verifier.
"""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

from aha.data.solvers import SOLVERS
from aha.data.sources import Row, Tally
from aha.errors import DataError
from aha.recipe.schema import Source
from aha.seeds import seed_of

SPLITS = ("train", "held_out")
OURS = ("split", "traces", "thinks")
"""The options that are not the generator's."""
ROWS = 1_000
"""How many rows a source gives that does not say."""
PATIENCE = 20
"""A task is exhausted when so many draws per question found, and a thousand more, have brought nothing new."""
BATCH = 512
"""Questions per generator: some tasks prepare all of theirs when they are made."""


def rows(source: Source, seed: int, tally: Tally | None = None) -> Iterator[Row]:
    """`source.rows` different questions of one split, each with a worked completion where `traces: true` asks for it.

    Raises DataError for an unknown task, for options it does not take, and when it does not hold that many questions.
    """
    task, wanted = source.reasoning_gym or "", source.rows or ROWS
    tally = tally or Tally(f"reasoning_gym:{task}")
    split, traces, thinks = _our_options(source)
    _check_task(task, traces)
    rng = random.Random(f"{seed}/{task}/teacher")
    given = 0
    # Traces begin elsewhere than bare questions do: GRPO shall not ask what distillation has just answered.
    start = f"{seed}/{task}/{split}/{'traces' if traces else 'questions'}"
    for verifier, entry in _different(source, split, start):
        row = {
            "prompt": entry["question"],
            "answer": entry["answer"],
            "id": f"{task}-{_digest(entry['question']).hex()[:12]}",
            "dataset": task,
            "entry": entry,
        }
        if traces:
            worked = SOLVERS[task](entry["metadata"])
            if worked.answer != row["answer"] or verifier.score_answer(worked.answer, entry) != 1.0:
                tally.unreadable(row["id"], f"our solver says {worked.answer!r}, the task {row['answer']!r}")
                continue
            row["completion"] = worked.write(think=rng.random() < thinks)
        yield row
        given += 1
        if given == wanted:
            return
    raise DataError(
        f"reasoning_gym:{task} with options {source.options} holds about {given} different {split} questions, "
        f"not {wanted}; lower rows, or widen its options"
    )


def held_out(question: str) -> bool:
    """One question in five, chosen by its text alone."""
    return _digest(question)[0] % 5 == 0


def _digest(question: str) -> bytes:
    return hashlib.sha256(question.encode()).digest()


def _different(source: Source, split: str, seed: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The questions of one split, each once; ends when the task seems to have no more."""
    options = {key: value for key, value in source.options.items() if key not in OURS}
    seen: set[str] = set()
    dry = 0
    for verifier, entry in _entries(source.reasoning_gym or "", options, seed):
        question = entry["question"]
        if question not in seen and held_out(question) == (split == "held_out"):
            seen.add(question)
            dry = 0
            yield verifier, entry
        elif (dry := dry + 1) > PATIENCE * len(seen) + 1_000:
            return


def _our_options(source: Source) -> tuple[str, bool, float]:
    where, options = f"reasoning_gym:{source.reasoning_gym}", source.options
    split, traces, thinks = options.get("split", "train"), options.get("traces", False), options.get("thinks", 1.0)
    if split not in SPLITS:
        raise DataError(f"{where} has no split {split!r}; expected {' or '.join(SPLITS)}")
    if not isinstance(traces, bool):
        raise DataError(f"{where}: traces is {traces!r}; expected true or false")
    if isinstance(thinks, bool) or not isinstance(thinks, (int, float)) or not 0 <= thinks <= 1:
        raise DataError(f"{where}: thinks is {thinks!r}; expected a share between 0 and 1")
    for key, instead in (("seed", "the recipe's seed decides it"), ("size", "rows says how many")):
        if key in options:
            raise DataError(f"{where}: {key} is no option here, {instead}")
    return split, traces, float(thinks)


def _check_task(task: str, traces: bool) -> None:
    if task not in DATASETS:
        nearest = difflib.get_close_matches(task, DATASETS, n=3)
        meant = f"; nearest: {', '.join(nearest)}" if nearest else ""
        raise DataError(f"reasoning_gym:{task} is none of reasoning-gym's {len(DATASETS)} tasks{meant}")
    if traces and task not in SOLVERS:
        raise DataError(f"reasoning_gym:{task} has no solver that could write traces; these have: {', '.join(SOLVERS)}")


def _entries(task: str, options: dict[str, Any], seed: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Endless questions of one task, each with the generator that can verify answers to it.

    Raises DataError when the task refuses its options, or when a generator gives up.
    """
    start = seed_of(seed) % 2**31
    while True:
        try:
            generator = reasoning_gym.create_dataset(task, seed=start, size=BATCH, **options)
        except (TypeError, ValueError, AssertionError) as error:
            raise DataError(
                f"reasoning_gym:{task} does not take options {options}: {_reason(task, options, error)}"
            ) from error
        for index in range(BATCH):
            try:
                entry = generator[index]
            except Exception as error:  # a hundred generators, each with its own way to give up
                raise DataError(
                    f"reasoning_gym:{task} with options {options}: {type(error).__name__}: {error}"
                ) from error
            # Some tasks only verify, and have no answer of their own to compare with.
            yield generator, entry | {"answer": "" if entry["answer"] is None else str(entry["answer"])}
        start += BATCH  # question i of a generator has the seed start + i


def _reason(task: str, options: dict[str, Any], error: Exception) -> str:
    """What a generator holds against its options; an unknown one is answered with those that exist."""
    known = [field.name for field in fields(DATASETS[task][1]) if field.name not in ("seed", "size")]
    for key in options:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            return f"{key} is none of {', '.join(known)}" + (f"; nearest: {nearest[0]}" if nearest else "")
    return str(error) or type(error).__name__
