"""What users did before there was this service, out of a file: read, put in order, and made part of their sessions.

Beside `export`, which goes the other way. Imports `store` and below, and `tables`.
"""
