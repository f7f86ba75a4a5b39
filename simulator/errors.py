"""Errors that the user's input can cause in the simulator; the command line shows only the message."""


class SimulatorError(Exception):
    """A mistake the user can mend; the message names the place (file, option) and the fix."""
