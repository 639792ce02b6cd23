"""Reading a run directory, forgivingly: what is there becomes a `Run`, what is not there becomes an empty value.

Nothing here raises because of what a file holds. A line that is no JSON object is counted and passed over, `null`,
`NaN` and absurdly large numbers are all "no value", and no text leaves `clean` that a browser or an editor could
choke on.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aha.metrics import short_names
from aha.types import Estimate

LABELS = {"base": "Base", "1-cpt": "CPT", "2-distill": "Distill", "3-grpo": "GRPO"}
"""What a reader sees for each directory, in the order of the story."""

ABSURD = 1e15
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    return chr(0x2400 + code) if code < 0x20 else f"\\u{code:04x}"


def clean(text: object) -> str:
    r"""Any object as text that is valid UTF-8 and reads left to right; what was not is shown, not dropped.

    >>> clean("a\x00b\ud800c\u202ed")
    'a␀b\\ud800c\\u202ed'
    """
    return _UNPRINTABLE.sub(_visible, str(text).replace("\r\n", "\n"))


def number(value: object) -> float | None:
    """A finite number of a sane size, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -ABSURD < value < ABSURD else None  # a NaN fails both comparisons


def estimate(value: object) -> Estimate | None:
    """An estimate as results.json holds it, or None when it is not one."""
    found = [number(mapping(value).get(key)) for key in ("value", "low", "high")]
    middle, low, high = found
    if middle is None:
        return None
    return Estimate(middle, middle if low is None else low, middle if high is None else high)


def mapping(value: object) -> dict[str, Any]:
    """The value when it is a JSON object, else an empty one."""
    return {clean(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def listing(value: object) -> list[Any]:
    """The value when it is a JSON list, else an empty one."""
    return value if isinstance(value, list) else []


def read_text(path: Path) -> str:
    """A file's text, whatever its bytes; empty when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "backslashreplace")
    except OSError:
        return ""


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty when the file is missing or is not one."""
    try:
        return mapping(json.loads(read_text(path)))
    except (ValueError, RecursionError):
        return {}


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a JSON-lines file, and how many of its lines were not objects."""
    rows, torn = [], 0
    for line in read_text(path).split("\n"):  # not splitlines(): JSON text may hold U+2028 as it is
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            torn += 1
    return rows, torn


@dataclass(frozen=True)
class Series:
    """One metric over the steps at which it was logged; no value is NaN, so that a curve breaks there."""

    steps: list[float]
    values: list[float]

    @cached_property
    def finite(self) -> list[float]:
        """The values that are values."""
        return [value for value in self.values if not math.isnan(value)]

    @property
    def mean(self) -> float | None:
        """The mean over the steps that have a value."""
        return sum(self.finite) / len(self.finite) if self.finite else None

    def ends(self) -> tuple[float, float] | None:
        """The means over the first and the last tenth (at least one step each)."""
        if len(self.finite) < 2:
            return None
        tenth = max(1, len(self.finite) // 10)
        return sum(self.finite[:tenth]) / tenth, sum(self.finite[-tenth:]) / tenth


@dataclass(frozen=True)
class Stage:
    """What one stage left behind."""

    directory: str
    plan: dict[str, Any]
    metrics: list[dict[str, Any]]
    torn_lines: int
    kernels: dict[str, Any]
    done: dict[str, Any]
    rollouts: list[Path]

    @property
    def label(self) -> str:
        return LABELS[self.directory]

    @property
    def started(self) -> bool:
        return bool(self.metrics or self.done or self.kernels or self.rollouts)

    @property
    def last_step(self) -> int:
        return max((int(number(row.get("step")) or 0) for row in self.metrics), default=0)

    @property
    def planned_steps(self) -> int | None:
        steps = number(self.plan.get("steps"))
        return None if steps is None else int(steps)

    def series(self, key: str) -> Series:
        """One metric in the order of its steps; a step logged twice counts once, as last written."""
        found: dict[float, float] = {}
        for row in self.metrics:
            step = number(row.get("step"))
            if step is not None and key in row:
                value = number(row[key])
                found[step] = math.nan if value is None else value
        steps = sorted(found)
        return Series(steps, [found[step] for step in steps])

    def keys(self, prefix: str) -> list[str]:
        """The metrics whose names start with `prefix`, in the order of their first appearance."""
        return list(dict.fromkeys(clean(key) for row in self.metrics for key in row if key.startswith(prefix)))


@dataclass(frozen=True)
class Run:
    """A run directory as it was found."""

    root: Path
    plan: dict[str, Any]
    recipe: dict[str, Any]
    recipe_text: str
    environment: dict[str, Any]
    results: dict[str, Any]
    stages: dict[str, Stage]
    eval_files: list[str]

    @property
    def name(self) -> str:
        return clean(self.plan.get("name") or self.recipe.get("name") or self.root.resolve().name)

    @property
    def model(self) -> str:
        """The model in words a reader knows."""
        block = mapping(self.recipe.get("model"))
        scratch = mapping(block.get("from_scratch"))
        if scratch:
            shape = f"{scratch.get('layers', '?')} layers, hidden size {scratch.get('hidden_size', '?')}"
            return clean(f"{scratch.get('architecture', 'model')} from scratch ({shape})")
        path = block.get("path") or block.get("wheel") or self.recipe.get("model")
        return clean(path) if isinstance(path, str) and path else "model not recorded"

    def outcome(self, stage: str, task: str) -> dict[str, Any]:
        """What the evaluation of one stage found on one task; empty when it was not evaluated."""
        return mapping(mapping(mapping(self.results.get(stage)).get("tasks")).get(task))

    def pass_at_1(self, stage: str, task: str) -> Estimate | None:
        return estimate(self.outcome(stage, task).get("pass_at_1"))

    @cached_property
    def evaluated(self) -> list[str]:
        """The stages that have results, in the order of the story."""
        return [stage for stage in LABELS if mapping(mapping(self.results.get(stage)).get("tasks"))]

    @cached_property
    def _task_blocks(self) -> list[dict[str, Any]]:
        return [mapping(task) for task in listing(mapping(self.recipe.get("eval")).get("tasks"))]

    def asked(self, stage: str, task: str) -> bool:
        """Whether the recipe has this checkpoint asked this task: its `stages` name those that can be, absent all."""
        limits = [block["stages"] for block in self._task_blocks if block.get("name") == task and block.get("stages")]
        name = stage.partition("-")[2] or stage
        return not limits or name in listing(limits[0])

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks with a result, those that the chat model answers first, else in the recipe's order."""
        blocks = sorted(self._task_blocks, key=lambda block: bool(block.get("raw")))
        asked = [clean(block.get("name")) for block in blocks]
        found = [task for stage in self.evaluated for task in mapping(self.results[stage]["tasks"])]
        return [task for task in dict.fromkeys([*asked, *found]) if task in found]

    @cached_property
    def grader(self) -> str | None:
        """The metric name of the reward that says "correct": the evaluation's grader, else the first reward of GRPO."""
        rewards = mapping(mapping(self.recipe.get("grpo")).get("rewards"))
        graders = [block.get("grader") for block in self._task_blocks]
        return next((short_names(rewards)[str(name)] for name in [*graders, *rewards] if name in rewards), None)


def _read_stage(root: Path, directory: str, plan: dict[str, Any]) -> Stage:
    folder = root / directory
    metrics, torn = read_lines(folder / "metrics.jsonl")
    return Stage(
        directory=directory,
        plan=plan,
        metrics=metrics,
        torn_lines=torn,
        kernels=read_object(folder / "kernels.json"),
        done=read_object(folder / "done.json"),
        rollouts=sorted((folder / "rollouts").glob("step-*.jsonl")),
    )


def _planned(plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    blocks: Iterable[dict[str, Any]] = (mapping(block) for block in listing(plan.get("stages")))
    return {str(block.get("directory")): block for block in blocks}


def read_run(root: Path) -> Run:
    """Everything the report needs of a run directory, apart from the text of its completions."""
    plan = read_object(root / "plan.json")
    planned = _planned(plan)
    stages = {
        directory: _read_stage(root, directory, planned.get(directory, {}))
        for directory in LABELS
        if directory in planned or (root / directory).is_dir()
    }
    return Run(
        root=root,
        plan=plan,
        recipe=mapping(plan.get("recipe")),
        recipe_text=read_text(root / "recipe.yaml"),
        environment=read_object(root / "environment.json"),
        results=read_object(root / "results.json"),
        stages=stages,
        eval_files=sorted(str(path.relative_to(root)) for path in (root / "eval").glob("*/*.jsonl")),
    )
