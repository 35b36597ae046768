"""How tensors sit in slots."""
