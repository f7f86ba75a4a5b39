"""Errors that the user's input can cause offline; the command line shows only the message."""


class OfflineError(Exception):
    """A mistake the user can mend; the message names the place (file, line, field, option) and the fix."""
