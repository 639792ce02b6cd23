"""A reward on a file of completions: a verdict for each row, with its reason and its seconds.

While it works, verdicts are kept in `OUTPUT.<hash>.part`; the hash is over the rows, the reward's code and its
arguments. So the same command goes on where it was interrupted, a changed one starts over, and OUTPUT itself is only
ever whole.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from aha.data.sources import Row, Tally, read_rows
from aha.errors import DataError
from aha.recipe.schema import Source
from aha.rewards.load import load_reward, locate
from aha.rewards.scorer import Scorer, Verdict
from aha.rundir import read_jsonl, write_jsonl
from aha.types import Completion, Problem

BATCH = 64
"""Completions between two writes."""


@dataclass(frozen=True)
class Case:
    """A row that can be judged."""

    id: str
    problem: Problem
    completion: Completion


class FileScoring:
    """Scores the rows of `source` (id, prompt, answer or gold, completion) with one reward into `output`.

    A row may carry `tokens`, `truncated` and `prompt_tail`, and whatever else the reward reads of its problem. Rows that
    cannot be judged are in `tally`, with where they stood and why. A reward that compares the completions of a group
    sees neighbouring rows with one prompt and one answer together. Raises RecipeError for a reward that is not there,
    DataError for rows that are not.
    """

    def __init__(
        self,
        reward: str,
        arguments: Mapping[str, Any],
        source: Path,
        output: Path,
        deadline: float = 5.0,
        workers: int = 2,
    ):
        self._reward, self._arguments, self._source, self._output = reward, dict(arguments), source, output
        self._deadline, self._workers = deadline, workers
        self._whole_group = load_reward(reward, arguments).whole_group
        if not source.is_file():
            raise DataError(
                f"{source}: no such file; expected JSON lines with id, prompt, answer (or gold), completion"
            )
        self.rows = sum(bool(line.strip()) for line in source.open("rb"))
        self.tally = Tally(str(source))
        self.part = output.with_name(f"{output.name}.{self._signature()}.part")
        self.resumed = len(read_jsonl(self.part))
        """Verdicts that an interrupted run of the same command has left."""
        self.replaced = [path for path in output.parent.glob(f"{output.name}.*.part") if path != self.part]
        """What a different command has left unfinished; it is deleted."""

    def run(self) -> Iterator[int]:
        """Judge; yields how many rows have been dealt with. At the end the output is in place."""
        self._output.parent.mkdir(parents=True, exist_ok=True)
        for path in self.replaced:
            path.unlink(missing_ok=True)
        rewards = {self._reward: {"weight": 1.0, **self._arguments}}
        kept, seen, going_on = read_jsonl(self.part), 0, False
        with Scorer(rewards, self._deadline, self._workers, failure_budget=1.0) as scorer:
            for batch in self._batches():
                start, seen = seen, seen + len(batch)
                if seen > len(kept):
                    if not going_on:
                        write_jsonl(self.part, kept[:start])  # a batch that was cut short is judged again
                        going_on = True
                    self._judge(scorer, batch)
                yield seen + self.tally.bad
        if not seen:
            self.tally.settle(1.0)  # raises: there is nothing that could be judged
        os.replace(self.part, self._output)

    def _judge(self, scorer: Scorer, batch: list[Case]) -> None:
        size = len(batch) if self._whole_group else 1
        judged = scorer.score([case.completion for case in batch], [case.problem for case in batch], size)
        said = [verdict for one in judged for verdict in one.verdicts.values()]  # of one reward
        lines = [_line(case, verdict) for case, verdict in zip(batch, said, strict=True)]
        with self.part.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def _batches(self) -> Iterator[list[Case]]:
        """Cases to be judged together: groups where the reward compares, else so many at a time."""
        if self._whole_group:
            for _, group in groupby(self._cases(), key=lambda case: (case.problem.prompt, case.problem.answer)):
                yield list(group)
            return
        batch: list[Case] = []
        for case in self._cases():
            batch.append(case)
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _cases(self) -> Iterator[Case]:
        for number, row in enumerate(read_rows(Source(path=str(self._source)), 0, self.tally), 1):
            missing = _missing(row)
            if missing:
                self.tally.spoil(f"{self._source} row {row.get('id', number)}", missing)
            else:
                self.tally.kept += 1
                yield _case(row, number)

    def _signature(self) -> str:
        found = hashlib.sha256(json.dumps([self._reward, self._arguments], sort_keys=True).encode())
        with self._source.open("rb") as file:
            while piece := file.read(1 << 20):
                found.update(piece)
        found.update(_code(self._reward))
        return found.hexdigest()[:12]


def _missing(row: Row) -> str | None:
    """What a row lacks to be judged."""
    if not isinstance(row.get("completion"), str):
        return f"no completion (text); its columns are {', '.join(map(str, row))}"
    if not isinstance(row.get("prompt"), str):
        return f"no prompt (text); its columns are {', '.join(map(str, row))}"
    if row.get("answer", row.get("gold")) is None:
        return f"no answer, and no gold; its columns are {', '.join(map(str, row))}"
    return None


def _case(row: Row, number: int) -> Case:
    answer = row["answer"] if row.get("answer") is not None else row["gold"]
    name = str(row.get("id", f"row-{number}"))
    tokens, tail = row.get("tokens"), row.get("prompt_tail")
    completion = Completion(
        row["completion"],
        tokens if isinstance(tokens, int) else 0,
        tail if isinstance(tail, str) else "",
        row.get("truncated") is True,
    )
    return Case(name, Problem(row["prompt"], str(answer), name, row), completion)


def _line(case: Case, verdict: Verdict) -> dict[str, Any]:
    return {
        "id": case.id,
        "value": verdict.value,
        "reason": verdict.reason,
        "seconds": round(verdict.seconds, 6),
        "failed": verdict.failed,
    }


def _code(reward: str) -> bytes:
    """The file that a reward's name leads to."""
    source, _ = locate(reward, reward)
    if isinstance(source, Path):
        return source.read_bytes()
    found = importlib.util.find_spec(source)
    return Path(found.origin).read_bytes() if found and found.origin and Path(found.origin).is_file() else b""


@dataclass(frozen=True)
class Summary:
    """What the verdicts of a file come to."""

    judged: int
    mean: float | None
    declined: int
    failed: int


def summary_of(output: Path) -> Summary:
    """The verdicts of a finished file in four numbers."""
    lines = read_jsonl(output)
    values = [line["value"] for line in lines if line["value"] is not None]
    failed = sum(line["failed"] for line in lines)
    mean = sum(values) / len(values) if values else None
    return Summary(len(lines), mean, len(lines) - len(values) - failed, failed)
