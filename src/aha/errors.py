"""Errors a person can act on: where it was, what was given, what was expected, the nearest valid value.

Every error that a user can cause is an `AhaError`; the command line prints it without a traceback and exits with
its `exit_code`. Anything else that reaches the command line is our bug, and keeps its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong in something a person wrote.

    >>> print(Mistake("tiny.yaml:14  grpo.stepz", "stepz", "one of: steps, seed", "steps"))
    tiny.yaml:14  grpo.stepz
      given     stepz
      expected  one of: steps, seed
      nearest   steps
    """

    where: str
    given: str
    expected: str
    nearest: str | None = None

    def __str__(self) -> str:
        lines = [self.where, f"  given     {self.given}", f"  expected  {self.expected}"]
        if self.nearest is not None:
            lines.append(f"  nearest   {self.nearest}")
        return "\n".join(lines)


class AhaError(Exception):
    """The base of all errors that a person can act on."""

    exit_code = 1


class RecipeError(AhaError):
    """What is wrong in a recipe, all of it at once."""

    exit_code = 2

    def __init__(self, *mistakes: Mistake):
        self.mistakes = mistakes
        super().__init__("\n\n".join(str(mistake) for mistake in mistakes))


class DataError(AhaError):
    """Data that cannot be trained on: missing, empty, broken beyond its budget, or too long for the model."""


class CheckpointError(AhaError):
    """A checkpoint that is missing, damaged, or not what the recipe says it is."""


class RunDirError(AhaError):
    """A run directory that is in use, or that belongs to a different recipe."""


class RewardError(AhaError):
    """A reward that cannot be loaded, or that fails more often than its budget allows."""


class KernelError(AhaError):
    """A fused kernel that was demanded and cannot be had, or that disagrees with the plain computation."""


class EngineError(AhaError):
    """A rollout engine that cannot start, or whose weights are not the trainer's."""


class StageError(AhaError):
    """A stage that ended without finishing."""


class SlurmError(AhaError):
    """Slurm is not there, refuses, or is busy with the same run already."""
