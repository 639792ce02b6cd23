"""Where data come from: the hub, files, Debian's documentation, reasoning-gym, or the embedded arithmetic world.

Every source gives rows (plain dictionaries); every row that cannot be read is counted and named, and more of them
than the recipe's `bad_rows` budget stop the run before it starts.
"""

from __future__ import annotations

import glob
import html
import json
import random
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from aha.data import arithmetic
from aha.errors import DataError
from aha.recipe.schema import Source
from aha.types import Problem

Row = dict[str, Any]
NAMES = {
    "text": ("text", "content", "document"),
    "messages": ("messages", "conversations"),
    "prompt": ("prompt", "problem", "question", "instruction"),
    "answer": ("answer", "solution", "target"),
    "completion": ("completion", "response", "output"),
    "id": ("id", "problem_id", "unique_id"),
}


@dataclass
class Tally:
    """What became of a source's rows; written beside the stage's metrics."""

    source: str
    read: int = 0
    kept: int = 0
    bad: int = 0
    too_long: int = 0
    examples: list[str] = field(default_factory=list)
    """Where the first bad rows stood, and what was wrong with them."""

    def spoil(self, where: str, why: str) -> None:
        self.bad += 1
        if len(self.examples) < 5:
            self.examples.append(f"{where}: {why}")

    def settle(self, budget: float) -> None:
        """Raises DataError when there is nothing to train on, or when too much of it was unreadable."""
        total = self.read + self.bad
        listing = "".join(f"\n  {example}" for example in self.examples)
        if total and self.bad / total > budget:
            raise DataError(
                f"{self.source}: {self.bad} of {total} rows cannot be read, more than bad_rows: {budget} allows{listing}"
            )
        if self.read == 0:
            raise DataError(f"{self.source}: no rows{listing}")


def describe(source: Source) -> str:
    """A source in one word, as people would name it."""
    for kind in ("hub", "path", "builtin", "reasoning_gym", "debian"):
        if value := getattr(source, kind):
            return f"{kind}:{value}"
    return "nothing"


def read_rows(source: Source, seed: int, tally: Tally, limit: int | None = None) -> Iterator[Row]:
    """The rows of one source, at most `limit` of them."""
    limit = min(filter(None, (limit, source.rows)), default=None)
    for row in islice(_open(source, seed, tally, limit), limit):
        tally.read += 1
        yield row


def _open(source: Source, seed: int, tally: Tally, limit: int | None) -> Iterator[Row]:
    if source.builtin:
        return _builtin(source, seed)
    if source.reasoning_gym:
        return _reasoning_gym(source, seed)
    if source.debian:
        return _html_rows(_debian_pages(source.debian), tally)
    if source.path:
        return _files(source.path, tally)
    return _hub(source, limit)


def _hub(source: Source, limit: int | None) -> Iterator[Row]:
    import datasets  # slow to import, and only needed here

    try:
        rows = datasets.load_dataset(source.hub, source.config, split=source.split, streaming=limit is not None)
    except Exception as error:  # the hub's errors are many; the user needs to know which data set, and why
        raise DataError(f"hub:{source.hub} cannot be loaded: {type(error).__name__}: {error}") from error
    return iter(rows)


def _files(pattern: str, tally: Tally) -> Iterator[Row]:
    paths = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
    if not paths:
        raise DataError(f"path:{pattern}: no such file")
    for path in map(Path, paths):
        reader = READERS.get(path.suffix)
        if reader is None:
            raise DataError(f"{path}: cannot read {path.suffix or 'a file without suffix'}; expected one of {', '.join(READERS)}")
        try:
            yield from reader(path, tally)
        except (OSError, UnicodeDecodeError) as error:
            tally.spoil(str(path), str(error))


def _jsonl(path: Path, tally: Tally) -> Iterator[Row]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                tally.spoil(f"{path}:{number}", f"not JSON: {error}")
                continue
            if isinstance(row, dict):
                yield row
            else:
                tally.spoil(f"{path}:{number}", f"a JSON {type(row).__name__}, not an object")


def _table(path: Path, tally: Tally) -> Iterator[Row]:
    import datasets

    kind = {".csv": "csv", ".parquet": "parquet", ".json": "json"}[path.suffix]
    try:
        yield from datasets.load_dataset(kind, data_files=str(path), split="train")
    except Exception as error:  # Arrow raises its own kinds
        raise DataError(f"{path} cannot be read as {kind}: {error}") from error


def _text(path: Path, tally: Tally) -> Iterator[Row]:
    yield {"text": path.read_text(encoding="utf-8")}


def _html_rows(paths: Iterable[Path], tally: Tally) -> Iterator[Row]:
    for path in paths:
        yield from _html(path, tally)


def _html(path: Path, tally: Tally) -> Iterator[Row]:
    text = page_text(path.read_text(encoding="utf-8", errors="replace"))
    if text:
        yield {"text": text, "id": path.name}


READERS: dict[str, Callable[[Path, Tally], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _table,
    ".parquet": _table,
    ".csv": _table,
    ".txt": _text,
    ".md": _text,
    ".html": _html,
}


def page_text(page: str) -> str:
    """The prose of a documentation page: its main part without scripts, navigation and mark-up."""
    from lxml import html as lxml_html

    if not page.strip():
        return ""
    tree = lxml_html.fromstring(page)
    main = tree.xpath('//*[@role="main"] | //main') or tree.xpath("//body") or [tree]
    for noise in main[0].xpath('.//script | .//style | .//nav | .//*[@class="headerlink"]'):
        noise.drop_tree()
    text = html.unescape(main[0].text_content())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.splitlines())).strip()


def _debian_pages(package: str) -> list[Path]:
    """The HTML pages of a Debian documentation package, fetched with apt into the user's cache once."""
    cache = Path.home() / ".cache" / "aha" / "debian" / package
    if not cache.exists():
        with tempfile.TemporaryDirectory() as scratch:
            try:
                subprocess.run(["apt-get", "download", package], cwd=scratch, check=True, capture_output=True, text=True)
                archive = next(Path(scratch).glob("*.deb"))
                subprocess.run(["dpkg", "-x", archive, f"{scratch}/pages"], check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError, StopIteration) as error:
                detail = getattr(error, "stderr", "") or str(error)
                raise DataError(
                    f"debian:{package} cannot be fetched: {detail.strip()[-300:]}\n"
                    "It needs a Debian or Ubuntu machine with `apt-get update` done; elsewhere give the pages as path: folder/**/*.html"
                ) from error
            cache.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-r", f"{scratch}/pages", cache], check=True)
    return sorted(cache.rglob("*.html"))


def _builtin(source: Source, seed: int) -> Iterator[Row]:
    makers: dict[str, Callable[..., Iterable[Any]]] = {
        "arithmetic/texts": arithmetic.texts,
        "arithmetic/facts": arithmetic.facts,
        "arithmetic/traces": arithmetic.traces,
        "arithmetic/problems": arithmetic.problems,
    }
    maker = makers.get(source.builtin or "")
    if maker is None:
        raise DataError(f"builtin:{source.builtin} does not exist; expected one of {', '.join(makers)}")
    options = {"seed": seed} | source.options | ({"rows": source.rows} if source.rows else {})
    try:
        made = maker(**options)
    except TypeError as error:
        raise DataError(f"builtin:{source.builtin} with options {source.options}: {error}") from error
    for item in made:
        yield {"prompt": item.prompt, "answer": item.answer, "id": item.id, **item.meta} if isinstance(item, Problem) else item


def _reasoning_gym(source: Source, seed: int) -> Iterator[Row]:
    from aha.data import gym

    return gym.rows(source, seed)


def column(row: Row, name: str, source: Source) -> Any:
    """The value of a named column, under the recipe's name for it or one of the usual ones; None when absent."""
    chosen = source.columns.get(name)  # type: ignore[call-overload]
    for key in (chosen,) if chosen else NAMES[name]:
        if row.get(key) is not None:
            return row[key]
    return None


def read_texts(source: Source, seed: int, tally: Tally) -> Iterator[str]:
    """Documents for pretraining."""
    for number, row in enumerate(read_rows(source, seed, tally)):
        text = column(row, "text", source)
        if isinstance(text, str) and text.strip():
            yield text
        else:
            tally.spoil(f"{tally.source} row {number}", f"no text; its columns are {', '.join(map(str, row))}")


def read_conversations(source: Source, seed: int, system: str | None, tally: Tally) -> Iterator[list[dict[str, str]]]:
    """Chat messages for distillation, from a `messages` column or from a prompt and a completion."""
    for number, row in enumerate(read_rows(source, seed, tally)):
        messages = column(row, "messages", source)
        prompt, completion = column(row, "prompt", source), column(row, "completion", source)
        if isinstance(messages, list) and messages:
            yield messages
        elif isinstance(prompt, str) and isinstance(completion, str):
            opening = [{"role": "system", "content": system}] if system else []
            yield [*opening, {"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        else:
            tally.spoil(
                f"{tally.source} row {number}", f"neither messages nor prompt and completion; its columns are {', '.join(map(str, row))}"
            )


def read_problems(sources: Iterable[Source], seed: int) -> tuple[list[Problem], list[Tally]]:
    """Questions with answers, each question once, in an order that `seed` alone decides.

    Raises DataError for empty or broken sources.
    """
    found: dict[str, Problem] = {}
    tallies = []
    for source in sources:
        tally = Tally(describe(source))
        for number, row in enumerate(read_rows(source, seed, tally)):
            prompt, answer = column(row, "prompt", source), column(row, "answer", source)
            if not isinstance(prompt, str) or answer is None:
                tally.spoil(f"{tally.source} row {number}", f"no prompt or no answer; its columns are {', '.join(map(str, row))}")
                continue
            key = str(column(row, "id", source) or f"{tally.source}-{number}")
            found.setdefault(prompt, Problem(prompt, str(answer), key, row))
        tally.settle(source.bad_rows)
        tallies.append(tally)
    shuffled = list(found.values())
    random.Random(seed).shuffle(shuffled)
    return shuffled, tallies
