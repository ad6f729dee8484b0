"""Which codec setting each stream of a model should have, for a wanted ratio.

A stream's loss is a factor times the squared error of its values. The factor is measured with the language model: how
far its predictions move, by Kullback-Leibler divergence, when that stream alone is coded, with a few of the codec's
settings. Without a model it is one.
"""

from .allocation import allocate, allocate_in_pool, budget, choose, ratio_at
from .calibration import Calibration
from .choices import SETTINGS, Choices, measure, training_windows, with_model

__all__ = ["SETTINGS", "Calibration", "Choices", "allocate", "allocate_in_pool", "budget", "choose", "measure",
           "ratio_at", "training_windows", "with_model"]
