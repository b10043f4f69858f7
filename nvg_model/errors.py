"""The exceptions that users meet: one clear sentence each."""


class NVGError(ValueError):
    """A wrong input: the message says what is wrong, with which value, and what to do."""


class CheckpointError(NVGError):
    """A checkpoint that cannot be read or written."""
