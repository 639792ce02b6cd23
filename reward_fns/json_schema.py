"""Full marks for an answer that is JSON, and valid against a schema (JSON Schema, Draft 2020-12).

Source: the specification (json-schema.org/draft/2020-12) as the package `jsonschema` implements it. Range: 0,
`parse_score` or 1; None when there is no schema, or when it cannot be used. The schema is the recipe's `schema`, or the
data row's `column`: a mapping, or the same as JSON text (safer: some formats give the mappings of all rows the same
keys). A `const` in a row's schema asks for that row's very answer.

Choices: the answer is the answer tag's content, else (`require: any`) all that follows the thinking; one code fence
around it is taken off. All of it must be JSON: words before or behind it are wrong. So are a key that stands twice,
NaN, infinities (1e999 too), `max_chars`, and nesting beyond 64 levels. `format` is a remark, as the draft has it.

A schema is data and may be hostile: a `$ref` to anything outside of it is never fetched, and means no verdict. A
`pattern` that backtracks for ever ends at the deadline, as every judgement does.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aha.rewards.answers.extract import last_tagged
from aha.rewards.contract import Completion, Problem, Score, after_thinking

DEPTH = 64
_FENCE = re.compile(r"```(?:json)?[ \t]*\r?\n(.*)\n[ \t]*```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Params:
    schema: dict[str, Any] | None = None
    column: str = "schema"
    """The data row's column with the schema, where the recipe gives none."""
    require: Literal["answer_tag", "any"] = "any"
    parse_score: float = 0.0
    """For JSON that is not valid against the schema."""
    max_chars: int = 20_000

    def __post_init__(self) -> None:
        if self.schema is not None:
            _check(json.loads(json.dumps(self.schema)))


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    schema = params.schema if params.schema is not None else problem.meta.get(params.column)
    if schema is None:
        return Score(None, f"no schema: neither in the recipe nor in the row's column {params.column}")
    try:
        validator = _validator(schema if isinstance(schema, str) else json.dumps(schema))
    except (ValueError, TypeError, RecursionError) as error:
        return Score(None, f"not a usable schema: {error}")
    answer = _answer(completion, params)
    if answer is None or not answer.strip():
        return Score(0.0, "no answer given")
    if len(answer) > params.max_chars:
        return Score(0.0, f"an answer of {len(answer)} characters")
    try:
        value = read_json(answer)
    except (ValueError, RecursionError) as error:
        return Score(0.0, f"not JSON: {error}")
    try:
        wrong = next(validator.iter_errors(value), None)
    except (_unresolvable(), re.error, RecursionError) as error:  # the schema's fault, whatever the answer is
        return Score(None, f"not a usable schema: {type(error).__name__}: {error}")
    if wrong is not None:
        return Score(params.parse_score, f"not valid: {wrong.validator} at {wrong.json_path}")
    return Score(1.0, "valid")


def _answer(completion: Completion, params: Params) -> str | None:
    """Boxes are not opened here, as `final_answer` does: a string of the answer may contain one."""
    text = after_thinking(completion)
    if text is None:
        return None
    tagged = last_tagged(text, completion.answer)
    answer = text if tagged is None and params.require == "any" else tagged
    fenced = _FENCE.fullmatch(answer.strip()) if answer is not None else None
    return fenced[1] if fenced else answer


def read_json(text: str) -> Any:
    """JSON as RFC 8259 has it, each key once, every number finite, at most DEPTH levels; ValueError for anything else."""
    value = json.loads(
        text,
        object_pairs_hook=_each_key_once,
        parse_int=_whole,
        parse_float=_finite,
        parse_constant=_no_number,
    )
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEPTH:
            raise ValueError(f"nested deeper than {DEPTH} levels")
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _inside(outer)]
    return value


def _inside(outer: dict[str, Any] | list[Any]) -> list[Any]:
    return list(outer.values()) if isinstance(outer, dict) else outer


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _whole(text: str) -> int:
    if len(text) > 300:  # beyond a float's range, where `multipleOf` would overflow
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return float(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


@functools.lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    """The validator for a schema as JSON text; ValueError when it is not one."""
    read = read_json(schema)
    _check(read)
    import jsonschema
    from referencing.jsonschema import EMPTY_REGISTRY

    # An explicit registry retrieves nothing; the default one would fetch a remote `$ref` with urllib.
    return jsonschema.Draft202012Validator(read, registry=EMPTY_REGISTRY)


def _check(schema: Any) -> None:
    import jsonschema

    if not isinstance(schema, Mapping | bool):
        raise ValueError("a schema is a JSON object")
    named = schema.get("$schema") if isinstance(schema, Mapping) else None
    if named is not None and "2020-12" not in str(named):
        raise ValueError(f"a schema of Draft 2020-12, not {named}")
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"a schema of Draft 2020-12: {error.message[:200]} at {error.json_path}") from None


def _unresolvable() -> type[Exception]:
    from referencing.exceptions import Unresolvable

    return Unresolvable


def warm_up() -> None:
    import jsonschema  # noqa: F401
