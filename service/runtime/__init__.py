"""What any process of ours needs beside its work: logging, telemetry, threads, an embedded Redis, durable files.

Imports `settings`.
"""
