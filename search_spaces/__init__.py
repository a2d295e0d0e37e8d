"""Nouns: the networks that can be built."""
