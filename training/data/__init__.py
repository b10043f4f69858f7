"""The data that weights are made from: commands that make datasets, and what reads them."""


class DataError(Exception):
    """A dataset that cannot be made or read: one sentence that names the value and says what to do."""
