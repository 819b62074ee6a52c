"""Recipes by name: their keys, and what `--set` and `--sweep` say of values and former keys."""

from dataclasses import fields

import pytest

from kinembed.errors import KinembedError
from kinembed.recipes import (
    FINETUNE_RECIPES,
    HEAD_RECIPES,
    KIN,
    METRIC,
    RENAMED,
    ContrastiveRecipe,
    MetricRecipe,
    expand_sweep,
    override,
)

KEYS = [(recipe, {field.name for field in fields(recipe)}) for recipe in (KIN, METRIC)]


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_a_former_key_is_answered_with_the_new_one(old: str) -> None:
    new = RENAMED[old]
    takers = [(recipe, keys) for recipe, keys in KEYS if new in keys]
    assert takers, new
    for recipe, keys in takers:
        assert old not in keys
        with pytest.raises(KinembedError, match=f"{old} is called {new} now"):
            override(recipe, [f"{old}=1"])
        with pytest.raises(KinembedError, match=f"{old} is called {new} now"):
            expand_sweep(recipe, [f"{old}=1,2"], 0)


def test_names_are_those_of_the_recipes() -> None:
    for recipes in (FINETUNE_RECIPES, HEAD_RECIPES):
        assert all(recipe.name == name for name, recipe in recipes.items())
    assert isinstance(FINETUNE_RECIPES["kin"], ContrastiveRecipe)
    assert isinstance(HEAD_RECIPES["metric"], MetricRecipe)
