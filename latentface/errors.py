"""A user's mistake: what is wrong, where, and the remedy, in one line."""


class LatentFaceError(Exception):
    """Something the user can mend; the command line prints it as one line and exits with code 2."""

    def __init__(self, message: str) -> None:
        # A loader's worker process hands its error over inside the text of a traceback: the line is at its end.
        super().__init__(message.rpartition("LatentFaceError: ")[2].strip())


class PictureError(LatentFaceError):
    """A codec fails on one picture; others may do."""
