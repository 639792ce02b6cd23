"""The report of a synthetic run: what it says, what it survives, and that nothing hostile gets out of it."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from aha.errors import RunDirError
from aha.report import COMPARE_COLUMNS, compare_table, write_report
from aha.report.plots import _smooth
from aha.report.read import Series, clean, number, read_lines, read_run
from aha.report.samples import pick_stories
from aha.report.wording import count, duration, headline, same_policy

STEPS = {"1-cpt": 240, "2-distill": 160, "3-grpo": 200}
REWARDS = {"math_answer": 1.0, "think_format": 0.2}
GRPO_KEYS = ("reward", "completion_length", "no_signal", "entropy", "mismatch", "truncated")
START = 1_760_000_000.0


def share(value: float, half: float = 0.04) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half)}


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def dump_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def metrics_of(directory: str, steps: int) -> list[dict[str, Any]]:
    """Curves that look like curves: noise around a trend."""
    draw, rows = random.Random(directory), []
    for step in range(1, steps + 1):
        at, noise = step / steps, draw.gauss(0, 1)
        row: dict[str, Any] = {
            "step": step,
            "time": START + 1.5 * step,
            "tokens": step * 4096,
            "learning_rate": 1e-4 * (1 - at),
        }
        row |= {"grad_norm": 0.8 + 0.1 * abs(noise), "tokens_per_second": 2700 + 90 * noise}
        row["loss"] = {"1-cpt": 3.9, "2-distill": 1.9}.get(directory, 0) * math.exp(-4 * at) + 0.4 + 0.05 * noise
        if directory == "3-grpo":
            correct = min(1.0, max(0.0, 0.25 + 0.45 * (1 - math.exp(-3 * at)) + 0.06 * noise))
            form = min(1.0, 0.6 + 0.5 * at + 0.02 * noise)
            row |= {"loss": 0.002 * noise, "reward": correct + 0.2 * form, "reward_std": 0.4 - 0.1 * at}
            row |= {
                "reward/math_answer": correct,
                "reward/think_format": form,
                "completion_length": 24 + 19 * at + 1.3 * noise,
            }
            row |= {
                "no_signal": 0.15 + 0.3 * at + 0.03 * noise,
                "entropy": 0.6 - 0.35 * at + 0.02 * noise,
                "truncated": max(0.0, 0.1 - 0.1 * at),
            }
            row |= {
                "mismatch": 0.0021 + 0.0004 * abs(noise),
                "arrived": None if step == 1 else 1 - 0.01 * abs(noise),
                "kl": 0.03 * at,
                "clip_ratio": 0.01 + 0.004 * abs(noise),
                "unjudged": int(step == 50),
            }
            row |= {
                "seconds/rollout": 0.9,
                "seconds/reward": 0.08,
                "seconds/train": 0.45,
                "rollout_tokens_per_second": 3900 + 100 * noise,
            }
        rows.append(row)
    return rows


def rollouts_of(step: int, groups: int = 4, size: int = 8, recurring: bool = True) -> list[dict[str, Any]]:
    draw, rows = random.Random(step), []
    for group in range(groups):
        problem = f"arithmetic-{group}" if recurring else f"arithmetic-{step}-{group}"
        start, more, less = (random.Random(f"{problem} {part}").randint(2, 60) for part in range(3))
        prompt = f"Start with {start}. Add {more}. Take away {less}. What is the result?"
        for _ in range(size):
            right = draw.random() < 0.15 + 0.8 * step / STEPS["3-grpo"]
            answer = start + more - less
            shown = answer if right else answer + draw.randint(1, 9)
            worked = f"{start} + {more} = {start + more} ; {start + more} - {less} = {answer}" if right else f"{shown}"
            rows.append(
                {
                    "step": step, "problem_id": problem, "prompt": prompt, "answer": str(answer),
                    "completion": f"<think>{worked}</think><answer>{shown}</answer>", "tokens": 31 if right else 12, "truncated": False,
                    "rewards": {
                        "math_answer": {"value": float(right), "reason": "equal" if right else f"{shown} is not {answer}", "seconds": 0.001},
                        "think_format": {"value": 1.0, "reason": "well formed", "seconds": 0.0},
                    },
                    "reward": float(right) + 0.2, "advantage": 0.8 if right else -0.8,
                }
            )  # fmt: skip
    return rows


def result_of(task: str, at_1: float, tokens: float) -> dict[str, Any]:
    at_k = {"2": share(min(1, at_1 * 1.25)), "4": share(min(1, at_1 * 1.5))}
    found = {
        "task": task,
        "problems": 200,
        "samples": 4,
        "pass_at_1": share(at_1),
        "pass_at_k": at_k,
        "majority": share(min(1, at_1 * 1.1)),
    }
    return found | {"mean_tokens": tokens, "truncated": 0.01, "unjudged": 0}


def kernels_of() -> dict[str, Any]:
    fused = [{"kernel": "linear_cross_entropy", "by": "torch", "why": ""}]
    return {
        "requested": "auto",
        "device": "cpu",
        "fused": fused,
        "plain": [{"kernel": "rms_norm", "why": "Liger's is Triton: needs a GPU"}],
    }


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, as pipeline and stages leave it."""
    root = tmp_path_factory.mktemp("runs") / "tiny"
    tasks = [{"name": "facts", "raw": True, "grader": "exact"}, {"name": "arithmetic", "grader": "math_answer"}]
    recipe = {
        "name": "tiny", "model": {"from_scratch": {"architecture": "olmo2", "layers": 4, "hidden_size": 128}}, "seed": 7,
        "chat": {"think": ["<think>", "</think>"], "answer": ["<answer>", "</answer>"]},
        "grpo": {"rewards": REWARDS, "algorithm": "dapo"}, "eval": {"tasks": tasks},
        "expect": {"hardware": "2 CPU cores", "minutes": 20, "result": "arithmetic pass@1 above 0.55"},
    }  # fmt: skip
    stages = [{"name": at[2:], "directory": at, "steps": steps} for at, steps in STEPS.items()]
    evals = [{"targets": ["1-cpt", "2-distill", "3-grpo"], "tasks": ["arithmetic"], "after": "3-grpo"}]
    dump(root / "plan.json", {"name": "tiny", "device": "cpu", "recipe": recipe, "stages": stages, "evals": evals})
    dump(
        root / "environment.json",
        {"aha": "0.1.0", "python": "3.11.7", "torch": "2.8.0", "vllm": None, "cpu": "Xeon", "cores": 2, "gpus": []},
    )
    (root / "recipe.yaml").write_text("model: {from_scratch: {}}\nseed: 7\n")
    for at, steps in STEPS.items():
        dump_lines(root / at / "metrics.jsonl", metrics_of(at, steps))
        dump(root / at / "kernels.json", kernels_of())
        done = {
            "stage": at[2:],
            "seconds": 1.5 * steps + 12,
            "steps": steps,
            "tokens": steps * 4096,
            "startup_seconds": 12.0,
        }
        dump(root / at / "done.json", done | {"checkpoint": {"path": f"{at}/model", "fingerprint": f"f{at}"}})
    for step in range(1, STEPS["3-grpo"] + 1, 10):
        dump_lines(root / f"3-grpo/rollouts/step-{step:06d}.jsonl", rollouts_of(step))
    results = {}
    for at, facts, words in (
        ("base", 0.02, 0.01),
        ("1-cpt", 0.71, 0.03),
        ("2-distill", 0.66, 0.42),
        ("3-grpo", 0.65, 0.63),
    ):
        outcome = {"facts": result_of("facts", facts, 3.1), "arithmetic": result_of("arithmetic", words, 41.5)}
        results[at] = {"fingerprint": f"f{at}", "tasks": outcome}
    dump(root / "results.json", results)
    return root


@pytest.fixture
def run_dir(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "tiny")


class Page(HTMLParser):
    """What a browser would make of the page: its tags, its attributes, its text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.source = page.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report_of(run_dir: Path) -> tuple[Page, str]:
    page = write_report(run_dir)
    assert page == run_dir / "report.html"
    return Page(page), (run_dir / "report.md").read_text(encoding="utf-8")


def test_the_outcome_comes_first(run_dir: Path) -> None:
    page, markdown = report_of(run_dir)
    outcome = "GRPO raised held-out pass@1 on arithmetic from 0.42 [0.38, 0.46] after distillation to 0.63 [0.59, 0.67]; the intervals do not overlap."
    assert outcome in page.text
    assert f"**{outcome}" in markdown
    assert page.text.index(outcome) < page.text.index("Accuracy")
    assert "What is missing" not in page.text


def test_both_forms_hold_every_chapter_figure_and_table(run_dir: Path) -> None:
    page, markdown = report_of(run_dir)
    figures = {path.stem for path in (run_dir / "report").glob("*.svg")}
    assert figures == {"accuracy", "pass-at-k", "loss", "reward-and-length", "rewards", "health", "times"}
    assert page.tags.count("svg") == len(figures)
    for figure in figures:
        assert f"(report/{figure}.svg)" in markdown
        ElementTree.parse(run_dir / "report" / f"{figure}.svg")
    for words in (
        "0.42 [0.38, 0.46]",
        "rms_norm",
        "needs a GPU",
        "above 0.55",
        "15 min 36 s",
        "dapo",
        "2.8.0",
        "linear_cross_entropy",
    ):
        assert words in page.text, words
        assert words in markdown, words
    assert "vllm" not in page.text
    assert "| seed | 7 |" in markdown


def test_the_page_runs_nothing_and_fetches_nothing(run_dir: Path) -> None:
    page, _ = report_of(run_dir)
    assert not {"script", "link", "img", "iframe", "object", "image", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "xlink:href"}:
            assert value.startswith("#")
    assert "@import" not in page.source and not re.search(r"url\((?!#)", page.source)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)), "two figures share an id"


HOSTILE = {
    "script": "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "break out": "</pre></article></main></html><style>*{display:none}</style>",
    "lone surrogate": "low \udc80 high \ud83d end",
    "controls": "nul \x00 bell \x07 escape \x1b[31m override \u202eevil\u202c",
    "fence": "```\n# not a heading\n```` ~~~ | cell | [link](javascript:alert(1))",
    "markup": "<think>&amp; &lt;</think> $\\frac{1}{0}$ ]]> <!-- ",
    "empty": "",
    "a megabyte": "ha" * 500_000 + "THE END",
    "no spaces": "\u0628" * 5000 + "Z\u0335\u0336\u0337" * 500,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_completions_stay_text(run_dir: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aha.report.write.draw_figures", lambda run: {})  # completions are not drawn
    text = HOSTILE[kind]
    for path in (run_dir / "3-grpo/rollouts").iterdir():
        rows = read_lines(path)[0][:4]
        for row in rows:
            row["completion"] = row["prompt"] = row["problem_id"] = text
            row["rewards"]["math_answer"]["reason"] = row["rewards"][text[:200]] = text
        dump_lines(path, rows)
    page, markdown = report_of(run_dir)
    assert page.tags.count("html") == page.tags.count("main") == page.tags.count("style") == 1
    assert not {"script", "img"} & set(page.tags)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", page.source + markdown)
    assert len(page.source) < 3_000_000
    if kind == "a megabyte":
        assert "characters left out" in page.text and "THE END" in page.text
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    assert (
        "# not a heading\n" not in outside
        and not re.search(r"(?<!\\)\]\(javascript", outside)
        and "<script" not in outside
    )


@pytest.mark.filterwarnings("ignore:Glyph")
def test_hostile_names_of_tasks_and_rewards(run_dir: Path) -> None:
    name = "<b>$\\x_{$|`\ud800\x00</b>"
    results = json.loads((run_dir / "results.json").read_text())
    for found in results.values():
        found["tasks"][name] = found["tasks"].pop("facts")
    dump(run_dir / "results.json", results)
    path = run_dir / "3-grpo/metrics.jsonl"
    dump_lines(path, [row | {f"reward/{name}": 0.5} for row in read_lines(path)[0]])
    page, markdown = report_of(run_dir)
    assert clean(name) in page.text
    assert page.tags.count("b") == page.source.count("<b>")  # our own alone
    assert f"| {name} |" not in markdown


PIECES = [
    "plan.json",
    "recipe.yaml",
    "environment.json",
    "results.json",
    "1-cpt",
    "3-grpo",
    "3-grpo/metrics.jsonl",
    "3-grpo/rollouts",
]
PIECES += ["2-distill/kernels.json", "3-grpo/done.json"]


@pytest.mark.parametrize("piece", PIECES)
def test_a_missing_piece_is_named(run_dir: Path, piece: str) -> None:
    path = run_dir / piece
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page, markdown = report_of(run_dir)
    told = markdown.partition("## What is missing")[2].partition("\n## ")[0]
    stage = {"1-cpt": "CPT", "2-distill": "Distill", "3-grpo": "GRPO"}.get(piece.partition("/")[0], "")
    assert (stage if stage else piece) in told
    assert "What is missing" in page.text


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "not json",
        "[1, 2]",
        "null",
        '{"a": ',
        '{"stages": 3, "recipe": [], "tasks": null, "3-grpo": {"tasks": {"x": {"pass_at_1": "NaN"}}}}',
        "[" * 5000,
    ],
)
def test_damaged_files_never_crash_it(run_dir: Path, damage: str) -> None:
    for path in run_dir.rglob("*.json*"):
        path.write_text(damage)
    page, _ = report_of(run_dir)
    assert "What is missing" in page.text


def test_bytes_that_are_no_text_never_crash_it(run_dir: Path) -> None:
    for path in [path for path in run_dir.rglob("*") if path.is_file()]:
        path.write_bytes(bytes(range(256)) * 3)
    report_of(run_dir)


def test_an_empty_directory(tmp_path: Path) -> None:
    page, markdown = report_of(tmp_path)
    assert "No stage of this run has logged a step yet." in page.text
    assert "There is no stage" in markdown
    assert "svg" not in page.tags


def test_no_directory_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no such folder"):
        write_report(tmp_path / "absent")


def test_a_run_that_stopped_half_way(run_dir: Path) -> None:
    (run_dir / "3-grpo/done.json").unlink()
    (run_dir / "results.json").unlink()
    path = run_dir / "3-grpo/metrics.jsonl"
    lines = path.read_text().splitlines()[:37]
    path.write_text("\n".join(lines) + '\n{"step": 38, "lo')
    page, _ = report_of(run_dir)
    assert "GRPO is unfinished, at step 37 of 200" in page.text
    assert "1 line of 3-grpo/metrics.jsonl could not be read and is left out" in page.text
    assert "No checkpoint has been evaluated, so nothing here says how good it is." in page.text
    assert "so far" in page.text and "Large figures" not in page.text


def test_values_that_are_no_numbers_break_the_curve_and_are_counted(run_dir: Path) -> None:
    path = run_dir / "3-grpo/metrics.jsonl"
    rows = read_lines(path)[0]
    for row, odd in zip(rows[20:], (None, math.nan, math.inf, -math.inf, 1e300, "nan", True, [1]), strict=False):
        row.update(dict.fromkeys(GRPO_KEYS, odd) | {"loss": odd})
    dump_lines(path, rows)
    page, _ = report_of(run_dir)
    assert "The loss of GRPO was not a finite number at 8 logged steps" in page.text
    assert not re.search(r"\b(nan|inf)\b", page.text, re.IGNORECASE)


def test_one_step_and_nothing_but_holes(run_dir: Path) -> None:
    for at in STEPS:
        path = run_dir / at / "metrics.jsonl"
        dump_lines(
            path,
            [
                dict.fromkeys(row, None) | {"step": row["step"]} if at == "3-grpo" else row
                for row in read_lines(path)[0][:1]
            ],
        )
    page, _ = report_of(run_dir)
    assert "GRPO has logged no reward" in page.text


def test_what_was_predicted_stands_beside_what_was_seen(run_dir: Path) -> None:
    assert "Predicted and observed" not in report_of(run_dir)[1], "a plan without a prediction has nothing to compare"
    plan, done = (json.loads((run_dir / path).read_text()) for path in ("plan.json", "1-cpt/done.json"))
    said: dict = {"memory": {"total": 2.0, "allocated": 2.0}, "time": {"step": 0.5, "start": 10.0, "total": None}}
    said |= {"tokens": 1000}
    dump(run_dir / "plan.json", plan | {"prediction": {"stages": {"cpt": said, "grpo": {"memory": "broken"}}}})
    dump(run_dir / "1-cpt/done.json", done | {"memory": {"gib": 2.5, "measure": "VmHWM"}})
    page, markdown = report_of(run_dir)
    assert "| CPT | peak memory | 2.00 GiB | 2.50 GiB | 1.25 |" in markdown
    steps = STEPS["1-cpt"]
    assert f"| CPT | whole stage | {duration(10 + 0.5 * steps)} | {duration(1.5 * steps + 12)} |" in markdown
    assert f"| CPT | tokens | 1000 | {count(done['tokens'])} | {done['tokens'] / 1000:.2f} |" in markdown
    assert "| GRPO | peak memory | – | – | – |" in markdown
    assert "Observed memory is VmHWM" in page.text


def test_results_of_another_checkpoint_are_told(run_dir: Path) -> None:
    done = json.loads((run_dir / "3-grpo/done.json").read_text())
    done["checkpoint"]["fingerprint"] = "other"
    dump(run_dir / "3-grpo/done.json", done)
    page, _ = report_of(run_dir)
    assert "The results of GRPO are of another checkpoint than the one it has now" in page.text


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (0.42, 0.63, "raised"),
        (0.42, 0.44, "the intervals overlap"),
        (0.6, 0.3, "lowered"),
        (0.5, 0.5, "left held-out pass@1 on arithmetic at 0.50"),
    ],
)
def test_the_headline_says_no_more_than_the_intervals(run_dir: Path, before: float, now: float, said: str) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    results["2-distill"]["tasks"]["arithmetic"]["pass_at_1"] = share(before)
    results["3-grpo"]["tasks"]["arithmetic"]["pass_at_1"] = share(now)
    dump(run_dir / "results.json", results)
    assert said in headline(read_run(run_dir))


def test_a_single_evaluated_stage_is_compared_with_nothing(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    dump(run_dir / "results.json", {"base": results["base"]})
    assert "nothing yet to compare" in headline(read_run(run_dir))


def test_the_headline_says_whether_the_samples_were_the_policys_own(run_dir: Path) -> None:
    metrics = run_dir / "3-grpo/metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows[7]["arrived"], rows[9]["mismatch"] = 0.81, 0.012
    dump_lines(metrics, rows)
    said = same_policy(read_run(run_dir))
    assert said.startswith("Trainer and engine differed by at most 0.01 nats per sampled token; of each of 199 updates")
    assert said.endswith("at least 81.0 % reached the engine.") and said in report_of(run_dir)[0].text
    dump_lines(metrics, [{key: value for key, value in row.items() if key != "arrived"} for row in rows])
    assert same_policy(read_run(run_dir)) == "Trainer and engine differed by at most 0.01 nats per sampled token."


def test_a_problem_that_comes_up_again_is_followed(run_dir: Path) -> None:
    files = sorted((run_dir / "3-grpo/rollouts").iterdir())
    for story in pick_stories(files, "math_answer"):
        first, _, last = story.moments
        assert story.same_problem and first.group.problem == last.group.problem
        assert first.group.step < last.group.step
        assert (
            first.row["rewards"]["math_answer"]["value"] == 0.0 and last.row["rewards"]["math_answer"]["value"] == 1.0
        )
        assert first.row["tokens"] < last.row["tokens"]


def test_problems_that_are_alike_stand_in_for_each_other(run_dir: Path) -> None:
    files = sorted((run_dir / "3-grpo/rollouts").iterdir())
    for path in files:
        dump_lines(path, rollouts_of(int(path.stem[-6:]), recurring=False))
    stories = pick_stories(files, "math_answer")
    assert len(stories) == 2 and not any(story.same_problem for story in stories)
    assert len({story.moments[-1].group.problem for story in stories}) == 2
    assert stories[0].moments[0].group.share < stories[0].moments[-1].group.share


@pytest.mark.parametrize("amount", [0, 1, 2, 3, 4])
def test_few_rollouts(run_dir: Path, amount: int) -> None:
    files = sorted((run_dir / "3-grpo/rollouts").iterdir())[:amount]
    assert {len(story.moments) for story in pick_stories(files, "math_answer")} <= {min(amount, 3)}


def test_compare_table(run_dir: Path) -> None:
    rows = compare_table(json.loads((run_dir / "results.json").read_text()))
    assert rows[-1] == ("GRPO", "arithmetic", "0.63 [0.59, 0.67]", "0.69 [0.65, 0.73]", "41.5")
    assert [row[0] for row in rows] == ["Base", "Base", "CPT", "CPT", "Distill", "Distill", "GRPO", "GRPO"]
    assert all(len(row) == len(COMPARE_COLUMNS) for row in rows)
    assert compare_table({"3-grpo": {"tasks": {"x": None}}, "2-distill": 3}) == [("GRPO", "x", "–", "–", "–")]


def test_writing_twice_gives_the_same_bytes(run_dir: Path) -> None:
    first = write_report(run_dir).read_bytes()
    assert write_report(run_dir).read_bytes() == first
    assert not list(run_dir.glob(".report*"))


def test_units() -> None:
    assert [count(value) for value in (None, 0, 41.52, 950, 12_345, 4_560_000, 2e9)] == [
        "–",
        "0",
        "41.5",
        "950",
        "12.3 k",
        "4.56 M",
        "2 G",
    ]
    assert [duration(value) for value in (None, 4.21, 59, 200, 18_725)] == [
        "–",
        "4.2 s",
        "59 s",
        "3 min 20 s",
        "5 h 12 min",
    ]
    assert [number(value) for value in (1, True, "1", math.nan, 1e300, 10**400)] == [1.0, None, None, None, None, None]


def test_the_running_mean_is_the_mean_of_what_is_near_and_known() -> None:
    assert _smooth([1.0, 2.0, math.nan, 4.0, 6.0], 3) == [1.5, 1.5, 3.0, 5.0, 5.0]
    assert math.isnan(_smooth([math.nan] * 3, 3)[1])


def test_ends_of_a_series_pass_over_holes() -> None:
    assert Series([1, 2, 3], [math.nan, 2.0, 4.0]).ends() == (2.0, 4.0)
    assert Series([1], [2.0]).ends() is None


def test_it_needs_no_torch_and_no_drawing_to_be_imported() -> None:
    code = "import sys, aha.report; print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
