"""Verbs: the stages from a supernet to a benchmarked detector."""
