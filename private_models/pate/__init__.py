"""PATE: private aggregation of teacher ensembles (Papernot et al. 2017, 2018).

    private rows ─parts─▸ teachers ─votes on public rows─▸ noisy answers ─▸ student

Teachers are never published. What is published are a few answers to public questions, and a student
that has seen nothing else, in the form of a `PrivateHead`.
"""
