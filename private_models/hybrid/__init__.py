"""Hybrid: a public backbone at the client, a private head at the server, encrypted queries between.

    bundle = hybrid.build(head, backbone, examples=public_features)
    bundle.save("bundle/")                          # the server's; bundle/public is for clients
    server = hybrid.Server("bundle/")
    with hybrid.Client("bundle/public", server) as client:
        label, scores = client.query(picture)

Who learns what: whoever sees the head, or answers, learns of any training row almost nothing (the
head's differential privacy, `client.statement`). The server learns nothing of queries and answers
(CKKS, 128 bits), as long as nothing decrypted goes back to it. Clients with honest keys learn
scores, and no more of the head than these show (private answers). The backbone is public. Not
protected: whether answers are right, against the server; how many queries there were, and when.
"""

from private_models.hybrid.building import Layout, build
from private_models.hybrid.bundle import Bundle, load_bundle
from private_models.hybrid.client import Answer, Answers, Client
from private_models.hybrid.public_part import PublicPart, load_public
from private_models.hybrid.server import Batches, Server, running

__all__ = [
    "Answer",
    "Answers",
    "Batches",
    "Bundle",
    "Client",
    "Layout",
    "PublicPart",
    "Server",
    "build",
    "load_bundle",
    "load_public",
    "running",
]
