"""The problems kinembed explains in one line. Everything else is a bug and shows its traceback."""


class KinembedError(Exception):
    """A problem that the user can fix: says what was found, what was wanted, and what to run."""


class DataError(KinembedError):
    """Photos, families, relations or pairs are missing or malformed."""


class WeightsError(KinembedError):
    """Pretrained or fine-tuned weights are missing or do not fit the network."""


class RunError(KinembedError):
    """A run folder lacks an artefact, or its artefacts do not match."""


class WriteError(KinembedError):
    """A file cannot be written."""
