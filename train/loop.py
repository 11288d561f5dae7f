"""The loop over epochs, evaluation, and cross-validation over folds. Everything follows from the recipe's seed."""

import equinox as eqx
import jax
import numpy as np
import tqdm
from jaxtyping import Float, Int

import zoo
from audax_eqx.models import Classifier

from .recipe import Recipe
from .step import make_step, optimizer

Waves = Float[np.ndarray, "clips samples"]
Classes = Int[np.ndarray, " clips"]


def fit(recipe: Recipe, waves: Waves, classes: Classes, title: str) -> tuple[Classifier, eqx.nn.State]:
    """The trained model, in inference mode, and its state. Raises ValueError with fewer clips than a batch,
    and FloatingPointError when the loss is not finite."""
    steps = len(waves) // recipe.batch
    if steps == 0:
        raise ValueError(f"The recipe trains on batches of {recipe.batch} clips and got {len(waves)}: lower `batch`.")
    init_key, run_key = jax.random.split(jax.random.key(recipe.seed))
    model, state = zoo.create(recipe.entry, key=init_key)
    parameters, static = eqx.partition(model, eqx.is_array)
    update = optimizer(recipe, steps)
    step = make_step(recipe, update, static)
    carry = (parameters, state, update.init(parameters))
    targets = np.eye(recipe.entry.classes, dtype=np.float32)[classes]
    order = np.random.default_rng(recipe.seed)
    progress = tqdm.trange(recipe.epochs, desc=title, unit="epoch")
    for epoch in progress:
        shuffled = order.permutation(len(waves))[: steps * recipe.batch].reshape(steps, recipe.batch)
        losses = []
        for index, chosen in enumerate(shuffled):
            key = jax.random.fold_in(run_key, epoch * steps + index)
            carry, loss = step(carry, waves[chosen], targets[chosen], key)
            losses.append(loss)
        mean = float(np.mean([np.asarray(loss) for loss in losses]))
        if not np.isfinite(mean):
            raise FloatingPointError(f"The loss of epoch {epoch} is {mean}: lower `learning_rate`.")
        progress.set_postfix(loss=f"{mean:.3f}")
    parameters, state, _ = carry
    return eqx.nn.inference_mode(eqx.combine(parameters, static)), state


def accuracy(model: Classifier, state: eqx.nn.State, waves: Waves, classes: Classes) -> float:
    """The share of clips whose largest logit is at their class; `model` is in inference mode."""
    predict = eqx.filter_jit(lambda model, state, wave: model(wave, state)[0].argmax())
    predicted = np.asarray([predict(model, state, wave) for wave in waves])
    return float(np.mean(predicted == classes))


def cross_validate(
    recipe: Recipe, waves: Waves, classes: Classes, folds: Int[np.ndarray, " clips"]
) -> dict[int, float]:
    """Accuracy on each fold of a model trained on the others."""
    scores = {}
    for fold in np.unique(folds).tolist():
        held_out = folds == fold
        model, state = fit(recipe, waves[~held_out], classes[~held_out], f"without fold {fold}")
        scores[fold] = accuracy(model, state, waves[held_out], classes[held_out])
        tqdm.tqdm.write(f"fold {fold}: accuracy {scores[fold]:.3f} on {held_out.sum()} clips")
    return scores
