"""A user's mistake: what is wrong, where, and the remedy, in one line."""

LONGEST = 1000  # characters: names and rows out of files may have any length


class LatentFaceError(Exception):
    """Something the user can mend; the command line prints it as one line and exits with code 2."""

    def __init__(self, message: str) -> None:
        # A loader's worker process hands its error over inside the text of a traceback: the line is at its end.
        super().__init__(_one_line(message.rpartition("LatentFaceError: ")[2].strip()))


def _one_line(text: str) -> str:
    """Without what ends a line or steers a terminal, as messages quote strangers' files; a long middle is left out."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text)


class PictureError(LatentFaceError):
    """A codec fails on one picture; others may do."""
