"""The log as files for others: rows, Parquet, the Open Bandit Pipeline's form.

Imports `store` and below.
"""
