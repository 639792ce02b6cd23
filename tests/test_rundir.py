"""The run directory: nothing is torn, nobody intrudes, and a directory stays with its recipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import aha
from aha.errors import RunDirError
from aha.rundir import RunDir, append_jsonl, finite, read_json, read_jsonl, read_object, write_json, write_text

SOURCE = str(Path(aha.__file__).parents[1])


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )


# --- files ---------------------------------------------------------------------------------------------------------


def test_json_round_trip_leaves_nothing_else_behind(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/facts.json"
    write_json(path, {"loss": float("nan"), "steps": [1, float("inf")], "text": "½ \ud800", "pair": (1, 2)})
    assert read_json(path) == {"loss": None, "steps": [1, None], "text": "½ \ud800", "pair": [1, 2]}
    assert os.listdir(path.parent) == ["facts.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"old": True})

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_json(path, {"new": True})
    with pytest.raises(TypeError):
        write_json(path, {"not json": object()})
    assert read_json(path) == {"old": True}
    assert os.listdir(tmp_path) == ["facts.json"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_json(path, ["a"])
    writer = python(
        "import sys; from aha.rundir import write_json\n"
        "for turn in range(200): write_json(sys.argv[1], ['ab'[turn % 2] * (turn * 500)])",
        path,
    )
    while writer.poll() is None:
        (text,) = read_json(path)
        assert len(set(text)) <= 1
    assert writer.returncode == 0, writer.communicate()[1]


def test_files_are_readable_by_the_group_that_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "recipe.yaml", "")
    finally:
        os.umask(before)
    assert (tmp_path / "recipe.yaml").stat().st_mode & 0o777 == 0o644


def test_damaged_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "done.json"
    path.write_text('{"a": ')
    with pytest.raises(RunDirError, match=r"done\.json is damaged"):
        read_json(path)
    assert read_object(path) is None
    assert read_object(tmp_path / "absent.json") is None
    path.write_text("[1]")
    assert read_object(path) is None


def test_finite_leaves_the_rest_alone() -> None:
    assert finite({"a": True, "b": None, "c": "nan", "d": 10**30, "e": -0.5}) == {
        "a": True,
        "b": None,
        "c": "nan",
        "d": 10**30,
        "e": -0.5,
    }


# --- lines ---------------------------------------------------------------------------------------------------------


def test_lines_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "rollouts/step-000001.jsonl"
    assert read_jsonl(path) == []
    rows = [{"text": "a\u2028b\nc\ud800"}, {"value": None}, {"value": 1.5}]
    for row in rows:
        append_jsonl(path, row)
    assert read_jsonl(path) == rows
    assert len(path.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', "{", '{"text": "' + "x" * 200_000])
def test_a_torn_last_line_is_left_out_and_then_cut_off(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n' + torn)
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}]
    append_jsonl(path, {"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}')
    assert read_jsonl(path) == [{"step": 1}]
    append_jsonl(path, {"step": 2})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_damaged_line_in_the_middle_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RunDirError, match=r"metrics\.jsonl:2 is damaged"):
        read_jsonl(path)


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    code = (
        "import sys; from aha.rundir import append_jsonl\n"
        "for n in range(100): append_jsonl(sys.argv[1], {'who': sys.argv[2], 'n': n, 'x': 'x' * 5000})"
    )
    writers = [python(code, path, who) for who in "ab"]
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    rows = read_jsonl(path)
    for who in "ab":
        assert [row["n"] for row in rows if row["who"] == who] == list(range(100))


# --- the lock ------------------------------------------------------------------------------------------------------

HOLD = (
    "import sys; from aha.rundir import RunDir\n"
    "with RunDir(sys.argv[1]).lock():\n"
    "    print('held', flush=True); sys.stdin.readline()\n"
)


def test_a_second_process_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    root = tmp_path / "runs/tiny"
    holder = python(HOLD, root)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(RunDirError, match=rf"tiny is in use by process {holder.pid} on "), RunDir(root).lock():
        pytest.fail("two holders")
    holder.communicate("\n")
    assert holder.returncode == 0
    with RunDir(root).lock():
        assert (root / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    holder = python(HOLD, tmp_path)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with RunDir(tmp_path).lock():
        pass


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunDir(tmp_path).lock():
        raise ZeroDivisionError
    with RunDir(tmp_path).lock():
        pass


def test_parts_have_locks_of_their_own(tmp_path: Path) -> None:
    """Two jobs work side by side in a run; neither the same part twice, nor the whole beside a part."""
    root = tmp_path / "run"
    part = python(HOLD.replace("lock()", "lock('1-cpt')"), root)
    assert part.stdout is not None and part.stdout.readline() == "held\n"
    with RunDir(root).lock("eval"):
        pass
    for wanted, where in (("1-cpt", "run/1-cpt"), (None, "run")):
        with pytest.raises(RunDirError, match=rf"{where} is in use by process \d+ on "), RunDir(root).lock(wanted):
            pytest.fail("two holders")
    part.communicate("\n")
    with RunDir(root).lock(), pytest.raises(RunDirError, match="run is in use"), RunDir(root).lock("1-cpt"):
        pytest.fail("a part beside the whole")


def test_a_patient_one_waits_its_turn(tmp_path: Path) -> None:
    holder = python(HOLD.replace("sys.stdin.readline()", "import time; time.sleep(1)"), tmp_path)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with RunDir(tmp_path).lock("1-cpt", patience=60):
        assert holder.wait(30) == 0


# --- stages and recipe ---------------------------------------------------------------------------------------------


def test_done(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.stage("distill") == tmp_path / "2-distill"
    assert run.done("distill") is None
    run.mark_done("distill", {"stage": "distill", "steps": 4})
    assert run.done("distill") == {"stage": "distill", "steps": 4}
    (tmp_path / "2-distill/done.json").write_text("{")
    assert run.done("distill") is None


def test_a_directory_belongs_to_one_recipe(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "tiny")
    run.claim("name: tiny\ngrpo: {steps: 80}\n", "aaaa")
    written = (tmp_path / "tiny/recipe.yaml").read_text()
    assert written == "# recipe aaaa\nname: tiny\ngrpo: {steps: 80}\n"
    run.claim("name: tiny\ngrpo: {steps: 80}\n", "aaaa")
    with pytest.raises(RunDirError) as caught:
        run.claim("name: tiny\ngrpo: {steps: 90}\n", "bbbb")
    assert str(caught.value) == (
        f"{tmp_path}/tiny belongs to a different recipe (- there, + given):\n"
        "  -grpo: {steps: 80}\n"
        "  +grpo: {steps: 90}\n"
        "choose another run directory, or delete it"
    )
    assert (tmp_path / "tiny/recipe.yaml").read_text() == written


def test_a_run_that_another_version_began_says_so(tmp_path: Path) -> None:
    RunDir(tmp_path).claim("name: tiny\n", "aaaa")
    with pytest.raises(RunDirError, match="the same words, begun by a version of aha in which a knob"):
        RunDir(tmp_path).claim("name: tiny\n", "bbbb")


def test_what_does_not_change_the_run_may_be_rewritten(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.claim("tracking: none\n", "aaaa")
    run.claim("tracking: wandb\n", "aaaa")
    assert (tmp_path / "recipe.yaml").read_text() == "# recipe aaaa\ntracking: wandb\n"


def test_what_is_written_is_json(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": float("-inf")})
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail) == {"b": 1, "a": None}
