"""Differentially private heads on public features. Nothing is here yet: see the README."""
