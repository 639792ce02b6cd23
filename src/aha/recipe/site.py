"""The site file: what a Slurm cluster wants to hear from a job, once for all recipes.

A recipe says what a run is; a site file says where it runs, and nothing of it changes a result. It is read by the same
reader and explained by the same words as a recipe. slurm/ has three commented examples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from aha.errors import RecipeError
from aha.recipe.document import read_document
from aha.recipe.explain import explain
from aha.recipe.schema import Block, Count, Whole


def _refuse(expected: str) -> PydanticCustomError:
    return PydanticCustomError("site_value", "{expected}", {"expected": expected})


def _one_line(value: str) -> str:
    if "\n" in value:
        raise _refuse("one line")
    return value


def _quotable(value: str) -> str:
    """Stands between double quotes in a script, so that $USER and $SLURM_JOB_ID mean there what they mean in a shell."""
    if any(mark in value for mark in '"`\\\n'):
        raise _refuse('text without ", `, \\ or a line break; $NAME is replaced when the job runs')
    return value


def _text(value: Any) -> Any:
    """`HF_HUB_OFFLINE: 1` is how people write it."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _directive(value: str) -> str:
    if not value.startswith("-") or "\n" in value:
        raise _refuse("an option of sbatch, for example --constraint=h100")
    return value


Directive = Annotated[str, AfterValidator(_directive)]
Line = Annotated[str, AfterValidator(_one_line)]
Word = Annotated[str, BeforeValidator(_text), Field(pattern=r"^[\w.,:@+/-]+$")]
Quotable = Annotated[str, BeforeValidator(_text), AfterValidator(_quotable)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
TimeLimit = Annotated[str, BeforeValidator(_text), Field(pattern=r"^(\d+-)?\d+(:\d+){0,2}$")]


class Container(Block):
    """An image in which the work runs; the script around it runs on the node itself."""

    image: Quotable = Field(description="a file or a name that the runtime knows")
    runtime: Literal["pyxis", "apptainer"] = "pyxis"
    mounts: list[Quotable] = Field(default_factory=list, description="folder, or outside:inside; the run's are there")


class Serving(Block):
    """What nodes that serve rollouts ask for where it differs from the nodes that train; a key that is absent does not."""

    partition: Word | None = None
    qos: Word | None = None
    cpus: Count | None = Field(default=None, description="for each GPU; of the whole node where there is none")
    memory: Word | None = None
    gpu_type: Word | None = None
    directives: list[Directive] | None = Field(default=None, description="in the place of the site's, not beside them")


class Site(Block):
    """One cluster. Every key may be absent: then the cluster's own default holds."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    time: TimeLimit | None = Field(default=None, description="limit of a stage's job, for example 24:00:00")
    eval_time: TimeLimit | None = Field(default=None, description="limit of an evaluation's job; `time` if absent")
    cpus: Count = Field(default=8, description="for each GPU; of the whole job where there is none")
    memory: Word | None = Field(default=None, description="of a node, for example 500G; 0 is all that it has")
    gpu_type: Word | None = Field(default=None, description="where the cluster has several: h100")
    notice: Count = Field(
        default=300, description="seconds before the time limit at which a stage saves and goes on later"
    )
    restarts: Whole = Field(default=20, description="how often a job may be started again, for whatever reason")
    modules: list[Word] = Field(default_factory=list, description="loaded with `module load`")
    container: Container | None = None
    scratch: Quotable | None = Field(
        default=None, description="a fast folder on every node, for temporary files and caches"
    )
    environment: dict[Name, Quotable] = Field(default_factory=dict)
    setup: list[Line] = Field(default_factory=list, description="further shell lines before the work")
    directives: list[Directive] = Field(default_factory=list, description="further options of sbatch")
    command: Quotable | None = Field(default=None, description="aha on the nodes; the one that submits if absent")
    serving: Serving | None = Field(
        default=None, description="nodes of another kind for rollout servers: their job is then a heterogeneous one"
    )

    @property
    def of_servers(self) -> Site:
        """The site as the nodes that serve rollouts see it."""
        return self.model_copy(update=self.serving.model_dump(exclude_none=True) if self.serving else {})


def load_site(path: str | Path) -> Site:
    """The site in a YAML file. Raises RecipeError with everything that is wrong with it."""
    document = read_document(path, what="a site file", holding="partition, account, time, …")
    if document.mistakes:
        raise RecipeError(*document.mistakes)
    tree: dict[str, Any] = {key: value for key, value in document.tree.items() if value is not None}
    try:
        return Site.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(*explain(error, tree, document.where, Site)) from None
