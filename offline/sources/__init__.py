"""Where data sets come from: one file per family of public data, and the user's own catalogue."""
