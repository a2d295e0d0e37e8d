"""Choices: which network to try next, and the memory of those tried."""
