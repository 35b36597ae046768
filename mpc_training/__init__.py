"""Training on secret shares across parties. Nothing is here yet: see the README."""
