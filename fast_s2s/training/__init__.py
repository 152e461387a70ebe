"""Training: `Trainer`, its settings, and what a run leaves in its folder."""

from fast_s2s.training.config import TrainingConfig as TrainingConfig
from fast_s2s.training.interrupt import TrainingInterrupted as TrainingInterrupted
from fast_s2s.training.state import TrainingResult as TrainingResult
from fast_s2s.training.trainer import Trainer as Trainer
