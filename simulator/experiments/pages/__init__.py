"""Tables, plots and pages made of the analysis, for docs/.

Imports `analysis` and `runs`.
"""
