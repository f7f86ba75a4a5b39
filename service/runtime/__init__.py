"""Infrastructure of every process: logging, telemetry, threads, an embedded Redis, durable files.

Imports `settings`.
"""
