"""What numba-cuda's tests import besides the public names of numba.cuda: their own files, their ``testing``, and a few modules of Numba."""
