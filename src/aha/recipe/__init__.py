"""The recipe and what follows from it: a YAML file is read, validated, checked and worked out into a plan."""

from aha.recipe.check import check
from aha.recipe.document import Document, read_document
from aha.recipe.fit import require_fit
from aha.recipe.hardware import hardware_overrides
from aha.recipe.load import dump_recipe, load_recipe, recipe_hash
from aha.recipe.plan import EvalPlan, Plan, StagePlan, make_plan
from aha.recipe.rows import Row, describe, foretell
from aha.recipe.schema import Recipe

__all__ = [
    "Document",
    "EvalPlan",
    "Plan",
    "Recipe",
    "Row",
    "StagePlan",
    "check",
    "describe",
    "dump_recipe",
    "foretell",
    "hardware_overrides",
    "load_recipe",
    "make_plan",
    "read_document",
    "recipe_hash",
    "require_fit",
]
