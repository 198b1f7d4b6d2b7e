"""The pool: which GPU a lease gets and how much of it. Pure bookkeeping: no sockets, no processes, no clock."""
