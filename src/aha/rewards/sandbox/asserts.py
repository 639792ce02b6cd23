"""Tests written as asserts, taken apart: the calls of the model's code go into its box, the rest into a box without it.

`assert sorted(f([2, 1])) == [1, 2]` becomes the call `f([2, 1])` and the statement `assert sorted(_returned[0]) ==
[1, 2]`. The call runs beside the model's code, the statement beside what the call returned, which is plain data by
then. So what is expected is never where the model's code can read it, and the assertion runs where nothing of the
model's can touch it.

Understood are imports, assignments, definitions and asserts, also inside `def check(candidate)` (HumanEval's form).
A test that needs the model's code at two ends (a loop over cases, a mutated argument, a callback) cannot be split,
and neither can one whose two halves would not see the same data (a name given two values, random numbers). Such
tests are refused, never guessed at.
"""

from __future__ import annotations

import ast
import base64
import builtins
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass

from aha.rewards.sandbox.box import Ran
from aha.rewards.sandbox.calls import Returned

_DEFINITIONS = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
BUILTINS = frozenset(dir(builtins))
RETURNED = "_returned"
DIFFERENT_EACH_TIME = {"random", "secrets", "uuid", "time", "datetime"}


class Unsplittable(ValueError):
    """A test whose calls cannot be told from what it expects of them."""


@dataclass(frozen=True)
class Split:
    """Tests in two halves."""

    setup: str
    """What the calls need: imports, and the definitions of their arguments."""
    calls: tuple[str, ...]
    """Expressions for the box of the model's code."""
    judging: tuple[str, ...]
    """Statements for the other box, in order; those that assert are the tests."""


def split(tests: str, entry_point: str = "") -> Split:
    """Tests in two halves; `entry_point` is what HumanEval's `candidate` stands for. Raises Unsplittable, and SyntaxError.

    >>> split("x = 3\\nassert abs(f(x) - 1.5) < 1e-6")
    Split(setup='x = 3', calls=('f(x)',), judging=('x = 3', 'assert abs(_returned[0] - 1.5) < 1e-06'))
    """
    statements = _flat(ast.parse(tests).body, entry_point)
    _refuse_what_differs(statements)
    ours = set().union(*(_binds(statement) for statement in statements))
    theirs = set().union(*(_reads(statement) for statement in statements)) - ours - BUILTINS
    theirs |= {entry_point} - {""}  # it may be called like a builtin
    holes = _Holes(theirs)
    judging, needed, tainted = [], set[str](), set[str]()
    for statement in statements:
        before = len(holes.calls)
        names = _reads(statement)
        rest = ast.fix_missing_locations(holes.visit(ast.parse(ast.unparse(statement)).body[0]))
        if left := _reads(rest) & theirs:
            raise Unsplittable(
                f"{', '.join(sorted(left))} is used other than by a plain call: {ast.unparse(statement)[:80]}"
            )
        if isinstance(statement, ast.Assert) and len(holes.calls) == before and not names & tainted:
            raise Unsplittable(f"this calls nothing of the model's: {ast.unparse(statement)[:80]}")
        if len(holes.calls) > before:
            needed |= set().union(*(_reads(call) for call in holes.calls[before:])) - theirs - BUILTINS
        if len(holes.calls) > before or names & tainted:
            tainted |= _binds(statement)
        judging.append(ast.unparse(rest))
    if needed & tainted:
        raise Unsplittable(f"{', '.join(sorted(needed & tainted))} comes out of one call and goes into another")
    if needed - ours:
        raise Unsplittable(f"{', '.join(sorted(needed - ours))} is not defined")
    if not holes.calls:
        raise Unsplittable("there is no assert")
    setup = _setup(statements, needed)
    return Split("\n".join(setup), tuple(ast.unparse(call) for call in holes.calls), tuple(judging))


def _flat(body: Sequence[ast.stmt], entry_point: str) -> list[ast.stmt]:
    """The statements of a test file, those of `check(candidate)` in the place of its call."""
    statements: list[ast.stmt] = []
    for statement in body:
        if isinstance(statement, ast.Pass) or (
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        ):
            continue
        if isinstance(statement, ast.FunctionDef) and statement.name == "check" and len(statement.args.args) == 1:
            if not entry_point:
                raise Unsplittable("check(candidate), and no entry_point")
            inner = _flat(statement.body, entry_point)
            statements += [_Renamed(statement.args.args[0].arg, entry_point).visit(each) for each in inner]
        elif (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Call)
            and _root(statement.value) == "check"
        ):
            continue
        elif isinstance(statement, _DEFINITIONS | ast.Assert) or _names_only(statement):
            statements.append(statement)
        else:
            raise Unsplittable(f"what this changes is not followed: {ast.unparse(statement)[:80]}")
    return statements


def _names_only(statement: ast.stmt) -> bool:
    """An assignment to plain names: `x = …`, `x, y = …`, not `x[0] = …` or `x.y = …`."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return False
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return all(isinstance(each, ast.Name | ast.Tuple | ast.Store) for target in targets for each in ast.walk(target))


def _refuse_what_differs(statements: Sequence[ast.stmt]) -> None:
    for statement in statements:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            modules = [getattr(statement, "module", None) or "", *(alias.name for alias in statement.names)]
            if "*" in modules or DIFFERENT_EACH_TIME & {module.partition(".")[0] for module in modules}:
                raise Unsplittable(f"names or values that differ each time: {ast.unparse(statement)}")


class _Renamed(ast.NodeTransformer):
    def __init__(self, old: str, new: str):
        self._old, self._new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._new, node.ctx) if node.id == self._old else node


class _Holes(ast.NodeTransformer):
    """Puts `_returned[n]` in the place of each outermost call of the model's code, and keeps the calls."""

    def __init__(self, theirs: set[str]):
        self._theirs = theirs
        self.calls: list[ast.Call] = []

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _root(node) not in self._theirs or any(
            isinstance(inner, ast.NamedExpr | ast.Await) for inner in ast.walk(node)
        ):
            return self.generic_visit(node)
        self.calls.append(node)
        place = ast.Subscript(ast.Name(RETURNED, ast.Load()), ast.Constant(len(self.calls) - 1), ast.Load())
        return ast.copy_location(place, node)

    def _scope(self, node: ast.AST) -> ast.AST:
        return node  # calls in here run many times, or never: left where they are, which `split` then notices

    visit_Lambda = visit_FunctionDef = visit_ClassDef = _scope
    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _scope
    visit_IfExp = visit_BoolOp = _scope


def _root(node: ast.expr) -> str:
    """`Solution` for `Solution(1).solve(2)`, the name that a chain of calls and attributes begins with."""
    while isinstance(node, ast.Call | ast.Attribute):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, context)}


def _binds(node: ast.AST) -> set[str]:
    """Every name that is given a meaning anywhere in a statement."""
    found = _names(node, ast.Store)
    for each in ast.walk(node):
        if isinstance(each, ast.FunctionDef | ast.ClassDef):
            found.add(each.name)
        elif isinstance(each, ast.arg):
            found.add(each.arg)
        elif isinstance(each, ast.alias):
            found.add((each.asname or each.name).partition(".")[0])
    return found


def _reads(node: ast.AST) -> set[str]:
    """Names that a node reads and does not bind itself, as a comprehension does."""
    inside = _binds(node) if not isinstance(node, ast.Assign | ast.AnnAssign) else set()
    return _names(node, ast.Load) - inside - {RETURNED}


def _setup(statements: Sequence[ast.stmt], needed: set[str]) -> list[str]:
    """The statements that define what the calls need, and what those need in turn; nothing else, it might be the answer."""
    chosen: dict[str, set[str]] = {}
    for statement in reversed(statements):
        if not isinstance(statement, ast.Assert) and _binds(statement) & needed:
            needed = needed | (_reads(statement) - BUILTINS)
            chosen[ast.unparse(statement)] = _binds(statement)
    for name in needed:
        if sum(name in bound for bound in chosen.values()) > 1:
            raise Unsplittable(f"{name} has more than one value")
    return list(chosen)[::-1]


# --- the other box -------------------------------------------------------------------------------------------------

_JUDGE = """
import base64, json, pickle
space = {"_returned": pickle.loads(base64.b64decode(%r))}
verdicts = []
for number, statement in enumerate(json.loads(%r)):
    asserts = statement.startswith("assert")
    verdict = ""
    try:
        exec(compile(statement, "test.py", "exec"), space)
    except AssertionError:
        verdict = "wrong"
    except Exception as error:
        verdict = "raised " + type(error).__name__
    if asserts:
        verdicts.append(verdict)
    elif verdict and "_returned" not in statement:
        print(json.dumps({"broken": statement[:80] + " " + verdict}))
        raise SystemExit
print(json.dumps({"verdicts": verdicts}))
"""


def judging_program(parts: Split, results: Sequence[Returned]) -> str:
    """The program of the second box: what was returned, and the statements that judge it. A call without a result fails its test."""
    values = {number: result.value for number, result in enumerate(results) if not result.problem}
    return _JUDGE % (base64.b64encode(pickle.dumps(values)).decode(), json.dumps(parts.judging))


def read_verdicts(ran: Ran, parts: Split, results: Sequence[Returned]) -> list[str]:
    """One text for each assert: empty when it holds, else what is wrong. Raises ValueError when the tests themselves are broken."""
    count = sum(statement.startswith("assert") for statement in parts.judging)
    if ran.exit_code is None:
        return [f"comparing what it returned was {ran.how}"] * count
    try:
        told = json.loads(ran.stdout)
    except ValueError:
        raise ValueError(f"{ran.how}: {ran.stderr.decode(errors='replace').strip()[-200:]}") from None
    if "broken" in told:
        raise ValueError(told["broken"])
    verdicts = [str(each) for each in told["verdicts"]]
    problem = next((result.problem for result in results if result.problem), "")
    return [problem if verdict == "raised KeyError" and problem else verdict for verdict in verdicts]
