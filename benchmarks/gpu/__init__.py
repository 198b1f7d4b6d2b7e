"""What ``scripts/gpu_check.py`` measures on a real GPU: each part in a process of its own, every figure beside its floor.

``python -m benchmarks.gpu PART --devices SPEC --out FILE`` runs one part. On another device than a GPU (a rehearsal) the floors that
need CUDA in this process are left out.
"""
