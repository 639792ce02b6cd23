"""Full marks for a program that passes the problem's tests, run in a sandbox that never holds what the tests expect.

Source: the code reward of DeepSeek-R1 (arXiv:2501.12948, section 2.2.2) and Open R1. Range: 0 or 1, or the share of
tests passed with `partial`. None when the tests cannot be read, the sandbox cannot be had, or the time of one
completion is over before a test has failed.

The program is the last fenced block in the language (or without one) after the think block. The tests are read from
the problem in the forms of the common data sets, which `aha.rewards.sandbox.formats` lists: stdin/stdout cases,
function calls, asserts. Each stdin case is a run of its own; calls share one, as the asserts of a test file do.

Choices. Printed text is right when it has the same lines, and as many, white space at their ends and blank lines at
the end aside; `tolerance` compares numbers, word by word, as numbers. Function results leave the box as plain data
and are compared outside: 1 is not True, 1 is 1.0, and a tuple is a list for tests that are JSON. Asserts are taken
apart, so that the calls run with the model's code and the comparison elsewhere; those that cannot be are no
verdict, or, with `in_box: true`, run beside the code, where a program that reads its own frames can forge them.
What a program prints, its exit code, or that it says OK is no proof of anything. Passing a limit, crashing and
being slow are the program's fault: 0.
"""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass

from aha.rewards.answers.extract import last_code
from aha.rewards.contract import Completion, Failure, Problem, Score
from aha.rewards.sandbox import PROTECTIONS, Limits, Ran, SandboxError, executor, require
from aha.rewards.sandbox.asserts import Unsplittable, judging_program, read_verdicts, split
from aha.rewards.sandbox.calls import calling, returned, same
from aha.rewards.sandbox.formats import Asserts, Functional, Stdio, read_tests

LANGUAGES = {"python": ("python", "py", "python3")}
"""Language -> other words for it behind a fence; a language that is not here has its own name only."""
SHORT = 0.05
"""Seconds in which no further case is begun."""


@dataclass(frozen=True)
class Params:
    language: str = "python"
    """The sandbox runs Python; a server behind `executor` what it has, for stdin/stdout cases."""
    timeout: float = 2.0
    """Seconds of processor time for one case; the clock on the wall may show three times that."""
    budget: float = 4.0
    """Seconds for all cases of a completion. Keep it below `reward_deadline`, which kills the judge and not the program."""
    memory_mb: int = 512
    partial: bool = False
    """Give the share of the tests that passed."""
    max_cases: int = 0
    """Run this many, spread evenly; 0 is all."""
    tolerance: float = 0.0
    in_box: bool = False
    """Run asserts that cannot be taken apart beside the model's code: weaker, see above."""
    executor: str = "sandbox"
    """Or the address of a Piston-style server, `http://…`."""
    protections: tuple[str, ...] = tuple(PROTECTIONS)
    """What the sandbox must prove before it runs anything."""

    def __post_init__(self) -> None:
        if self.executor != "sandbox" and not self.executor.startswith(("http://", "https://")):
            raise ValueError("executor: sandbox, or the http:// address of a Piston-style server")
        if self.executor == "sandbox" and self.language != "python":
            raise ValueError("language: python, or an executor that runs another")
        if unknown := set(self.protections) - set(PROTECTIONS):
            raise ValueError(f"protections among {', '.join(PROTECTIONS)}, not {', '.join(sorted(unknown))}")
        if min(self.timeout, self.budget, self.memory_mb) <= 0 or self.max_cases < 0:
            raise ValueError("timeout, budget and memory_mb above 0, max_cases not below")


def warm_up(params: Params) -> str:
    """Attack the sandbox once, before the workers are forked: without its protections the run does not begin."""
    if params.executor == "sandbox":
        return f"sandbox, {require(params.protections)}"
    return f"programs run at {params.executor}; what protects that machine is not known here"


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    try:
        tests = read_tests(problem.meta, problem.answer)
    except (ValueError, KeyError, TypeError) as error:
        return Score(None, f"the problem's tests cannot be read: {error}")
    program = last_code(completion, LANGUAGES.get(params.language, (params.language,)))
    if program is None or not program.strip():
        return Score(0.0, "no code block after the thinking")
    try:
        warm_up(params)
        runner = _Runner(params)
        if isinstance(tests, Stdio):
            return _stdio(program, tests, runner, params)
        if params.language != "python":
            return Score(None, f"tests that call functions are for python, not {params.language}")
        if isinstance(tests, Functional):
            return _functional(program, tests, runner, params)
        return _asserts(program, tests, runner, params)
    except SandboxError as error:
        return Failure(reason=str(error))


class _Runner:
    """Runs programs within what is left of a completion's time."""

    def __init__(self, params: Params):
        self._params = params
        self._execute = executor(params.executor, params.language)
        self._end = time.monotonic() + params.budget

    def run(self, program: str, stdin: str = "", cases: int = 1, output: int = 0) -> Ran | None:
        """A program with the time of so many cases; None when its completion's time was over first."""
        left = self._end - time.monotonic()
        if left < SHORT:
            return None
        cpu = min(self._params.timeout * cases, max(left, SHORT))
        limits = Limits(
            cpu=cpu, wall=min(3 * cpu, left), memory=self._params.memory_mb << 20, output=(4 << 20) + 2 * output
        )
        ran = self._execute(program, stdin.encode("utf-8", "surrogatepass"), limits)
        cut_short = ran.limit in ("wall", "cpu") and ran.exit_code is None and left < self._params.timeout
        return None if cut_short else ran


def _sampled(cases: tuple[tuple[object, ...], ...], most: int) -> list[int]:
    """The numbers of at most so many cases, spread evenly, the first among them."""
    count = len(cases)
    return list(range(count)) if not 0 < most < count else [number * count // most for number in range(most)]


def _verdict(problems: list[str], count: int, params: Params) -> Score:
    """From one text for each test that was run, empty when it passed, of `count`."""
    passed = problems.count("")
    first = next((number for number, problem in enumerate(problems, 1) if problem), 0)
    if not first and len(problems) < count:
        return Score(None, f"{passed} of {count} tests passed when the {params.budget:g} s of a completion were over")
    if not first:
        return Score(1.0, f"all {count} tests passed")
    value = passed / count if params.partial else 0.0
    return Score(value, f"test {first} of {count}: {problems[first - 1]}" + f"; {passed} passed" * params.partial)


def _crash(ran: Ran) -> str:
    """How a program ended that should have ended well, with its last words."""
    words = ran.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:120]
    return ran.how + (f": {words}" if words and ran.exit_code is not None else "")


# --- stdin and stdout ----------------------------------------------------------------------------------------------


def _stdio(program: str, tests: Stdio, runner: _Runner, params: Params) -> Score:
    chosen = _sampled(tests.cases, params.max_cases)
    problems: list[str] = []
    for number in chosen:
        given, expected = tests.cases[number]
        ran = runner.run(program, given, output=len(expected))
        if ran is None:
            break
        wrong = _crash(ran) if ran.exit_code != 0 else different(ran.stdout, expected, params.tolerance)
        problems.append(wrong)
        if wrong and not params.partial:
            break
    return _verdict(problems, len(chosen), params)


def different(printed: bytes, expected: str, tolerance: float = 0.0) -> str:
    """Where two texts differ, or an empty text.

    >>> different(b"1 \\n2\\n\\n", "1\\n2"), different(b"1", "1\\n2"), different(b"1.0", "1")
    ('', '1 lines, not 2', 'line 1 is wrong')
    >>> different(b"0.333333", "0.3333333", tolerance=1e-5)
    ''
    """
    ours, theirs = _lines(printed.decode("utf-8", "replace")), _lines(expected)
    if len(ours) != len(theirs):
        return f"{len(ours)} lines, not {len(theirs)}"
    for number, (line, wanted) in enumerate(zip(ours, theirs, strict=True), 1):
        if line != wanted and not (tolerance and _close(line.split(), wanted.split(), tolerance)):
            return f"line {number} is wrong"
    return ""


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _close(words: list[str], wanted: list[str], tolerance: float) -> bool:
    return len(words) == len(wanted) and all(
        word == other or _close_numbers(word, other, tolerance) for word, other in zip(words, wanted, strict=True)
    )


def _close_numbers(word: str, other: str, tolerance: float) -> bool:
    try:
        return math.isclose(float(word), float(other), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return False


# --- calls and asserts ---------------------------------------------------------------------------------------------


def _functional(program: str, tests: Functional, runner: _Runner, params: Params) -> Score:
    chosen = [tests.cases[number] for number in _sampled(tests.cases, params.max_cases)]
    harness, mark = calling(program, "", [(tests.name, list(arguments)) for arguments, _ in chosen])
    ran = runner.run(harness, cases=len(chosen))
    if ran is None:
        return _verdict([], len(chosen), params)
    results = returned(ran, mark, len(chosen))
    if results is None:
        return Score(0.0, f"no function to call: {_crash(ran)}")
    problems = [
        result.problem or ("" if same(result.value, expected, params.tolerance) else "wrong result")
        for result, (_, expected) in zip(results, chosen, strict=True)
    ]
    return _verdict(problems, len(problems), params)


def _asserts(program: str, tests: Asserts, runner: _Runner, params: Params) -> Score:
    try:
        parts = split(tests.text, tests.entry_point)
    except SyntaxError as error:
        return Score(None, f"the problem's tests are no Python: {error}")
    except Unsplittable as error:
        if params.in_box:
            return _beside(program, tests, runner, params)
        return Score(None, f"tests that cannot be taken apart (`in_box: true` runs them beside the code): {error}")
    harness, mark = calling(program, parts.setup, list(parts.calls))
    ran = runner.run(harness, cases=len(parts.calls))
    results = returned(ran, mark, len(parts.calls)) if ran else []
    if results is None:
        assert ran is not None
        return Score(0.0, f"no function to call: {_crash(ran)}")
    judged = runner.run(judging_program(parts, results)) if ran else None
    if judged is None:
        return _verdict([], len(parts.calls), params)
    try:
        problems = read_verdicts(judged, parts, results)
    except ValueError as error:
        return Score(None, f"the problem's tests are broken: {error}")
    return _verdict(problems, len(problems), params)


def _beside(program: str, tests: Asserts, runner: _Runner, params: Params) -> Score:
    """The weak way: tests and code in one process, which shows a secret word after the last test."""
    word = secrets.token_hex(16)
    called = f"\ncheck({tests.entry_point})" if tests.entry_point and "def check(" in tests.text else ""
    ran = runner.run(f"{program}\n{tests.text}{called}\nprint('\\n{word}')\n")
    if ran is None:
        return _verdict([], 1, params)
    passed = ran.exit_code == 0 and ran.stdout.decode("utf-8", "replace").rstrip().rpartition("\n")[2] == word
    return _verdict(["" if passed else _crash(ran)], 1, params)
