"""Exact arithmetic on the residues of ciphertexts: the servers of both layouts.

Batched: every coefficient of every polynomial, in the NTT domain and modulo every prime, is an
independent small network over Z_p[s]: `schedule` lists its steps, `evaluator` runs them on all
cores with compiled kernels (numba), `torch_evaluator` on a GPU.

Packed: a program's instructions become tasks on whole rows, polynomials modulo one prime
(`packed_schedule`), key switching among them (`switching`), which one or more threads work through
(`row_tasks`, `packed_evaluator`).

No secret of a client and no SEAL in here.
"""
