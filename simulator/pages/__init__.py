"""Parts that pages share: filling in templates, the HTML document around, and parts written between two marks.

Imports nothing of ours.
"""
