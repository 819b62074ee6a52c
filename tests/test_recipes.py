"""Recipes by name: their keys, and what `--set` and `--sweep` say of values and former keys."""

import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest

from kinembed.errors import KinembedError
from kinembed.recipes import (
    BASE,
    FINETUNE_RECIPES,
    HEAD_KINDS,
    HEAD_RECIPES,
    KIN,
    METRIC,
    RECIPE_KINDS,
    RECIPES,
    RENAMED,
    ContrastiveRecipe,
    MetricRecipe,
    Recipe,
    expand_sweep,
    override,
    read_recipe,
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


EVERY = {**FINETUNE_RECIPES, **HEAD_RECIPES}


@pytest.mark.parametrize("recipe", EVERY.values(), ids=EVERY)
def test_a_recipe_comes_back_from_its_record(recipe: Recipe) -> None:
    assert RECIPE_KINDS[recipe.kind] is type(recipe)
    assert read_recipe(json.loads(json.dumps(recipe.as_record()))) == recipe


def test_kinds_have_names_of_their_own() -> None:
    assert list(RECIPE_KINDS) == ["pair", "contrastive", "metric"]
    assert set(HEAD_KINDS.values()) <= set(HEAD_RECIPES)
    with pytest.raises(KinembedError, match="kind: found 'none', wanted pair or contrastive"):
        read_recipe({"kind": "none", "name": "x"})


@pytest.mark.parametrize(
    ("recipe", "key", "value", "wanted"),
    [
        (BASE, "hidden", (0,), "found 0, wanted 1 to 65536"),
        (BASE, "dropout", 1.0, "found 1.0, wanted 0 or more, below 1"),
        (BASE, "l2", math.inf, "found inf, wanted 0 or more"),
        (BASE, "kernel_std", -1.0, "found -1.0, wanted 0 or more"),
        (BASE, "bias_mean", math.nan, "found nan, wanted a finite number"),
        (BASE, "learning_rate", 1e31, r"found 1e\+31, wanted above 0, at most 1e\+30"),
        (BASE, "loss", "hinge", "found 'hinge', wanted bce or focal"),
        (BASE, "reduction", "max", "found 'max', wanted mean or sum"),
        (RECIPES["focal"], "gamma", -1.0, "found -1.0, wanted 0 or more"),
        (RECIPES["focal"], "alpha", 1.0, "found 1.0, wanted between 0 and 1"),
        (BASE, "features", ("abs", "abs"), "wanted one or more different ones of abs, square"),
        (KIN, "batch_pairs", 1, "found 1, wanted 2 or more"),
        (KIN, "temperature", 0.0, "found 0.0, wanted above 0"),
        (KIN, "layer_decay", 1.5, "found 1.5, wanted above 0, at most 1"),
        (KIN, "augment", "wild", "found 'wild', wanted none or mirror or light or strong"),
        (METRIC, "warmup_fraction", 1.0, "found 1.0, wanted between 0 and 1"),
        (METRIC, "expand", "on", "found 'on', wanted auto or exact or off"),
        (METRIC, "members", 0, "found 0, wanted 1 to 100"),
        (METRIC, "mixup", 1.5, "found 1.5, wanted 0 to 1"),
    ],
)
def test_a_recipe_refuses_what_nothing_can_be_trained_with(
    recipe: Recipe, key: str, value: Any, wanted: str
) -> None:
    with pytest.raises(KinembedError, match=f"^{key}: .*{wanted}"):
        replace(recipe, **{key: value})
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    with pytest.raises(KinembedError, match=f"^{key}: found"):
        override(recipe, [f"{key}={text}"])


@pytest.mark.parametrize("key", ["gamma", "alpha"])
def test_values_of_the_focal_loss_are_refused_with_another(key: str) -> None:
    with pytest.raises(KinembedError, match=f"^{key}: is of the focal loss; wanted loss=focal"):
        override(BASE, [f"{key}=0.5"])
    assert getattr(override(BASE, ["loss=focal", f"{key}=0.5"]), key) == 0.5


def test_names_are_those_of_the_recipes() -> None:
    for recipes in (FINETUNE_RECIPES, HEAD_RECIPES):
        assert all(recipe.name == name for name, recipe in recipes.items())
    assert isinstance(FINETUNE_RECIPES["kin"], ContrastiveRecipe)
    assert isinstance(HEAD_RECIPES["metric"], MetricRecipe)
