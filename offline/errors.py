"""What can go wrong offline because of what the user gave us; the command line shows the message alone."""


class OfflineError(Exception):
    """A mistake the user can mend; the message names the place (file, line, field, option) and the fix."""
