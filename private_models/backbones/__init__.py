"""Public feature extractors. Nothing private is learnt here: weights are frozen and known to all.

Each backbone has a module of its own, so that its package is needed only by those who use it.
"""

NAMES = ("efficientnet-lite0", "minilm", "orientations", "pixels")
"""Short ones, by which a command line asks for a backbone."""
