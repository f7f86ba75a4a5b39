"""What can go wrong in the simulator because of what the user gave us; the command line shows the message alone."""


class SimulatorError(Exception):
    """A mistake the user can mend; the message names the place (file, option) and the fix."""
