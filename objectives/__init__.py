"""Numbers: what a network is worth and what it costs."""
