"""smoke: every part in a minute on two cores, for tests; the weights are of no use."""

from nvg_model.config import PRESETS
from training.recipes.base import GeneratorRecipe, Recipe, TokenizerRecipe

SMOKE = Recipe(
    name="smoke",
    config=PRESETS["tiny"],
    tokenizer=TokenizerRecipe(steps=12, batch=6, warmup=2, soft_assignment_steps=4),
    generator=GeneratorRecipe(steps=12, batch=6, cached_views=48, warmup=2),
)
