"""JSON that is valid against a schema; everything that only looks like it is not, and no schema reaches the network."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from aha.errors import RecipeError
from aha.rewards.contract import Completion, Failure, Problem, Score
from aha.rewards.load import load_reward

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
GOOD = '{"name": "Ada", "age": 36}'


def judge(text: str, schema: Any = SCHEMA, meta: Any = None, **params: object) -> Score:
    given = params if schema is None else {"schema": schema, **params}
    return load_reward("json_schema", given).score_group([Completion(text)], Problem("?", "", "p", meta or {}))[0]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"<think>hm {{</think><answer>{GOOD}</answer>",
        f"<think>hm</think>\n{GOOD}\n",
        f"<answer>\n```json\n{GOOD}\n```\n</answer>",
        f"```\r\n{GOOD}\r\n```",
        '{"name": "\\\\boxed{5}"}',
        '{"name": "<answer>"}',
        '{"name": "\\ud800", "age": 36.0}',
    ],
)
def test_valid(text: str) -> None:
    assert judge(text) == Score(1.0, "valid")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no answer given"),
        (f"<think>{GOOD}", "no answer given"),
        (f"<think>{GOOD}</think>", "no answer given"),
        ("<answer> </answer>", "no answer given"),
        (f"{GOOD} and that is it", "not JSON"),
        (f"Here it is: {GOOD}", "not JSON"),
        (f"{GOOD}{GOOD}", "not JSON"),
        ("{'name': 'Ada'}", "not JSON"),
        ('{"name": "Ada",}', "not JSON"),
        ('{"age": 36, "name": "Bob", "name": "Ada"}', "a key stands twice"),
        ('{"name": "Ada", "age": NaN}', "NaN is no JSON"),
        ('{"name": "Ada", "age": -Infinity}', "-Infinity is no JSON"),
        ('{"name": "Ada", "age": 1e999}', "no finite number"),
        ('{"name": "Ada", "age": ' + "9" * 5_000 + "}", "a number of 5000 digits"),
        ("[" * 1_000_000, "an answer of 1000000 characters"),
        ("[" * 20_000, "not JSON"),
        ("[" * 65 + "]" * 65, "nested deeper than 64 levels"),
        ("[" * 5_000 + "]" * 5_000, "not JSON"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested deeper"),
        ('{"age": 36}', "not valid: required at $"),
        ('{"name": 5}', "not valid: type at $.name"),
        ('{"name": "Ada", "age": -1}', "not valid: minimum at $.age"),
        ('{"name": "Ada", "age": true}', "not valid: type at $.age"),
        ('{"name": "Ada", "job": "x"}', "not valid: additionalProperties at $"),
        ("[]", "not valid: type at $"),
        ("null", "not valid: type at $"),
    ],
)
def test_not_valid(text: str, reason: str) -> None:
    score = judge(text)
    assert score.value == 0.0 and reason in score.reason


def test_json_against_the_schema_can_earn_something() -> None:
    assert judge("[]", parse_score=0.1).value == 0.1
    assert judge("[", parse_score=0.1).value == 0.0


def test_the_answer_tag_can_be_demanded() -> None:
    assert judge(GOOD, require="answer_tag").reason == "no answer given"
    assert judge(f"<answer>{GOOD}</answer>", require="answer_tag").value == 1.0


@pytest.mark.parametrize("as_text", [True, False])
def test_the_schema_of_the_row(as_text: bool) -> None:
    schema: Any = {"const": {"total": 5}}
    meta = {"shape": json.dumps(schema) if as_text else schema}
    assert judge('{"total": 5.0}', None, meta, column="shape").value == 1.0
    assert judge('{"total": 6}', None, meta, column="shape").value == 0.0


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({}, "no schema"),
        ({"schema": "{"}, "not a usable schema"),
        ({"schema": '"text"'}, "a schema is a JSON object"),
        ({"schema": {"type": "strnig"}}, "Draft 2020-12"),
        ({"schema": {"$schema": "http://json-schema.org/draft-07/schema#"}}, "Draft 2020-12, not http"),
        ({"schema": {"pattern": "("}}, "not a usable schema"),
        ({"schema": {"$ref": "#/nowhere"}}, "not a usable schema"),
        ({"schema": {"$ref": "#"}}, "not a usable schema: RecursionError"),
        ({"schema": "[" * 100_000}, "not a usable schema"),
    ],
)
def test_without_a_usable_schema_there_is_no_verdict(meta: dict[str, Any], reason: str) -> None:
    score = judge('"text"', None, meta)
    assert score.value is None and not isinstance(score, Failure) and reason in score.reason


def test_nothing_is_fetched(tmp_path: Path) -> None:
    """A server that listens hears nothing, and a file that is there is not read."""
    (tmp_path / "any.json").write_text("true")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        for target in (f"http://127.0.0.1:{server.getsockname()[1]}/any.json", (tmp_path / "any.json").as_uri()):
            for word in ("$ref", "$dynamicRef"):
                score = judge("5", {word: target})
                assert score.value is None and "not a usable schema" in score.reason
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_schema_may_refer_to_itself() -> None:
    tree = {"type": "array", "items": {"$ref": "#"}}
    assert judge("[[], [[]]]", tree).value == 1.0
    assert judge("[[], [5]]", tree).value == 0.0
    assert judge("[" * 64 + "]" * 64, tree).value == 1.0


def test_a_wrong_schema_is_refused_while_planning() -> None:
    with pytest.raises(RecipeError, match="Draft 2020-12"):
        load_reward("json_schema", {"schema": {"type": "strnig"}})
