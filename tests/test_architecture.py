"""The rules of the house that are tests: who may import whom, which room opens which package, and that the words in the
README, the recipes and the Makefile are true.

When one of these fails, its message says which line broke which rule and what to do. If the rule is what is wrong,
change the table here, in the same commit and with a reason.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

from aha.cli import app
from aha.errors import RecipeError
from aha.recipe import load_recipe
from aha.rewards.load import load_reward
from aha.types import Completion, Problem

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
HOUSE = SOURCE / "aha"

# --- the tables ----------------------------------------------------------------------------------------------------

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "types", "seeds"),
    ("recipe", "rundir", "metrics", "environment", "child"),
    ("data", "rewards", "models", "health"),
    ("train", "rollout", "handoff"),
    ("stages", "evals", "report", "bench", "bench_rewards", "reward_kit"),  # reward_kit joins data and rewards
    ("pipeline", "launch", "slurm", "bench_algorithms", "bench_overlap"),
    ("cli", "cli_rewards", "watch", "terminal"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

BESIDE = {
    ("recipe", "rundir"),  # a plan looks at what is there already
    ("child", "rundir"),  # what went wrong is a file of the run directory
    ("metrics", "rundir"),  # metrics are lines of a file, written as all files are
    ("pipeline", "launch"),
    ("slurm", "pipeline"),  # a run is claimed as it is when it runs here
    ("slurm", "launch"),
    ("bench_algorithms", "pipeline"),  # it compares whole runs
    ("bench_overlap", "pipeline"),  # so does this
    ("cli", "watch"),
    ("cli", "cli_rewards"),  # the command line in two files: runs, and rewards
    ("cli", "terminal"),
    ("cli_rewards", "terminal"),
    ("cli_rewards", "watch"),
}
"""Who may import a neighbour on the same floor."""

NARROWER = {
    "report": {"errors", "types", "rundir", "metrics", "health"},  # it reads files only
    "handoff": {"errors", "types", "recipe", "rundir", "data", "models"},  # a checkpoint with its chat format
}
"""Rooms that may import less than their floor allows."""

OUTSIDE = {"install"}  # run by `make setup` before anything is installed
"""Files that are no room: they import nothing of aha, and nobody imports them."""

REWARD_FILES_MAY_IMPORT = ("aha.types", "aha.rewards.contract", "aha.rewards.answers", "aha.rewards.sandbox")

DOORS: dict[str, tuple[str, ...]] = {
    "pydantic": ("recipe",),
    "pydantic_core": ("recipe",),
    "yaml": ("recipe",),
    "datasets": ("data.sources", "data.rows", "train"),
    "lxml": ("data.sources",),
    "transformers": ("models", "data.chat", "handoff", "train", "rollout.transformers", "stages.context", "bench"),
    "tokenizers": ("models",),
    "safetensors": ("models",),
    "huggingface_hub": ("models",),
    "torch": ("data.packing", "models", "train", "rollout", "stages", "evals", "bench"),
    "liger_kernel": ("models.kernels",),
    "accelerate": ("train",),
    "trl": ("train", "bench_rewards"),
    "peft": ("train",),
    "deepspeed": ("train.parallel",),
    "psutil": ("launch",),
    "vllm": ("rollout.vllm",),
    "matplotlib": ("report.plots", "bench_algorithms"),
    "mpmath": ("rewards.answers", "reward_fns.math_answer"),
    "math_verify": ("reward_fns.math_answer", "bench_rewards"),
    "reasoning_gym": ("data", "reward_fns.reasoning_gym"),
    "jsonschema": ("reward_fns.json_schema",),
    "referencing": ("reward_fns.json_schema",),
    "pyseccomp": ("rewards.sandbox.syscalls",),
    "rich": ("cli", "cli_rewards", "watch", "terminal"),
    "typer": ("cli", "cli_rewards"),
}
"""Third-party package -> the rooms that may open it."""

TYPE_NAMES = {"PreTrainedModel", "PreTrainedTokenizerBase"}
"""What stages and evaluations may import from transformers: words for what passes through their hands."""

PRINTS = ("cli", "install")
NO_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


# --- reading the code ----------------------------------------------------------------------------------------------


class Import(NamedTuple):
    """One imported module: in which file and line, by which module, and what."""

    where: str
    importer: str
    target: str
    names: frozenset[str]


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """`recipe.plan` for src/aha/recipe/plan.py, `reward_fns.countdown` for reward_fns/countdown.py."""
    relative = path.relative_to(HOUSE if HOUSE in path.parents else ROOT).with_suffix("")
    return ".".join(relative.parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    return module.partition(".")[0]


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, also those inside functions and under TYPE_CHECKING."""
    importer = module_name(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(place(path, node), importer, alias.name, frozenset())
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{place(path, node)}: write imports out: from aha.room import name"
            if node.module == "aha":
                for alias in node.names:
                    target = "aha" if alias.name.startswith("__") else f"aha.{alias.name}"
                    yield Import(place(path, node), importer, target, frozenset())
            else:
                yield Import(place(path, node), importer, node.module, frozenset(alias.name for alias in node.names))


ALL_IMPORTS = [found for path in python_files("src/aha", "reward_fns") for found in imports(path)]
MODULES = {module_name(path) for path in python_files("src/aha")}


def inside(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def report_all(broken: list[str], what_to_do: str) -> None:
    assert not broken, "\n  ".join(["", *broken]) + f"\n{what_to_do}"


# --- floors and doors ----------------------------------------------------------------------------------------------


def test_every_room_has_a_floor() -> None:
    entries = {path.stem for path in HOUSE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    rooms = entries - {"__init__"} - OUTSIDE
    report_all(
        [f"src/aha/{room}" for room in sorted(rooms ^ set(FLOOR))],
        "These are in src/aha or in FLOORS, but not in both. Give a new room its floor in tests/test_architecture.py.",
    )


def may_import(importer: str, target: str) -> str | None:
    """None if a room may import another, else why not."""
    if importer == target:
        return None
    if importer in OUTSIDE:
        return f"{importer} runs before anything is installed, and imports nothing of aha"
    if target in OUTSIDE:
        return f"{target} is run by make setup, and is no room to import from"
    if target in NARROWER.get(importer, {target}) and FLOOR[target] < FLOOR[importer]:
        return None
    if (importer, target) in BESIDE:
        return None
    if importer in NARROWER:
        return f"{importer} imports only {', '.join(sorted(NARROWER[importer]))}"
    return f"{importer} is on floor {FLOOR[importer]}, {target} on floor {FLOOR[target]}"


def test_imports_go_down_only() -> None:
    broken = []
    for one in ALL_IMPORTS:
        if room_of(one.target) == "aha" and one.target != "aha" and not one.importer.startswith("reward_fns"):
            why = may_import(room_of(one.importer), room_of(one.target.removeprefix("aha.")))
            if why and one.importer != "aha":
                broken.append(f"{one.where} imports {one.target}: {why}")
    report_all(broken, "Imports go down only: move the code to the floor that needs it, or pass the value in.")


def test_what_is_imported_exists() -> None:
    broken = [
        f"{one.where} imports {one.target}{''.join(f', {name}' for name in sorted(one.names))}"
        for one in ALL_IMPORTS
        if one.target.startswith("aha.") and not exists(one)
    ]
    report_all(broken, "There is no such module in src/aha.")


def exists(one: Import) -> bool:
    module = one.target.removeprefix("aha.")
    if module not in MODULES:
        return False
    path = HOUSE.joinpath(*module.split("."))
    if not path.is_dir() or not one.names:
        return True
    defined = (path / "__init__.py").read_text(encoding="utf-8")
    return all(f"{module}.{name}" in MODULES or re.search(rf"\b{name}\b", defined) for name in one.names)


def test_reward_files_import_the_contract_only() -> None:
    broken = [
        f"{one.where} imports {one.target}"
        for one in ALL_IMPORTS
        if one.importer.startswith("reward_fns") and one.target.startswith("aha.")
        if not any(inside(one.target, allowed) for allowed in REWARD_FILES_MAY_IMPORT)
    ]
    report_all(broken, f"A reward file may import {', '.join(REWARD_FILES_MAY_IMPORT)}, and its own checker.")


def test_third_party_packages_have_doors() -> None:
    broken = []
    for one in ALL_IMPORTS:
        package = room_of(one.target)
        if package in sys.stdlib_module_names or package == "aha":
            continue
        if package not in DOORS:
            broken.append(f"{one.where} imports {package}, which has no door in DOORS")
        elif not any(inside(one.importer, door) for door in DOORS[package]) and not only_types(one):
            broken.append(f"{one.where} imports {package}; its doors are {', '.join(DOORS[package])}")
    report_all(broken, "Call the room that has the door. A new package gets one room, in DOORS in this file.")


def only_types(one: Import) -> bool:
    typed = one.target == "transformers" and room_of(one.importer) in ("stages", "evals")
    return typed and bool(one.names) and one.names <= TYPE_NAMES


def test_no_torch_where_plans_are_made() -> None:
    light = {*FLOORS[0], *FLOORS[1], *FLOORS[5], *FLOORS[6], "report", "reward_kit", "health"}
    heavy = {"torch", "transformers", "trl", "vllm", "datasets", "peft", "accelerate", "liger_kernel"}
    broken = [
        f"{one.where} imports {one.target}"
        for one in ALL_IMPORTS
        if room_of(one.importer) in light and room_of(one.target) in heavy
    ]
    report_all(broken, f"No torch in {', '.join(sorted(light))}, not even inside a function: `aha plan` stays quick.")


def test_the_command_line_loads_no_torch() -> None:
    code = "import sys, aha.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = {"torch", "transformers", "trl", "vllm", "datasets", "matplotlib", "numpy"} & set(done.stdout.split())
    assert not loaded, (
        f"`import aha.cli` loads {', '.join(sorted(loaded))}: find who imports it with python -X importtime"
    )


# --- how files look ------------------------------------------------------------------------------------------------


def test_only_the_command_line_prints() -> None:
    broken = [
        place(path, node)
        for path in python_files("src/aha", "reward_fns")
        if module_name(path) not in PRINTS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    report_all(broken, "print belongs to cli.py. A stage says things with Context.say, a pipeline with an Event.")


def test_names_say_something() -> None:
    broken = [
        str(path)
        for path in project_files()
        if NO_NAMES & {part.partition(".")[0] for part in path.parts} and path.suffix in ("", ".py")
    ]
    report_all(broken, f"Name it after what it does: {', '.join(sorted(NO_NAMES))} are no names.")


def test_every_module_opens_with_its_part_of_the_story() -> None:
    broken = [
        str(path.relative_to(ROOT))
        for path in python_files("src/aha", "reward_fns", "tests")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    report_all(broken, "Open the file with a docstring: which part of the story does it tell?")


def test_public_functions_have_type_hints() -> None:
    broken = [
        f"{place(path, node)}  {node.name}: {', '.join(missing)}"
        for path in python_files("src/aha")
        for node in public_functions(ast.parse(path.read_text(encoding="utf-8")))
        if (missing := without_hints(node))
    ]
    report_all(broken, "Say what goes in and what comes out.")


Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(tree: ast.Module | ast.ClassDef) -> Iterator[Function]:
    """Functions and methods without a leading underscore, in classes without one; and constructors."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        elif isinstance(node, Function) and (not node.name.startswith("_") or node.name in ("__init__", "__call__")):
            yield node


def without_hints(function: Function) -> list[str]:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    bare = [one.arg for one in every if one.annotation is None and one.arg not in ("self", "cls")]
    return bare + (["return"] if function.returns is None and function.name != "__init__" else [])


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "reward_fns").glob("[!_]*.py")))
def test_every_reward_has_a_test(name: str) -> None:
    expected = ROOT / "tests" / "reward_fns" / f"test_{name}.py"
    assert expected.is_file(), (
        f"write {expected.relative_to(ROOT)}: what {name} gives for right, wrong and hostile text"
    )


# --- nothing of one machine ----------------------------------------------------------------------------------------

# Written in pieces, so that this file does not contain what it looks for.
LOCAL = re.compile(
    "|".join(
        (
            r"(?<![\w.])/wo" + r"rk(?:/|\b)",
            r"/tmp/e" + r"nv\b",
            r"/home/(?!you)\w+",
            r"https?://\S*(?:py" + r"pi|artifactory|nexus|devpi|conda\.anaconda)",
            r"(?:extra-)?index-u" + r"rl",
        )
    )
)


def project_files() -> list[Path]:
    """Every file that is in git, or would be: relative to the root. Without git, every file outside dot folders."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
        found = [Path(name) for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        found = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
        found = [path for path in found if not any(part.startswith(".") or part == "runs" for part in path.parts)]
    return sorted(path for path in set(found) if (ROOT / path).is_file())


def test_nothing_of_one_machine_is_written_down() -> None:
    broken = []
    for path in project_files():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if found := LOCAL.search(line):
                broken.append(f"{path}:{number}  {found.group()}")
    report_all(broken, "A path or a package index of one machine: take it from the environment, or leave it out.")


# --- what is written for people is true ----------------------------------------------------------------------------

README = (ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").is_file() else ""
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8") if (ROOT / "CONTRIBUTING.md").is_file() else ""
MAKE_VARIABLES = {"RECIPE", "RUN", "OVERRIDES", "PYTHON", "NAME", "DATA", "CLUSTER"}


def code_of(markdown: str) -> str:
    """The code in a Markdown text, fenced and in line."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```\w*\n.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*fenced, *re.findall(r"`([^`\n]+)`", rest)])


def commands(text: str, program: str) -> list[str]:
    """`make plan RECIPE=…` and its like, wherever they stand; a comment, a comma or a bracket ends one."""
    word = r'(?:[A-Za-z_.]+=)?"[^"\n]*"|[^\s,()#`"]+'
    return [found.strip() for found in re.findall(rf"(?<![\w./-]){program}(?: +(?:{word}))*", text)]


def opening(recipe: Path) -> str:
    """The comment that a recipe opens with."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))])


RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
WRITTEN = {"README.md": code_of(README), "CONTRIBUTING.md": code_of(CONTRIBUTING)}
WRITTEN |= {f"recipes/{path.name}": opening(path) for path in RECIPES}
MAKE = [(source, line) for source, text in WRITTEN.items() for line in commands(text, "make")]
AHA = [(source, line) for source, text in WRITTEN.items() for line in commands(text, "aha")]


def make_targets() -> set[str]:
    """The Makefile's targets; every recipe is one."""
    heads = re.findall(r"^([a-z][a-z -]*):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    return {name for head in heads for name in head.split()} | {path.stem for path in RECIPES}


@pytest.mark.parametrize(("source", "line"), sorted(set(MAKE)))
def test_make_commands_that_people_are_told(source: str, line: str) -> None:
    words = shlex.split(line)[1:]
    variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z]+=", word))
    unknown = [word for word in words if "=" not in word and word not in make_targets()]
    assert not unknown, f"{source} says `{line}`, but the Makefile has no target {unknown[0]}"
    assert set(variables) <= MAKE_VARIABLES, f"{source} says `{line}`, but the Makefile knows {sorted(MAKE_VARIABLES)}"
    named = [ROOT / "recipes" / f"{word}.yaml" for word in words if word in {path.stem for path in RECIPES}]
    recipe = ROOT / variables["RECIPE"] if "RECIPE" in variables else next(iter(named), ROOT / "recipes" / "tiny.yaml")
    assert recipe.is_file(), f"{source} says `{line}`, but there is no {variables['RECIPE']}"
    load_recipe(recipe, shlex.split(variables.get("OVERRIDES", "")))


@pytest.mark.parametrize(("source", "line"), sorted(set(AHA)))
def test_aha_commands_that_people_are_told(source: str, line: str) -> None:
    words = shlex.split(line)[1:]
    if not words:
        return
    told: Any = typer.main.get_command(app)
    while hasattr(told, "commands") and words:  # `aha rewards` is a command, and `aha rewards check` is another
        assert words[0] in told.commands, f"{source} says `{line}`, but the commands are {', '.join(told.commands)}"
        told, words = told.commands[words[0]], words[1:]
    if "--help" not in words:
        told.make_context(told.name, words)  # raises click's own usage error
    for path in (word for word in words if word.endswith(".yaml")):
        assert (ROOT / path).is_file(), f"{source} says `{line}`, but there is no {path}"


def test_the_readme_opens_with_what_to_type() -> None:
    first = "\n".join(README.splitlines()[:15])
    for command in ("make demo", "make test"):
        assert command in first, f"the first fifteen lines of README.md say `{command}`"


def test_every_recipe_path_in_the_readme_exists() -> None:
    named = set(
        re.findall(r"\b(?:recipes|reward_fns|tests|src/aha)/[\w./-]*\w\.(?:yaml|py|md)\b", README + CONTRIBUTING)
    )
    missing = sorted(path for path in named if "NAME" not in path and not (ROOT / path).is_file())
    assert not missing, f"README.md or CONTRIBUTING.md name {', '.join(missing)}: there is no such file"


def the_map() -> dict[str, dict[str, str]]:
    """The README's map of the tree: top-level folder -> what stands indented below it -> what it does."""
    block = next((text for text in re.findall(r"^```\w*\n(.*?)^```", README, re.M | re.S) if "\nsrc/aha/" in text), "")
    drawn: dict[str, dict[str, str]] = {}
    for line in filter(str.strip, block.splitlines()):
        name, _, words = line.strip().partition(" ")
        if not line.startswith(" "):
            drawn[name] = {"": words.strip()}
        else:
            drawn[list(drawn)[-1]][name] = words.strip()
    return drawn


def test_the_map_is_the_tree() -> None:
    drawn = the_map()
    assert drawn, "README.md has a fenced map of the tree with a line that starts with src/aha/"
    rooms = {
        path.name + "/" * path.is_dir() for path in HOUSE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))
    }
    on_map = set(drawn["src/aha/"]) - {""}
    wrong = [f"src/aha/{room} is not on the map" for room in sorted(rooms - {"__init__.py"} - on_map)]
    wrong += [f"src/aha/{room} is on the map, but not in the tree" for room in sorted(on_map - rooms)]
    folders = {path.parts[0] + "/" for path in project_files() if len(path.parts) > 1 and path.parts[0][0] != "."}
    on_top = {name.partition("/")[0] + "/" for name in drawn if "/" in name}
    wrong += [f"{folder} is not on the map" for folder in sorted(folders - on_top)]
    wrong += [f"{folder} is on the map, but not in the tree" for folder in sorted(on_top - folders)]
    wrong += [
        f"{top}{name}: what does it do?" for top, below in drawn.items() for name, words in below.items() if not words
    ]
    report_all(wrong, "Change the map in README.md: one line for each room, with what it does.")


def test_the_readme_names_every_recipe() -> None:
    missing = [path.stem for path in RECIPES if f"`{path.stem}`" not in README]
    assert not missing, f"README.md's table of recipes lacks {', '.join(missing)}"


def in_fences(language: str) -> str:
    """The one code block of a language in the README."""
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"README.md has {len(found)} blocks of {language}, and this test knows one"
    return found[0]


def test_the_recipe_in_the_readme_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is refused in the words that follow it, when somebody mistypes `dapo`."""
    monkeypatch.setenv("AHA_REWARD_FNS", str(ROOT / "reward_fns"))
    monkeypatch.chdir(tmp_path)
    Path("maths.yaml").write_text(in_fences("yaml"), encoding="utf-8")
    load_recipe("maths.yaml")
    with pytest.raises(RecipeError) as refused:
        load_recipe("maths.yaml", ["grpo.algorithm=dappo"])
    told = str(refused.value).partition("\n")[2]
    assert told in README, f"README.md shows another message than:\n{told}"


def test_the_reward_in_the_readme_judges(tmp_path: Path) -> None:
    path = tmp_path / "very_word.py"
    path.write_text(in_fences("python"), encoding="utf-8")
    reward = load_reward(str(path), {})
    scores = reward.score_group([Completion("<answer>5</answer>"), Completion("six")], Problem("2 + 3?", "5", "one"))
    assert [score.value for score in scores] == [1.0, 0.0], "README.md's reward gives what it says"
