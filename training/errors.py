"""The mistakes that training reports to its user."""


class TrainingError(Exception):
    """A training, its data or its settings that cannot be used: one sentence that names the value and what to do."""
