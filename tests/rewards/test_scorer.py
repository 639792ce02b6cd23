"""Real pools of real processes, with rewards that do their worst. Nothing here is timed; the guards are generous."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aha.errors import RecipeError, RewardError
from aha.rewards.contract import Completion, Problem
from aha.rewards.scorer import TEXT_LIMIT, Judged, Scorer

pytestmark = pytest.mark.timeout(120)

POISON = """
import os, signal, subprocess, sys, time
from aha.rewards.contract import Failure, Score

class Rude(BaseException):
    pass

def score(completion, problem, params=None):
    text = completion.text
    if text == "sleep":
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    if text == "spin":
        9 ** 9 ** 9
    if text == "exit":
        sys.exit(0)
    if text == "_exit":
        os._exit(0)
    if text == "rude":
        raise Rude("no")
    if text == "kill":
        os.kill(os.getpid(), signal.SIGSEGV)
    if text == "memory":
        return len(bytearray(1 << 40))
    if text == "nan":
        return float("nan")
    if text == "print":
        for _ in range(2000):
            print("x" * 10_000)
            print("x" * 10_000, file=sys.stderr)
    if text == "fork":
        subprocess.Popen(["sleep", "600"])
    if text == "close":
        os.closerange(3, 100)
    if text == "mutate":
        problem.meta["poisoned"] = True
    return float(len(text)) + 100 * ("poisoned" in problem.meta)
"""


@pytest.fixture
def poison(tmp_path: Path) -> str:
    path = tmp_path / "poison.py"
    path.write_text(POISON)
    return str(path)


def score(scorer: Scorer, texts: list[str], group_size: int = 1, **meta: object) -> list[Judged]:
    problems = [Problem("?", "5", f"p{number // group_size}", meta) for number in range(len(texts))]
    return scorer.score([Completion(text) for text in texts], problems, group_size)


def reasons(judged: list[Judged], name: str) -> list[str]:
    return [each.verdicts[name].reason for each in judged]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sleep", "deadline of 0.5 s passed"),
        ("spin", "deadline of 0.5 s passed"),
        ("exit", "raised SystemExit"),
        ("_exit", "the worker died: exit code 0"),
        ("rude", "raised Rude: no"),
        ("kill", "the worker died: SIGSEGV"),
        ("close", "the worker died"),
        ("memory", "raised MemoryError"),
        ("nan", "returned nan"),
    ],
)
def test_a_poisonous_completion_has_no_verdict_and_harms_no_other(poison: str, text: str, reason: str) -> None:
    with Scorer({poison: 1.0}, deadline=0.5, workers=2, failure_budget=1.0) as scorer:
        judged = score(scorer, ["a", text, "bb", "ccc", "dddd", text, "a", "b"], group_size=4)
    assert [each.total for each in judged] == [1.0, None, 2.0, 3.0, 4.0, None, 1.0, 1.0]
    assert reason in judged[1].verdicts["poison"].reason and judged[1].verdicts["poison"].failed


def test_printing_is_not_answering(poison: str) -> None:
    with Scorer({poison: 1.0}, deadline=30) as scorer:
        assert [each.total for each in score(scorer, ["print", "a"])] == [5.0, 1.0]


def test_a_reward_that_changes_its_inputs_changes_them_for_itself(poison: str) -> None:
    with Scorer({poison: 1.0}, workers=1) as scorer:
        assert [each.total for each in score(scorer, ["mutate", "a", "b"], group_size=3)] == [106.0, 1.0, 1.0]


def test_results_do_not_depend_on_the_number_of_workers_or_on_who_is_first(poison: str) -> None:
    texts = ["sleep" if number % 17 == 5 else "x" * (number % 7 + 1) for number in range(48)]
    found = []
    for workers in (1, 2, 3):
        with Scorer({poison: 0.5, "think_format": 0.1}, deadline=0.5, workers=workers, failure_budget=1.0) as scorer:
            found.append([(each.total, reasons([each], "poison")) for each in score(scorer, texts, group_size=8)])
    assert found[0] == found[1] == found[2]


def test_a_failing_reward_ends_the_run_with_its_name_and_an_example(poison: str) -> None:
    with Scorer({poison: 1.0, "think_format": 1.0}, failure_budget=0.05) as scorer:
        score(scorer, ["rude"] * 4 + ["a"] * 15)  # 19: too few to say
        with pytest.raises(RewardError, match=r"(?s)poison.*4 of 20 .*problem p0.*Rude.*rude"):
            score(scorer, ["a"])


def test_a_verdict_that_is_withheld_is_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "shy.py"
    path.write_text("from aha.rewards.contract import Score\ndef score(c, p): return Score(None, 'not my field')")
    with Scorer({str(path): 1.0, "think_format": 1.0}, failure_budget=0.0) as scorer:
        judged = score(scorer, ["a"] * 30)
    assert {each.total for each in judged} == {None}
    assert set(reasons(judged, path.stem)) == {"not my field"}


def test_a_reward_of_weight_zero_is_watched_only(poison: str) -> None:
    with Scorer({poison: 0.0, "think_format": 1.0}, failure_budget=1.0) as scorer:
        assert score(scorer, ["rude"])[0].total == 0.0


def test_a_group_reward_sees_its_group_and_only_that(tmp_path: Path) -> None:
    path = tmp_path / "rank.py"
    path.write_text(
        "from aha.rewards.contract import Score\n"
        "def score_group(completions, problem):\n"
        "    best = max(len(c.text) for c in completions)\n"
        "    return [Score(float(len(c.text) == best), 'longest') for c in completions]"
    )
    with Scorer({str(path): 2.0}, workers=2) as scorer:
        assert [each.total for each in score(scorer, ["a", "bb", "cccc", "ddd"], 2)] == [0.0, 2.0, 2.0, 0.0]


def test_a_plain_function_is_a_reward(tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text(
        'def plain(completions, answer, **_): return [c[0]["content"] == a for c, a in zip(completions, answer)]'
    )
    with Scorer({str(path): 1.0}) as scorer:
        assert [each.total for each in score(scorer, ["5", "6"], 2)] == [1.0, 0.0]


def test_a_problem_that_cannot_be_sent_says_so(poison: str) -> None:
    with Scorer({poison: 1.0}, failure_budget=1.0) as scorer:
        judged = score(scorer, ["a"], lock=threading.Lock())
        assert "cannot be sent" in reasons(judged, "poison")[0]
        assert score(scorer, ["a"])[0].total == 1.0


def test_odd_text_arrives_as_it_is(poison: str) -> None:
    texts = ["\ud800", "\x00", "ｆｕｌｌ", "x" * 100_000, ""]
    with Scorer({poison: 1.0}) as scorer:
        assert [each.total for each in score(scorer, texts)] == [float(len(text)) for text in texts]


def test_a_megabyte_is_cut_to_its_end_and_noted(poison: str) -> None:
    with Scorer({poison: 1.0}) as scorer:
        judged = score(scorer, ["x" * 1_000_000])
    assert judged[0].total == TEXT_LIMIT and str(TEXT_LIMIT) in reasons(judged, "poison")[0]


def test_wrong_recipes_fail_at_once_with_their_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="think_format"):
        Scorer({"think_fromat": 1.0})
    with pytest.raises(RecipeError, match=r"grpo\.rewards\.math_answer\.requir"):
        Scorer({"math_answer": {"requir": "boxed"}}, where="grpo.rewards")
    path = tmp_path / "broken.py"
    path.write_text("def score(c, p): return 1.0\ndef warm_up(): raise RuntimeError('no licence')")
    with pytest.raises(RewardError, match="no licence"):
        Scorer({str(path): 1.0})


def test_threads_may_share_a_scorer(poison: str) -> None:
    found: dict[int, list[float | None]] = {}
    with Scorer({poison: 1.0}, workers=2) as scorer:

        def run(size: int) -> None:
            found[size] = [each.total for each in score(scorer, ["x" * size] * 10)]

        threads = [threading.Thread(target=run, args=(size,)) for size in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {size: [float(size)] * 10 for size in range(1, 5)}


# --- nobody survives -------------------------------------------------------------------------------------------------


def descendants(of: int) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
    found, grown = {of}, True
    while grown:
        grown = bool(more := {pid for pid, parent in parents.items() if parent in found} - found)
        found |= more
    return found - {of}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists() and not _is_zombie(pid)}


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(pids: set[int]) -> Iterator[None]:
    for _ in range(600):
        if not alive(pids):
            return
        yield time.sleep(0.05)
    raise AssertionError(f"still alive: {alive(pids)}")


def test_closing_leaves_no_process(poison: str) -> None:
    before = descendants(os.getpid())
    scorer = Scorer({poison: 1.0}, workers=2)
    score(scorer, ["a", "b"])
    started = descendants(os.getpid()) - before
    assert started
    scorer.close()
    list(wait_until_gone(started))


def test_what_a_reward_started_ends_with_its_worker(poison: str) -> None:
    before = descendants(os.getpid())
    with Scorer({poison: 1.0}, deadline=5, workers=1) as scorer:
        score(scorer, ["fork", "a"])
        started = descendants(os.getpid()) - before
        assert len(started) == 3  # the nursery, the worker, and what the reward started
    list(wait_until_gone(started))


def test_the_death_of_the_nursery_costs_no_verdict(poison: str) -> None:
    with Scorer({poison: 1.0}, failure_budget=1.0) as scorer:
        score(scorer, ["a"])
        os.kill(scorer._pool._nursery.pid, 9)  # type: ignore[union-attr]
        assert [each.total for each in score(scorer, ["a"] * 6)] == [1.0] * 6
        assert [each.total for each in score(scorer, ["a", "bb"])] == [1.0, 2.0]


ORPHAN = """
import os, sys
from aha.rewards.scorer import Scorer
from aha.types import Completion, Problem
scorer = Scorer({sys.argv[1]: 1.0}, workers=2)
scorer.score([Completion("a"), Completion("b")], [Problem("?", "5", "p")] * 2, 1)
print("ready", flush=True)
sys.stdin.read()
"""


def test_no_worker_survives_a_killed_parent(poison: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, poison], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
    started = descendants(parent.pid)
    assert len(started) >= 2
    parent.kill()
    parent.wait()
    list(wait_until_gone(started))
    parent.stdout.close()
    if parent.stdin is not None:
        parent.stdin.close()


# --- rewards that depend on another, and their names ----------------------------------------------------------------

GRADER = """
from aha.rewards.contract import Score
def score(completion, problem):
    return Score({"right": 1.0, "half": 0.5, "wrong": 0.0}.get(completion.text[:5].strip()), "graded")
"""
SHAPE = """
from aha.rewards.contract import Score
def score(completion, problem):
    return Score(None if "?" in completion.text else -2.0, "shaped")
"""


@pytest.fixture
def graded(tmp_path: Path) -> tuple[str, str]:
    grader, shape = tmp_path / "grader.py", tmp_path / "shape.py"
    grader.write_text(GRADER)
    shape.write_text(SHAPE)
    return str(grader), str(shape)


@pytest.mark.parametrize(
    ("text", "counted", "total"),
    [
        ("right", -2.0, 0.0),
        ("half", 0.0, 0.5),
        ("wrong", 0.0, 0.0),
        ("wrong?", 0.0, 0.0),  # shut: that the shaping reward has no verdict is of no account
        ("right?", None, None),
        ("else", None, None),  # the gate has no verdict
    ],
)
def test_a_reward_counts_only_if_another_gives_full_marks(
    graded: tuple[str, str], text: str, counted: float | None, total: float | None
) -> None:
    grader, shape = graded
    with Scorer({shape: {"weight": 0.5, "only_if": grader}, grader: 1.0}, deadline=30, workers=1) as scorer:
        (judged,) = score(scorer, [text])
    assert (judged.counted["shape"], judged.total) == (counted, total)
    assert judged.verdicts["shape"].value == (None if "?" in text else -2.0), "the verdict itself is kept"


def test_a_gate_without_weight_decides_as_well(graded: tuple[str, str]) -> None:
    grader, shape = graded
    with Scorer({shape: {"only_if": grader}, grader: 0.0}, deadline=30, workers=1) as scorer:
        assert [each.total for each in score(scorer, ["right", "wrong", "else"])] == [-2.0, 0.0, None]


def test_two_rewards_may_look_at_each_other(graded: tuple[str, str]) -> None:
    grader, shape = graded
    rewards = {shape: {"only_if": grader}, grader: {"only_if": shape}}
    with Scorer(rewards, deadline=30, workers=1) as scorer:
        assert [each.total for each in score(scorer, ["right", "wrong"])] == [-2.0, 0.0]


def test_names_are_short_and_each_stands_once(graded: tuple[str, str], tmp_path: Path) -> None:
    grader, _ = graded
    (tmp_path / "more").mkdir()
    twin = tmp_path / "more" / "grader.py"
    twin.write_text(SHAPE)
    with Scorer({grader: 1.0, str(twin): 2.0, "think_format": 0.0}, deadline=30, workers=1) as scorer:
        (judged,) = score(scorer, ["right"])
    assert {name: verdict.value for name, verdict in judged.verdicts.items()} == {
        "grader": 1.0,
        "grader-2": -2.0,
        "think_format": 0.0,
    }
    assert judged.total == -3.0
