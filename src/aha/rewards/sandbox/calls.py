"""Calls inside the box, comparison outside: what a model's function returns leaves as plain data, and nothing else
does.

A test that runs beside the code it tests can be forged: by an object that equals everything, a patched `assert`, a
frame walk for the expected value, an early `exit(0)`. Here the box gets calls, and never what they should return.
Each result is taken apart by the methods of the built-in types and written as JSON; what is no plain data has no
result. So a program can lie about its answers in any way it likes: the lie is the answer.
"""

from __future__ import annotations

import json
import math
import secrets
from dataclasses import dataclass
from typing import Any

from aha.rewards.sandbox.box import Ran

_HARNESS = r'''
def _main(source, setup, calls, mark):
    import os, sys, types
    import json
    write, dumps = os.write, json.dumps

    def plain(value):
        """JSON for built-in data, a pair of name and content for what JSON lacks; subclasses count as their base."""
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return {"int": hex(int.__index__(value))}
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": bytes(value).hex()}
        if isinstance(value, list):
            return [plain(each) for each in list.__iter__(value)]
        for kind in (tuple, set, frozenset):
            if isinstance(value, kind):
                return {kind.__name__: [plain(each) for each in kind.__iter__(value)]}
        if isinstance(value, dict):
            return {"dict": [[plain(key), plain(each)] for key, each in dict.items(value)]}
        raise TypeError("no plain data")

    def tell(kind, content):
        rest = ("\n" + mark + dumps([kind, content]) + "\n").encode()
        while rest:
            rest = rest[write(1, rest):]

    answer = types.ModuleType("answer")
    sys.modules["answer"] = answer
    exec(compile(source, "answer.py", "exec"), answer.__dict__)
    exec(compile(setup, "setup.py", "exec"), answer.__dict__)
    tell("ready", None)
    for call in calls:
        try:
            if isinstance(call, str):
                value = eval(compile(call, "call.py", "eval"), answer.__dict__)
            else:
                name, arguments = call
                function = answer.__dict__.get(name) or getattr(answer.__dict__["Solution"](), name)
                value = function(*arguments)
            value = plain(value)
        except BaseException as error:
            tell("raised", type(error).__name__)
        else:
            tell("value", value)


'''


@dataclass(frozen=True)
class Returned:
    """What a call came to. `value` means something only when `problem` is empty."""

    value: Any = None
    problem: str = ""


def calling(source: str, setup: str, calls: list[str | tuple[str, list[Any]]]) -> tuple[str, str]:
    """The program that runs `source`, then `setup`, then each call (an expression, or a function's name and its arguments), and
    the mark that its results are written behind. Arguments are JSON data."""
    mark = secrets.token_hex(8)
    given = json.dumps([source, setup, calls, mark])
    # ASCII without quotes of the wrong kind: a JSON text is carried as a Python literal.
    return f"{_HARNESS}_main(*__import__('json').loads({given!r}))\n", mark


def returned(ran: Ran, mark: str, count: int) -> list[Returned] | None:
    """The results of `count` calls, the missing ones with the reason why; None when the functions were never reached."""
    told = []
    for line in ran.stdout.decode("utf-8", "replace").split("\n"):
        if line.startswith(mark):
            try:
                kind, content = json.loads(line[len(mark) :])
                told.append((kind, revive(content) if kind == "value" else content))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                told.append(("raised", "nonsense where its result should be"))
    if not told or told[0][0] != "ready":
        return None
    results = [
        Returned(content) if kind == "value" else Returned(problem=f"raised {str(content)[:80]}")
        for kind, content in told[1:]
    ][:count]
    return results + [Returned(problem=f"never returned: {ran.how}")] * (count - len(results))


def revive(data: Any) -> Any:
    """Plain data from its JSON. Raises ValueError, TypeError or KeyError for what the harness would not have written.

    >>> revive({"tuple": [{"int": "0x3"}, "a", {"dict": [["k", {"set": []}]]}]})
    (3, 'a', {'k': set()})
    """
    if isinstance(data, list):
        return [revive(each) for each in data]
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    if kind == "int":
        return int(content, 16)
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(*content)
    if kind == "dict":
        return {revive(key): revive(value) for key, value in content}
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](revive(each) for each in content)


def same(given: Any, expected: Any, tolerance: float = 0.0) -> bool:
    """Whether a result is what a JSON test expects: the same type and value; a tuple is a list, for JSON has no tuples.

    True is not 1. An int is the float of the same value, as in Python. `tolerance` is relative and absolute, for floats.

    >>> same((1, [2.0]), [1, [2]]), same(True, 1), same("1", 1), same([1], [1, 2])
    (True, False, False, False)
    >>> same(0.30000000000000004, 0.3), same(0.30000000000000004, 0.3, tolerance=1e-9)
    (False, True)
    """
    if isinstance(given, list | tuple) and isinstance(expected, list | tuple):
        pairs = zip(given, expected, strict=False)
        return len(given) == len(expected) and all(same(*pair, tolerance) for pair in pairs)
    if isinstance(given, dict) and isinstance(expected, dict):
        ours = {str(key): value for key, value in given.items()}  # the keys of a JSON object are strings
        matched = len(ours) == len(given) == len(expected)
        return matched and all(key in ours and same(ours[key], value, tolerance) for key, value in expected.items())
    if isinstance(given, bool) or isinstance(expected, bool):
        return given is expected
    if isinstance(given, int | float) and isinstance(expected, int | float):
        if tolerance and isinstance(given, float) | isinstance(expected, float):
            return math.isclose(given, expected, rel_tol=tolerance, abs_tol=tolerance)
        return given == expected
    return type(given) is type(expected) and bool(given == expected)
