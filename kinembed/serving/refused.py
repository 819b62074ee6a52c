"""Why a request gets no answer."""


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        reason: in one line.
        retry_after: seconds after which it may be asked again; None: never.
    """

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


def too_large(most: int) -> str:
    """Says that a body is too large."""
    return f"the request is larger than {most:,} bytes; send smaller photos"
