"""A page on one's own machine: draw a digit, drop a picture or type a sentence, and ask encrypted.

    browser ─(loopback)─▸ application: features, keys ─(ciphertexts)─▸ server of the bundle

The page and the keys are the client's. What goes to the server is encrypted; the page shows how
much that is, what it looks like, and what each step takes. Needs nothing from elsewhere.
"""
