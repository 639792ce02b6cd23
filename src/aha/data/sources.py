"""Where data come from: the hub, files, Debian's documentation, reasoning-gym, or the embedded arithmetic world.

Every source gives rows (plain dictionaries); every row that cannot be read is counted and named, and more of them
than the recipe's `bad_rows` budget stop the run before it starts.
"""

from __future__ import annotations

import glob
import json
import random
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
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


HOPELESS = 1_000
"""After so many rows of which none could be used, the rest is not looked at: a source may be endless."""


@dataclass
class Tally:
    """What became of a source's rows; written beside the stage's metrics."""

    source: str
    read: int = 0
    """Rows seen, the bad ones included."""
    kept: int = 0
    bad: int = 0
    too_long: int = 0
    examples: list[str] = field(default_factory=list)
    """Where the first bad rows stood, and what was wrong with them."""

    def spoil(self, where: str, why: str) -> None:
        """The row that was just read is of no use.

        Raises DataError when no row has been of any use for very long.
        """
        self.bad += 1
        if len(self.examples) < 5:
            self.examples.append(f"{where}: {why}")
        if self.bad == self.read == HOPELESS:
            raise DataError(f"{self.source}: none of the first {self.read} rows can be used{self._listing()}")

    def unreadable(self, where: str, why: str) -> None:
        """A row that never became one: it counts as read, and as bad."""
        self.read += 1
        self.spoil(where, why)

    def settle(self, budget: float) -> None:
        """Raises DataError when there is nothing to train on, or when too much of it was unreadable."""
        if self.read and self.bad / self.read > budget:
            raise DataError(
                f"{self.source}: {self.bad} of {self.read} rows cannot be used, "
                f"more than bad_rows: {budget} allows{self._listing()}"
            )
        if self.read == self.bad:
            raise DataError(f"{self.source}: no rows{self._listing()}")

    def _listing(self) -> str:
        return "".join(f"\n  {example}" for example in self.examples)


def describe(source: Source) -> str:
    """A source in one word, as people would name it."""
    for kind in ("hub", "path", "builtin", "reasoning_gym", "debian"):
        if value := getattr(source, kind):
            return f"{kind}:{value}"
    return "nothing"


def read_rows(source: Source, seed: int, tally: Tally) -> Iterator[Row]:
    """The rows of one source, at most `source.rows` of them."""
    for row in islice(_open(source, seed, tally), source.rows):
        tally.read += 1
        yield row


def _open(source: Source, seed: int, tally: Tally) -> Iterator[Row]:
    if source.builtin:
        return _builtin(source, seed)
    if source.reasoning_gym:
        return _reasoning_gym(source, seed, tally)
    if source.debian:
        pages = _debian_pages(source.debian)
        random.Random(seed).shuffle(pages)  # a token budget smaller than the package shall not mean its first letters
        return _html_rows(pages, tally)
    if source.path:
        return _files(source.path, tally)
    return _hub(source)


def _hub(source: Source) -> Iterator[Row]:
    """Streamed: pretraining stops reading at its budget of tokens, far before the end of a web corpus."""
    import datasets  # slow to import, and only needed here

    try:
        rows = datasets.load_dataset(source.hub, source.config, split=source.split, streaming=True)
    except Exception as error:  # the hub's errors are many; the user needs to know which data set, and why
        raise DataError(f"hub:{source.hub} cannot be loaded: {type(error).__name__}: {error}") from error
    return iter(rows)


def _files(pattern: str, tally: Tally) -> Iterator[Row]:
    given = Path(pattern).expanduser()
    paths = [str(given)] if given.is_file() else sorted(glob.glob(str(given), recursive=True))
    if not paths:
        raise DataError(f"path:{pattern}: no such file")
    for path in map(Path, paths):
        reader = READERS.get(path.suffix)
        if reader is None:
            raise DataError(
                f"{path}: cannot read {path.suffix or 'a file without suffix'}; expected one of {', '.join(READERS)}"
            )
        try:
            yield from reader(path, tally)
        except (OSError, UnicodeDecodeError) as error:
            tally.unreadable(str(path), str(error))


def _jsonl(path: Path, tally: Tally) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 are a ValueError too
                tally.unreadable(f"{path}:{number}", f"not JSON: {error}")
                continue
            if isinstance(row, dict):
                yield row
            else:
                tally.unreadable(f"{path}:{number}", f"a JSON {type(row).__name__}, not an object")


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


NOISE = './/script | .//style | .//nav | .//*[contains(concat(" ", @class, " "), " headerlink ")]'
BLOCKS = {
    "address",
    "blockquote",
    "dd",
    "div",
    "dl",
    "dt",
    "figure",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "li",
    "ol",
    "p",
    "pre",
    "section",
    "table",
    "tr",
    "ul",
}
CELLS = {"td", "th"}
NOT_PROSE = re.compile(r"(genindex|py-modindex|packageindex|contents|search|changelog)[\w-]*\.html")


def page_text(page: str) -> str:
    """The prose of a documentation page: its main part without scripts, navigation and mark-up.

    A paragraph is one line, however it was wrapped; code keeps its lines and its indentation.
    """
    from lxml import html as lxml_html

    if not page.strip():
        return ""
    tree = lxml_html.fromstring(page)
    main = (tree.xpath('//*[@role="main"] | //main') or tree.xpath("//body") or [tree])[0]
    for noise in main.xpath(NOISE):
        noise.drop_tree()
    for element in main.iter(lxml_html.etree.Element):
        _lay_out(element)
    text = "\n".join(line.rstrip() for line in main.text_content().splitlines())
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _lay_out(element: Any) -> None:
    """White space as a reader sees it: blocks stand apart, cells side by side, and the rest runs on."""
    block = element.tag in BLOCKS
    if not any(True for _ in element.iterancestors("pre")):
        if element.tag != "pre":
            text = re.sub(r"\s+", " ", element.text or "")
            element.text = "\n" + text.lstrip() if block else text
        else:
            element.text = "\n" + (element.text or "")
        tail = re.sub(r"\s+", " ", element.tail or "")
        element.tail = "\n" + tail.lstrip() if block else "  " + tail.lstrip() if element.tag in CELLS else tail


def _debian_pages(package: str) -> list[Path]:
    """The HTML pages of a Debian documentation package, fetched with apt into the user's cache once."""
    cache = Path.home() / ".cache" / "aha" / "debian" / package
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as scratch:
            try:
                subprocess.run(
                    ["apt-get", "download", package], cwd=scratch, check=True, capture_output=True, text=True
                )
                archive = next(Path(scratch).glob("*.deb"))
                subprocess.run(["dpkg", "-x", archive, f"{scratch}/pages"], check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError, StopIteration) as error:
                detail = getattr(error, "stderr", "") or str(error)
                raise DataError(
                    f"debian:{package} cannot be fetched: {detail.strip()[-300:]}\n"
                    "It needs a Debian or Ubuntu machine with `apt-get update` done; "
                    "elsewhere give the pages as path: folder/**/*.html"
                ) from error
            with suppress(OSError):  # another process was here first
                Path(scratch, "pages").rename(cache)
    pages = [page for page in sorted(cache.rglob("*.html")) if page.is_file() and not page.is_symlink()]
    return [page for page in pages if not NOT_PROSE.fullmatch(page.name)]


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
        yield (
            {"prompt": item.prompt, "answer": item.answer, "id": item.id, **item.meta}
            if isinstance(item, Problem)
            else item
        )


def _reasoning_gym(source: Source, seed: int, tally: Tally) -> Iterator[Row]:
    from aha.data import gym

    return gym.rows(source, seed, tally)


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
    """Chat messages for distillation, from a `messages` column or from a prompt and a completion.

    Each begins with the recipe's system prompt, if it has one and the conversation has none of its own: what the model
    is told later, when it is sampled, it must have been told here.
    """
    for number, row in enumerate(read_rows(source, seed, tally)):
        messages = column(row, "messages", source)
        prompt, completion = column(row, "prompt", source), column(row, "completion", source)
        if isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages):
            chat = [_message(message) for message in messages]
        elif isinstance(prompt, str) and isinstance(completion, str):
            chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        else:
            columns = ", ".join(map(str, row))
            tally.spoil(
                f"{tally.source} row {number}", f"neither messages nor prompt and completion; its columns are {columns}"
            )
            continue
        opening = [{"role": "system", "content": system}] if system and chat[0].get("role") != "system" else []
        yield [*opening, *chat]


def _message(message: Row) -> Row:
    """One message in today's words; the older `from`, `value` spelling (ShareGPT) is translated."""
    if "from" not in message or "role" in message:
        return message
    role = {"human": "user", "gpt": "assistant"}.get(message["from"], message["from"])
    return {"role": role, "content": message.get("value")}


def read_problems(sources: Iterable[Source], seed: int) -> tuple[list[Problem], list[Tally]]:
    """Questions with answers, each question once, in an order that `seed` alone decides.

    Raises DataError for empty or broken sources.
    """
    found: dict[str, Problem] = {}
    keys: set[str] = set()
    tallies = []
    for index, source in enumerate(sources):
        tally = Tally(describe(source))
        for number, row in enumerate(read_rows(source, seed, tally)):
            prompt, answer = column(row, "prompt", source), _answer(row, source)
            if not isinstance(prompt, str) or answer is None:
                wanted = f"no prompt, or no answer{f' after {source.answer_after}' if source.answer_after else ''}"
                tally.spoil(f"{tally.source} row {number}", f"{wanted}; its columns are {', '.join(map(str, row))}")
                continue
            tally.kept += 1
            key = str(column(row, "id", source) or f"{tally.source}-{number}")
            if key in keys:  # two sources may count alike; what is sampled and voted on is told apart by its id
                key = f"{key}-{index}.{number}"
            if prompt not in found:
                keys.add(key)
                found[prompt] = Problem(prompt, answer, key, row)
        tally.settle(source.bad_rows)
        tallies.append(tally)
    shuffled = list(found.values())
    random.Random(seed).shuffle(shuffled)
    return shuffled, tallies


def _answer(row: Row, source: Source) -> str | None:
    """The answer as text; with `answer_after`, what follows the last such mark, and None where there is no mark."""
    answer = column(row, "answer", source)
    if answer is None or not source.answer_after:
        return None if answer is None else str(answer)
    _, mark, after = str(answer).rpartition(source.answer_after)
    return after.strip() if mark else None
