"""Sources: every row is read, or counted and named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from aha.data.sources import Row, Tally, page_text, read_conversations, read_problems, read_rows, read_texts
from aha.errors import DataError
from aha.recipe.schema import Source

GOOD = [{"question": f"{n} + 1?", "answer": n + 1, "id": f"q{n}"} for n in range(8)]


def write_lines(path: Path, lines: Sequence[bytes | Row]) -> Path:
    path.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines) + b"\n"
    )
    return path


def read_all(path: Path | str, **more: Any) -> tuple[list[Row], Tally]:
    tally = Tally(f"path:{path}")
    return list(read_rows(Source(path=str(path), **more), 0, tally)), tally


def problems_of(path: Path, **more: Any) -> list[str]:
    return sorted(problem.prompt for problem in read_problems([Source(path=str(path), **more)], 0)[0])


# --- JSON lines ----------------------------------------------------------------------------------------------------


def test_jsonl(tmp_path: Path) -> None:
    rows, tally = read_all(write_lines(tmp_path / "a.jsonl", [*GOOD, b"", b"   "]))
    assert rows == GOOD and (tally.read, tally.bad) == (8, 0)


BROKEN = [b'{"question": "half', b"[1, 2]", b'"text"', b'{"question": "\xff\xfe"}', b"[" * 100_000]


def test_broken_lines_are_counted_and_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [*GOOD, *BROKEN, GOOD[0]])
    rows, tally = read_all(path)
    assert len(rows) == 9 and (tally.read, tally.bad) == (14, 5)
    assert [example.split(": ")[0] for example in tally.examples] == [f"{path}:{line}" for line in range(9, 14)]
    assert "not JSON" in tally.examples[0] and "a JSON list, not an object" in tally.examples[1]


def test_the_budget_decides(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [*GOOD, *BROKEN[:2]])
    assert len(problems_of(path, bad_rows=0.2)) == 8
    for budget in (0.19, 0.0):
        with pytest.raises(DataError) as caught:
            problems_of(path, bad_rows=budget)
        message = str(caught.value)
        assert f"2 of 10 rows cannot be used, more than bad_rows: {budget} allows" in message
        assert f"{path}:9: not JSON" in message and f"{path}:10" in message


def test_bad_rows_are_counted_once(tmp_path: Path) -> None:
    """A row that can be read and is of no use is one bad row of one, not half of two."""
    path = write_lines(tmp_path / "a.jsonl", [{"colour": "red"}] * 4)
    with pytest.raises(DataError, match="4 of 4"):
        problems_of(path, bad_rows=0.9)
    with pytest.raises(DataError, match="no rows"):
        problems_of(path, bad_rows=1.0)


def test_an_empty_file(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [])
    with pytest.raises(DataError, match=f"path:{path}: no rows"):
        problems_of(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_all(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_all(tmp_path / "*.jsonl")


def test_an_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(DataError, match=r"cannot read \.docx; expected one of \.jsonl"):
        read_all(tmp_path / "a.docx")


def test_globs_in_order_and_names_taken_literally(tmp_path: Path) -> None:
    for name in ("b", "a", "c[1]"):
        write_lines(tmp_path / f"{name}.jsonl", [{"id": name}])
    assert [row["id"] for row in read_all(tmp_path / "*.jsonl")[0]] == ["a", "b", "c[1]"]
    assert [row["id"] for row in read_all(tmp_path / "c[1].jsonl")[0]] == ["c[1]"]


def test_rows_limits(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", GOOD)
    assert len(read_all(path, rows=3)[0]) == 3
    assert len(list(read_rows(Source(path=str(path), rows=2), 0, Tally("x")))) == 2


# --- columns -------------------------------------------------------------------------------------------------------


def test_wrong_columns_name_what_is_there(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"colour": "red", "size": 3}])
    readers = (
        lambda source, tally: list(read_texts(source, 0, tally)),
        lambda source, tally: list(read_conversations(source, 0, None, tally)),
    )
    for reader in readers:
        tally = Tally("x")
        assert reader(Source(path=str(path)), tally) == []
        assert tally.bad == 1 and "its columns are colour, size" in tally.examples[0]
    with pytest.raises(DataError, match="no prompt, or no answer; its columns are colour, size"):
        problems_of(path)


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"Frage": "1 + 1?", "prompt": "not this", "Antwort": 2}])
    assert problems_of(path, columns={"prompt": "Frage", "answer": "Antwort"}) == ["1 + 1?"]
    with pytest.raises(DataError):
        problems_of(path, columns={"prompt": "Fragen", "answer": "Antwort"})


def test_answer_after(tmp_path: Path) -> None:
    rows = [{"question": "a?", "answer": "2 + 3 = 5 #### no\n#### 5 "}, {"question": "b?", "answer": "no mark"}]
    source = Source(path=str(write_lines(tmp_path / "a.jsonl", rows)), answer_after="####", bad_rows=0.5)
    (problem,), (tally,) = read_problems([source], 0)
    assert problem.answer == "5"
    assert tally.bad == 1 and "no answer after ####" in tally.examples[0]


def test_an_endless_source_of_the_wrong_kind_is_given_up() -> None:
    with pytest.raises(DataError, match="none of the first 1000 rows can be used"):
        read_problems([Source(builtin="arithmetic/texts")], 0)


def test_problems_once_with_ids_of_their_own(tmp_path: Path) -> None:
    first = write_lines(
        tmp_path / "a.jsonl", [{"prompt": "a", "answer": 1, "id": 1}, {"prompt": "a", "answer": 1, "id": 2}]
    )
    second = write_lines(tmp_path / "b.jsonl", [{"prompt": "b", "answer": 0, "id": 1}, {"prompt": "c", "answer": 3}])
    problems, tallies = read_problems([Source(path=str(first)), Source(path=str(second))], 0)
    assert sorted((p.prompt, p.answer) for p in problems) == [("a", "1"), ("b", "0"), ("c", "3")]
    assert len({p.id for p in problems}) == 3
    assert [tally.read for tally in tallies] == [2, 2]
    assert problems == read_problems([Source(path=str(first)), Source(path=str(second))], 0)[0]


# --- conversations -------------------------------------------------------------------------------------------------


def talks_of(path: Path, system: str | None) -> list[list[dict[str, str]]]:
    return list(read_conversations(Source(path=str(path)), 0, system, Tally("x")))


def test_the_system_prompt_opens_every_conversation(tmp_path: Path) -> None:
    asked, told = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    own = {"role": "system", "content": "own"}
    rows = [{"messages": [asked, told]}, {"messages": [own, asked, told]}, {"prompt": "a", "completion": "b"}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    ours = {"role": "system", "content": "ours"}
    assert talks_of(path, "ours") == [[ours, asked, told], [own, asked, told], [ours, asked, told]]
    assert talks_of(path, None) == [[asked, told], [own, asked, told], [asked, told]]


def test_the_older_spelling(tmp_path: Path) -> None:
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    assert talks_of(write_lines(tmp_path / "a.jsonl", [row]), None) == [
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ]


# --- tables, texts, pages ------------------------------------------------------------------------------------------


@pytest.fixture
def quiet_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.mark.usefixtures("quiet_cache")
def test_tables(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(GOOD)
    table.to_csv(str(tmp_path / "a.csv"))
    table.to_parquet(str(tmp_path / "a.parquet"))
    for name in ("a.csv", "a.parquet"):
        rows, tally = read_all(tmp_path / name)
        assert rows == GOOD and tally.read == 8


@pytest.mark.usefixtures("quiet_cache")
def test_a_broken_table(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as parquet"):
        read_all(tmp_path / "a.parquet")


@pytest.mark.usefixtures("quiet_cache")
@pytest.mark.parametrize("rows", [None, 3])
def test_a_folder_stands_in_for_a_hub_data_set(tmp_path: Path, rows: int | None) -> None:
    """The same columns from a local folder, read whole or streamed."""
    folder = tmp_path / "maths"
    folder.mkdir()
    write_lines(folder / "train.jsonl", GOOD)
    write_lines(folder / "test.jsonl", GOOD[:2])
    for split, count in (("train", 8), ("test", 2)):
        problems, _ = read_problems([Source(hub=str(folder), split=split, rows=rows)], 0)
        assert len(problems) == min(count, rows or count)
        assert all(int(p.prompt.split()[0]) + 1 == int(p.answer) for p in problems)


@pytest.mark.usefixtures("quiet_cache")
def test_a_hub_data_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"hub:.*cannot be loaded"):
        list(read_rows(Source(hub=str(tmp_path / "nowhere")), 0, Tally("x")))


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Zwölf", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xfa")
    tally = Tally("x")
    assert list(read_texts(Source(path=f"{tmp_path}/*"), 0, tally)) == ["# Zwölf"]
    assert (tally.read, tally.bad) == (2, 1) and "b.txt" in tally.examples[0]


PAGE = """<html><head><title>no</title></head><body><nav>menu</nav><div class="body" role="main"><script>x()</script>
<h1>Lists<a class="headerlink" href="#l">¶</a></h1><p>A list is
<em>one</em>
thing.</p><dl><dt>f(x)</dt><dd><em class="stable">Stable.</em><p>Returns &lt;x&gt;.</p></dd></dl>
<div class="highlight"><pre><span></span><span class="k">def</span> f(x):
    <span>if</span> x:
        return 1</pre></div>
<table><tr><td>a</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table></div><footer>end</footer></body></html>"""


def test_page_text() -> None:
    text = page_text(PAGE)
    assert not any(noise in text for noise in ("menu", "¶", "x()", "end", "no\n"))
    assert "A list is one thing.\n" in text, "a paragraph is one line"
    assert "def f(x):\n    if x:\n        return 1" in text, "code keeps its indentation"
    assert "Stable.\nReturns <x>." in text, "blocks stand apart"
    assert "\n\n\n" not in text
    assert [line.split() for line in text.splitlines()[-3:] if line] == [["a", "b"], ["c", "d"]]


def test_html_files(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "b.html").write_text("  ")
    assert list(read_texts(Source(path=f"{tmp_path}/*.html"), 0, Tally("x"))) == [page_text(PAGE)]


@pytest.mark.parametrize(
    "source", [{"builtin": "arithmetic/nothing"}, {"builtin": "arithmetic/facts", "options": {"x": 1}}]
)
def test_builtins_that_do_not_exist(source: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="builtin:"):
        read_problems([Source(**source)], 0)
