"""The tests of a problem, in the forms that open data sets have them, as one of three things.

    stdin/stdout     [{"input": "3 4\\n", "output": "7\\n"}, …]                     (Codeforces' `official_tests`, LiveCodeBench)
                     {"test_cases": [{"input": …, "output": …}, …]}                (Open R1's `verification_info`)
                     {"inputs": ["3 4\\n", …], "outputs": ["7\\n", …]}              (APPS' and TACO's `input_output`)
    function calls   the same with `fn_name` beside it or in each case (`func_name` in LiveCodeBench's `metadata`); `input` is the
                     list of arguments, or text with one JSON value per line
    asserts          ["assert f(1) == 2", …]                                       (MBPP's `test_list`, with `test_setup_code`)
                     "def check(candidate): assert candidate(1) == 2"              (HumanEval's `test`, with `entry_point`)

Each may be given as JSON text. They stand in the column of that name, in a column `tests`, or in the problem's
answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COLUMNS = (
    "tests", "verification_info", "input_output", "test_cases", "official_tests", "private_test_cases", "public_test_cases",
    "test_list", "test",
)  # fmt: skip
"""Where tests are looked for, in this order, before the answer."""


@dataclass(frozen=True)
class Stdio:
    """What is typed, and what should be printed."""

    cases: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Functional:
    """A function's name (a method of `Solution`, where there is no such function), its arguments and what it should return."""

    name: str
    cases: tuple[tuple[list[Any], Any], ...]


@dataclass(frozen=True)
class Asserts:
    """Python statements, and the function that `candidate` stands for."""

    text: str
    entry_point: str = ""


Tests = Stdio | Functional | Asserts


def read_tests(meta: Mapping[str, Any], answer: str) -> Tests:
    """The tests of a problem. Raises ValueError when there are none, or none that can be read.

    >>> read_tests({}, '[{"input": "3 4", "output": "7"}]')
    Stdio(cases=(('3 4', '7'),))
    >>> read_tests({"input_output": {"inputs": [[3, 4]], "outputs": [7], "fn_name": "add"}}, "")
    Functional(name='add', cases=(([3, 4], 7),))
    """
    found = next((meta[column] for column in COLUMNS if meta.get(column)), answer)
    tests = _from_json(found)
    if isinstance(tests, str):
        return _asserts(tests, meta)
    name = _function(meta)
    if isinstance(tests, Mapping):
        name = tests.get("fn_name") or tests.get("entry_point") or name
        tests = tests["test_cases"] if "test_cases" in tests else tests.get("tests", tests)
        tests = _from_json(tests)
    if isinstance(tests, Mapping):
        tests = _paired(tests)
    if not isinstance(tests, list) or not tests:
        raise ValueError("no test cases")
    if all(isinstance(case, str) for case in tests):
        return _asserts("\n".join(tests), meta)
    if not all(isinstance(case, Mapping) and "input" in case and "output" in case for case in tests):
        raise ValueError("a case is {input: …, output: …}")
    kinds = {str(case.get("testtype") or case.get("type") or "") for case in tests}
    names = {str(case["fn_name"]) for case in tests if case.get("fn_name")} or {str(name)} - {""}
    if not names or kinds & {"stdin", "stdin_stdout"}:
        return Stdio(tuple((_text(case["input"]), _text(case["output"])) for case in tests))
    if len(names) > 1:
        raise ValueError(f"cases of {len(names)} functions")
    return Functional(names.pop(), tuple((_arguments(case["input"]), _expected(case)) for case in tests))


def _from_json(value: Any) -> Any:
    """A JSON text as what it says; any other text as it is."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _asserts(text: str, meta: Mapping[str, Any]) -> Asserts:
    if "assert" not in text:
        raise ValueError(f"neither cases nor asserts: {text[:40]!r}")
    imports = meta.get("test_imports") or []
    before = [*(imports if isinstance(imports, list) else [str(imports)]), str(meta.get("test_setup_code") or "")]
    return Asserts("\n".join([*filter(None, before), text]), str(meta.get("entry_point") or ""))


def _function(meta: Mapping[str, Any]) -> str:
    more = _from_json(meta.get("metadata"))
    named = more.get("func_name") if isinstance(more, Mapping) else None
    return str(meta.get("fn_name") or meta.get("func_name") or named or "")


def _paired(tests: Mapping[str, Any]) -> list[dict[str, Any]]:
    """APPS' two lists, as cases."""
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise ValueError("`inputs` and `outputs` are two lists of one length")
    return [{"input": given, "output": wanted} for given, wanted in zip(inputs, outputs, strict=True)]


def _text(value: Any) -> str:
    """Some data sets keep a text as the list of its lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _arguments(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [json.loads(line) for line in str(value).splitlines() if line.strip()]


def _expected(case: Mapping[str, Any]) -> Any:
    """Where the arguments are JSON text, so is the result."""
    return _from_json(case["output"]) if isinstance(case["input"], str) else case["output"]
