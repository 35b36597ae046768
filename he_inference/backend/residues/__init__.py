"""Exact arithmetic on the residues of ciphertexts: the server of the batched layout.

Every coefficient of every polynomial, in the NTT domain and modulo every prime, is an independent
small network over Z_p[s]: `schedule` lists its steps, `evaluator` runs them on all cores with
compiled kernels (numba), `torch_evaluator` on a GPU. No secret and no SEAL in here.
"""
