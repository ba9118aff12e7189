"""The one exception for a user's mistake: what is wrong, where, and the remedy, in one line."""


class LatentFaceError(Exception):
    """Something the user can mend; the command line prints it as one line and exits with code 2."""
