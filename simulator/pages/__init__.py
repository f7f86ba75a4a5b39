"""What pages have in common: the HTML document around them, and parts that are written between two marks.

Imports nothing of ours.
"""
