"""`aha rewards score`: a verdict for each row, bad rows by name, and an interruption that costs nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import aha
from aha.errors import DataError
from aha.reward_kit.score import BATCH, FileScoring, summary_of

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: object, folder: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(aha.__file__).parents[1]),
        "AHA_REWARD_FNS": str(ROOT / "reward_fns"),
        "COLUMNS": "100",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "aha.cli", "rewards", "score", *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def case(number: int, answer: object = 5, **more: Any) -> dict[str, Any]:
    return {"id": f"c{number}", "prompt": "2 + 3?", "answer": answer, "completion": "<answer>5</answer>", **more}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def verdicts(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_row_gets_its_verdict_and_bad_rows_are_named(tmp_path: Path) -> None:
    gold = {key: value for key, value in case(2).items() if key != "answer"} | {"gold": "6"}
    bad = [{"id": "no-text", "prompt": "?", "answer": "5"}, {"id": "no-answer", "prompt": "?", "completion": "5"}, "{"]
    rows = [case(1), gold, *bad, case(3, completion="<think>5"), case(4, answer="\\frac{1}{")]
    write(tmp_path / "cases.jsonl", rows)
    process = command("math_answer", "--input", "cases.jsonl", "--output", "out/verdicts.jsonl", folder=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = verdicts(tmp_path / "out" / "verdicts.jsonl")
    assert [(one["id"], one["value"]) for one in found] == [("c1", 1.0), ("c2", 0.0), ("c3", 0.0), ("c4", None)]
    assert found[2]["reason"] == "no answer given" and all(one["seconds"] > 0 for one in found)
    assert "3 of 7 rows could not be judged" in out
    for words in ("no-text", "no completion", "no-answer", "no gold", "cases.jsonl:5", "not JSON"):
        assert words in out
    assert "4 rows, mean 0.3333, 1 without a verdict, 0 failures" in out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["verdicts.jsonl"]


def test_arguments_are_given_as_in_a_recipe(tmp_path: Path) -> None:
    write(tmp_path / "cases.jsonl", [case(1), case(2, completion="\\boxed{5}")])
    process = command("math_answer", "require=boxed", "--input", "cases.jsonl", "--output", "v.jsonl", folder=tmp_path)
    assert process.wait(120) == 0
    assert [one["value"] for one in verdicts(tmp_path / "v.jsonl")] == [0.0, 1.0]
    process = command("math_answer", "requires=boxed", "--input", "cases.jsonl", "--output", "v.jsonl", folder=tmp_path)
    assert "nearest   require" in process.communicate(timeout=120)[1] and process.returncode == 2


def test_a_reward_that_compares_sees_the_answers_to_one_prompt_together(tmp_path: Path) -> None:
    tokens = [(1, 10), (1, 30), (2, 7), (2, 7)]
    write(tmp_path / "cases.jsonl", [case(n, tokens=count, prompt=f"{n}?") for n, count in tokens])
    scoring = FileScoring("length_penalty", {}, tmp_path / "cases.jsonl", tmp_path / "v.jsonl")
    assert list(scoring.run()) == [2, 4]
    assert [one["value"] for one in verdicts(tmp_path / "v.jsonl")] == [0.5, -0.5, 0.0, 0.0]


SLOW = """
import time
from pathlib import Path
def score(completion, problem):
    if completion.text == "stop" and not Path(problem.meta["go"]).exists():
        time.sleep(60)
    return float(len(completion.text))
"""


def test_the_same_command_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    go = tmp_path / "go"
    rows = [case(n, completion="stop" if n == 2 * BATCH + 3 else "x" * n, go=str(go)) for n in range(3 * BATCH)]
    source, output = write(tmp_path / "cases.jsonl", rows), tmp_path / "v.jsonl"
    arguments = ("slow.py", "--input", "cases.jsonl", "--output", "v.jsonl", "--deadline", 300)
    process = command(*arguments, folder=tmp_path)
    while not any(len(path.read_text().splitlines()) == 2 * BATCH for path in tmp_path.glob("v.jsonl.*.part")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    (part,) = tmp_path.glob("v.jsonl.*.part")
    with part.open("a") as file:
        file.write('{"id": "c12')  # what a crash may leave of a line
    first = part.read_text().splitlines()[: 2 * BATCH]
    go.touch()
    process = command(*arguments, folder=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert f"goes on after {2 * BATCH} verdicts" in out
    lines = output.read_text().splitlines()
    assert lines[: 2 * BATCH] == first, "what was judged is not judged again: even the seconds are the same"
    assert [json.loads(line)["id"] for line in lines] == [row["id"] for row in rows]
    assert not list(tmp_path.glob("*.part")) and source.exists()


def test_another_reward_starts_over(tmp_path: Path) -> None:
    source = write(tmp_path / "cases.jsonl", [case(n) for n in range(2 * BATCH)])
    output = tmp_path / "v.jsonl"
    running = FileScoring("math_answer", {}, source, output).run()
    assert next(running) == BATCH
    running.close()
    (part,) = tmp_path.glob("v.jsonl.*.part")
    again = FileScoring("math_answer", {}, source, output)
    assert again.resumed == BATCH and again.replaced == []
    changed = FileScoring("math_answer", {"require": "boxed"}, source, output)
    assert changed.resumed == 0 and changed.replaced == [part]
    list(changed.run())
    assert summary_of(output).mean == 0.0 and not part.exists()


def test_nothing_to_judge(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        FileScoring("math_answer", {}, tmp_path / "nowhere.jsonl", tmp_path / "v.jsonl")
    source = write(tmp_path / "cases.jsonl", [{"id": "a"}, {"id": "b"}])
    with pytest.raises(DataError, match="no completion"):
        list(FileScoring("math_answer", {}, source, tmp_path / "v.jsonl").run())
    assert not (tmp_path / "v.jsonl").exists()
