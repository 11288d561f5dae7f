"""Metrics: closed forms, and every clip counted once in whatever batches."""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from audax_eqx.models.simclr import cosines
from train import metrics


def test_accuracy_and_cross_entropy_are_their_definitions():
    predicted = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.2, 0.6, 0.2]])
    found = metrics.multiclass(predicted, np.eye(3)[[0, 2, 2, 1]])
    assert found["accuracy"] == 0.75
    assert found["loss"] == pytest.approx(-np.log([0.7, 0.4, 0.4, 0.6]).mean())


def test_map_and_auc_are_means_over_the_classes_that_are_there_and_not():
    predicted = np.array([[0.9, 0.2, 0.5], [0.8, 0.9, 0.5], [0.7, 0.3, 0.5], [0.1, 0.4, 0.5]])
    targets = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]])  # nobody has the third class
    found = metrics.multilabel(predicted, targets)
    # The first class ranks its positives 1 and 3, so that 3 of 4 pairs are right; the second ranks all right
    assert found["mAP"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert found["AUC"] == pytest.approx((3 / 4 + 1) / 2)
    assert found["d_prime"] == pytest.approx(np.sqrt(2) * norm.ppf(found["AUC"]))
    right = np.where(targets == 1, predicted, 1 - predicted)
    assert found["loss"] == pytest.approx(-np.log(right).mean())
    assert np.isnan(metrics.multilabel(predicted, np.zeros_like(targets))["mAP"])


def test_d_prime_is_the_distance_of_two_normal_distributions():
    rng = np.random.default_rng(0)
    targets = np.arange(20000)[:, None] % 2
    found = metrics.multilabel(expit(rng.normal(size=(20000, 1)) + 1.5 * targets), targets)
    assert found["d_prime"] == pytest.approx(1.5, abs=0.05)


def test_probabilities_of_one_clip_sum_to_one_or_stand_alone():
    logits = np.array([[2.0, 0.0, -1.0]], np.float32)
    np.testing.assert_allclose(metrics.probabilities(logits, "multiclass").sum(), 1)
    np.testing.assert_allclose(metrics.probabilities(logits, "multilabel"), 1 / (1 + np.exp(-logits)), rtol=1e-6)


class Cosines:
    def similarity(self, a, b):
        return cosines(a, b)


def test_clips_find_their_other_crop(monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", 4)
    rng = np.random.default_rng(1)
    anchors = rng.normal(size=(10, 32)).astype(np.float32)
    both = np.stack([anchors, anchors + 0.01 * rng.normal(size=anchors.shape).astype(np.float32)], axis=1)
    assert metrics.contrastive(Cosines(), both) == {"accuracy": 1.0}
    both[:4, 1] = both[[1, 0, 3, 2], 1]  # the first four find each other's
    assert metrics.contrastive(Cosines(), both) == {"accuracy": 0.6}
