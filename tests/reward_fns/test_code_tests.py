"""Right programs pass in every form of test, wrong ones name the case, and no trick earns anything."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aha.errors import RecipeError
from aha.rewards.contract import Completion, Failure, Problem, Score
from aha.rewards.load import load_reward
from aha.rewards.sandbox import SandboxError, run
from aha.rewards.sandbox.asserts import Unsplittable, split
from aha.rewards.scorer import Scorer

try:
    run("")
    WHY_NOT = ""
except SandboxError as error:
    WHY_NOT = str(error)
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no sandbox on this machine: {WHY_NOT}")

ADD = "def add(a, b):\n    return a + b\n"
SUM = "print(sum(map(int, input().split())))"
STDIO = [{"input": "3 4\n", "output": "7\n"}, {"input": "1 1\n", "output": "2\n"}]
ASSERTS = "assert add(3, 4) == 7\nassert add(1, 1) == 2"
LOOSE: dict[str, Any] = {"timeout": 20.0, "budget": 100.0}
"""Nothing here is about time, unless it says so: a busy machine may take its own."""


def judge(code: str, tests: Any = "", meta: dict[str, Any] | None = None, **params: Any) -> Score:
    text = f"<think>\n```python\nprint('draft')\n```\n</think>Here:\n```python\n{code}\n```\nDone."
    answer = tests if isinstance(tests, str) else json.dumps(tests)
    reward = load_reward("code_tests", {**LOOSE, **params})
    return reward.score_group([Completion(text)], Problem("?", answer, "p", meta or {}))[0]


# --- forms of tests ------------------------------------------------------------------------------------------------

FORMS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "cases": (SUM, STDIO, {}),
    "verification_info": (SUM, "", {"verification_info": {"language": "python", "test_cases": [
        {**case, "type": "stdin_stdout", "fn_name": None} for case in STDIO]}}),
    "input_output": (SUM, "", {"input_output": json.dumps({"inputs": ["3 4\n", "1 1\n"], "outputs": ["7\n", "2\n"]})}),
    "lists of lines": (SUM, "", {"input_output": {"inputs": [["3 4"], ["1 1"]], "outputs": [["7"], ["2"]]}}),
    "official_tests": (SUM, "", {"official_tests": STDIO}),
    "testtype stdin": (SUM, "", {"public_test_cases": json.dumps([{**case, "testtype": "stdin"} for case in STDIO])}),
    "testtype functional": (ADD, "", {
        "public_test_cases": json.dumps([{"input": "3\n4", "output": "7", "testtype": "functional"},
                                         {"input": "1\n1", "output": "2", "testtype": "functional"}]),
        "metadata": json.dumps({"func_name": "add"})}),
    "fn_name": (ADD, {"inputs": [[3, 4], [1, 1]], "outputs": [7, 2], "fn_name": "add"}, {}),
    "fn_name in a class": ("class Solution:\n    def add(self, a, b):\n        return a + b",
                           {"inputs": [[3, 4], [1, 1]], "outputs": [7, 2], "fn_name": "add"}, {}),
    "asserts": (ADD, ASSERTS, {}),
    "test_list": (ADD, "", {"test_list": ASSERTS.split("\n"), "test_setup_code": "import math"}),
    "check": (ADD, "", {"test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(3, 4) == 7\n"
                                "    assert abs(candidate(1.0, 1.0) - 2) < 1e-6, 'no'\n", "entry_point": "add"}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_passes_and_fails(form: str) -> None:
    code, tests, meta = FORMS[form]
    assert judge(code, tests, meta) == Score(1.0, "all 2 tests passed")
    wrong = judge(code.replace("a + b", "7").replace("sum(map(int, input().split()))", "7"), tests, meta)
    assert wrong.value == 0.0 and "test 2 of 2: " in wrong.reason and "wrong" in wrong.reason


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("", "neither cases nor asserts"),
        ("42", "no test cases"),
        ([{"input": "1"}], "a case is"),
        ({"inputs": ["1"], "outputs": []}, "one length"),
        ("assert add(", "no Python"),
        ("for n in range(3):\n    assert add(n, n) == 2 * n", "taken apart"),
        ("import nowhere\nassert add(1, 1) == nowhere.two", "broken"),
    ],
)
def test_tests_that_cannot_be_used_are_no_verdict(tests: Any, reason: str) -> None:
    score = judge(ADD, tests)
    assert score.value is None and not isinstance(score, Failure) and reason in score.reason


# --- wrong programs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print(7)", "test 2 of 2: line 1 is wrong"),
        ("print(7)\nprint(2)", "test 1 of 2: 2 lines, not 1"),
        ("", "no code block"),
        ("1 +", "test 1 of 2: exit code 1: SyntaxError"),
        ("raise ValueError('hm')", "test 1 of 2: exit code 1: ValueError: hm"),
        ("import os\nos._exit(0)", "test 1 of 2: line 1 is wrong"),
        (f"{SUM}\nraise SystemExit(1)", "test 1 of 2: exit code 1"),
        ("bytearray(1 << 40)", "at its memory limit"),
    ],
)
def test_the_reason_names_the_case(code: str, reason: str) -> None:
    score = judge(code, STDIO)
    assert score.value == 0.0 and reason in score.reason, score


def test_a_correct_beginning_is_not_enough() -> None:
    tests = [{"input": "", "output": "1\n2\n3"}]
    assert judge("print(1)\nprint(2)", tests).reason == "test 1 of 1: 2 lines, not 3"
    assert judge("print(1)\nprint(2)\nprint(3)\nprint(4)", tests).reason == "test 1 of 1: 4 lines, not 3"
    assert judge("print('1 \\r')\nprint(2)\nprint(3)\nprint()", tests).value == 1.0


def test_numbers_are_text_unless_a_tolerance_is_asked_for() -> None:
    tests = [{"input": "", "output": "0.3333 x"}]
    assert judge("print(1 / 3, 'x')", tests).value == 0.0
    assert judge("print(1 / 3, 'x')", tests, tolerance=1e-3).value == 1.0
    assert judge("print(1 / 3, 'y')", tests, tolerance=1e-3).value == 0.0
    assert judge("print(float('nan'), 'x')", tests, tolerance=1e-3).value == 0.0


def test_a_share_can_be_asked_for() -> None:
    assert judge("print(7)", STDIO, partial=True) == Score(0.5, "test 2 of 2: line 1 is wrong; 1 passed")
    assert judge("def add(a, b): return 7", ASSERTS, partial=True).value == 0.5


def test_fewer_cases_can_be_asked_for() -> None:
    many = [{"input": f"{n} 0", "output": str(n)} for n in range(50)]
    assert judge(SUM, many, max_cases=5).reason == "all 5 tests passed"


def test_being_slow_is_the_programs_fault_and_many_tests_are_not() -> None:
    spin, sleep = "while True: pass", "import time\ntime.sleep(99)"
    assert judge(spin, STDIO, timeout=0.3, budget=60.0).reason == "test 1 of 2: stopped by its cpu limit"
    assert judge(sleep, STDIO, timeout=0.2, budget=60.0).reason == "test 1 of 2: stopped by its wall limit"
    many = [{"input": "3 4", "output": "7"}] * 10_000
    score = judge(SUM, many, timeout=0.5, budget=2.0)
    assert score.value is None and "of 10000 tests passed when the 2 s" in score.reason


# --- forgeries -----------------------------------------------------------------------------------------------------

ANY = "class Any(int):\n    def __eq__(self, other): return True\n    __ne__ = lambda self, other: False\n    __hash__ = int.__hash__\n"
FORGED = {
    "early exit": "exit(0)",
    "early exit in the call": "import os\ndef add(a, b): os._exit(0)",
    "sys.exit in the call": "import sys\ndef add(a, b): sys.exit(0)",
    "an object that equals everything": f"{ANY}def add(a, b): return Any()",
    "a plain object that equals everything": "class X:\n    __eq__ = lambda s, o: True\ndef add(a, b): return X()",
    "a frame walk": "import sys\ndef add(a, b):\n    frame, found = sys._getframe(), []\n    while frame:\n"
    "        for name in ('verdicts', 'results', 'passed'):\n            frame.f_locals.get(name, found).append('passed')\n"
    "        frame = frame.f_back\n    return 0",
    "a look for the expected values": "import gc, sys\ndef add(a, b):\n    frame = sys._getframe()\n    while frame:\n"
    "        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n"
    "            if '=' * 2 + ' 7' in str(value): return {7: 7, 2: 2}[a + b]\n        frame = frame.f_back\n    return 0",
    "a patched json": "import json\njson.dumps = lambda *a, **k: '\"passed\"'\njson.JSONEncoder = None\ndef add(a, b): return 0",
    "a patched builtin": "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.AssertionError = Warning\n"
    "def add(a, b): return 0",
    "printed results": "print('OK', 'passed', '1.0', flush=True)\ndef add(a, b): return 0",
    "a second verdict at exit": "import atexit\natexit.register(lambda: print('passed', 7, 2))\ndef add(a, b): return 0",
    "no function": "x = 1",
    "an answer that raises when it is read": "class X(list):\n    def __iter__(self): raise SystemExit(0)\n"
    "def add(a, b): return X()",
    "a thread that ends it": "import os, threading\ndef add(a, b):\n    threading.Thread(target=os._exit, args=(0,)).start()\n"
    "    return 0",
    "the optimiser": "import sys, os\nif __debug__: os.execv(sys.executable, [sys.executable, '-O', '-I', '/program.py'])\n"
    "def add(a, b): return 0",
    "a deep answer": "def add(a, b):\n    x = []\n    for _ in range(100000): x = [x]\n    return x",
    "a results line of its own": "import sys\nframe = sys._getframe()\nwhile 'mark' not in frame.f_locals: frame = frame.f_back\n"
    "print()\nfor text in ('[\"ready\", null]', '[\"passed\", 1]', '[\"value\", {\"int\": [7]}]', '{}'):\n"
    "    print(frame.f_locals['mark'] + text, flush=True)\nexit(0)",
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGED)
def test_forgeries_earn_nothing(forgery: str) -> None:
    for tests in (ASSERTS, {"inputs": [[3, 4], [1, 1]], "outputs": [7, 2], "fn_name": "add"}):
        score = judge(FORGED[forgery], tests)
        assert score.value == 0.0, (tests, score)


@pytest.mark.parametrize(
    "program",
    [
        "exit(0)",
        "print('OK')",
        "import os; print(os.listdir('/'), open('/program.py').read())",
        "print(open(0).read())",
    ],
)
def test_forgeries_on_stdout_earn_nothing(program: str) -> None:
    assert judge(program, STDIO).value == 0.0


@pytest.mark.parametrize(
    ("result", "expected", "right"),
    [
        ("1", "True", False),
        ("True", "1", False),
        ("7.0", "7", True),
        ("'7'", "7", False),
        ("(1, [2])", "[1, [2]]", True),
        ("[1]", "[1, 2]", False),
        ("__import__('collections').Counter('aab')", "{'a': 2, 'b': 1}", True),
        ("{1: 2}", "{'1': 2}", True),
        ("None", "0", False),
        ("2**5000", "2**5000", True),
        ("object()", "0", False),
    ],
)
def test_results_of_json_tests_are_compared_by_type_and_value(result: str, expected: str, right: bool) -> None:
    tests = {"inputs": [[]], "outputs": [eval(expected)], "fn_name": "f"}
    assert judge(f"def f(): return {result}", "", {"tests": tests}).value == float(right)


def test_an_assert_means_what_python_means() -> None:
    code = "def f(x): return x\ndef g(x): return {x}, (x, float('inf')), None, b'x', 1j"
    right = "import math\nE = {1}\nassert f(1) == True\nassert (1, 2) == f((1, 2))\nassert math.isinf(g(1)[1][1])"
    assert judge(code, f"{right}\nassert g(1)[0] == E\nassert not f(0)\nassert f(f(2)) in [2]").value == 1.0
    wrong = judge(code, f"{right}\nassert f((1, 2)) == [1, 2]")
    assert wrong == Score(0.0, "test 4 of 4: wrong")


@pytest.mark.parametrize(
    "tests",
    [
        "assert all(f(x) == y for x, y in [(1, 1)])",
        "a = [2, 1]\nf(a)\nassert a == [1, 2]",
        "x = 1\nassert f(x) == 1\nx = 2\nassert f(x) == 2",
        "x = [1]\nx.append(2)\nassert f(x) == 3",
        "x = [1]\nx[0] = 2\nassert f(x) == 2",
        "x = f(1)\nassert g(x) == 2",
        "assert sum([1]) == 1",
        "import random\nassert f(random.random())",
        "from math import *\nassert f(pi) == 1",
        "x = 1",
    ],
)
def test_what_cannot_be_taken_apart_is_never_guessed_at(tests: str) -> None:
    with pytest.raises(Unsplittable):
        split(tests)


def test_only_what_the_calls_need_enters_the_box() -> None:
    parts = split("import math\nX = [3]\nEXPECTED = [math.pi]\nassert f(X) == EXPECTED")
    assert (parts.setup, parts.calls) == ("X = [3]", ("f(X)",))


def test_asserts_beside_the_code_are_off_until_they_are_allowed() -> None:
    tests = "for n in range(3):\n    assert add(n, n) == 2 * n"
    assert judge(ADD, tests).value is None
    assert judge(ADD, tests, in_box=True).value == 1.0
    for code in ("def add(a, b): return 0", "exit(0)", "print('OK')\nraise SystemExit(0)"):
        assert judge(code, tests, in_box=True).value == 0.0


# --- in the pool ---------------------------------------------------------------------------------------------------


def test_workers_judge_side_by_side() -> None:
    codes = [ADD, "def add(a, b): return 0", "exit(0)", "while True: pass"] * 2
    completions = [Completion(f"```python\n{code}\n```") for code in codes]
    problems = [Problem("?", ASSERTS, "p")] * len(codes)
    rewards = {"code_tests": {"timeout": 1.0, "budget": 60.0}}
    with Scorer(rewards, deadline=100, workers=3, failure_budget=0.0) as scorer:
        judged = scorer.score(completions, problems, 4)
    assert [each.total for each in judged] == [1.0, 0.0, 0.0, 0.0] * 2


def test_no_sandbox_is_a_failure_and_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aha.rewards.sandbox.box._mounts", lambda: ("--ro-bind", "/no/such/folder", "/usr"))
    score = judge(SUM, STDIO)
    assert isinstance(score, Failure) and "no box" in score.reason


@pytest.mark.parametrize(
    "params",
    [{"executor": "docker"}, {"language": "rust"}, {"protections": ["netwrok"]}, {"timeout": 0.0}, {"max_cases": -1}],
)
def test_arguments_are_checked_when_planning(params: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        load_reward("code_tests", params)
