"""Models: a frontend, a network and a head."""

from .classifier import Classifier as Classifier
