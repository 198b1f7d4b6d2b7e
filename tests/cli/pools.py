"""Pools to draw: empty ones, ordinary ones, and such with everything too long."""

from __future__ import annotations

from bitfusion.cli.view import Gpu, Lease, Pool, Session, Waiter

GIB = 1 << 30
SERVER = "127.0.0.1:56001"
LONG_USER = "bernhard.maximilian.von.und.zu.hohenstein"
LONG_PROGRAM = "/opt/conda/envs/very-long-environment-name/bin/python -m torch.distributed.run --nproc 8"


def session(number=0, program="python train.py", **known):
    return Session(
        **{
            "id": f"s{number}",
            "pid": 4000 + number,
            "program": program,
            "memory": GIB // 4,
            "busy": 0.3,
            "idle_s": 2.0,
            **known,
        }
    )


def lease(number=0, sessions=1, **known):
    usual = {
        "id": f"{number:04x}" * 4,
        "user": "ana",
        "group": "ml",
        "hostname": "node17",
        "program": "bitfusion",
        "pid": 3999,
        "memory": GIB,
        "exclusive": False,
        "weight": 100,
        "cap": None,
        "priority": 0,
        "state": "active",
        "age_s": 120.0,
        "idle_s": 3.0,
        "left_s": None,
        "sessions": tuple(session(item) for item in range(sessions)),
    }
    return Lease(**{**usual, **known})


def gpu(index=0, leases=(), **known):
    usual = {
        "server": SERVER,
        "index": index,
        "kind": "virtual",
        "uuid": "GPU-7f6c2b1e-aaaa-bbbb-cccc-1234567890ab",
        "name": "Virtual GPU",
        "memory_size": 16 * GIB,
        "leased_size": sum(item.memory for item in leases),
        "utilization": None,
        "temperature_c": None,
        "power_w": None,
        "leases": tuple(leases),
    }
    return Gpu(**{**usual, **known})


def pool(*gpus, waiters=(), servers=(SERVER,)):
    return Pool(tuple(servers), "0.1.0", tuple(gpus), tuple(waiters))


def full():
    """Two GPUs that tell all of themselves, long names, several sessions, one lease alone on its GPU, one that waits."""
    known = {"memory_size": 80 * GIB, "utilization": 0.41, "temperature_c": 41.0, "power_w": 312.0}
    several = tuple(session(number, program=LONG_PROGRAM) for number in range(3))
    long = Lease(**{**_fields(lease(2, user=LONG_USER, idle_s=2000.0)), "sessions": several})
    several = tuple(session(number, program=LONG_PROGRAM) for number in range(3))
    first = gpu(0, [lease(1), long], name="NVIDIA H100 80GB HBM3, long " * 3, **known)
    second = gpu(1, [lease(3, memory=80 * GIB, exclusive=True, left_s=7200.0)], name="NVIDIA H100 80GB HBM3", **known)
    waiter = Waiter(
        SERVER,
        1,
        "carl",
        5,
        "2 whole GPUs",
        312.0,
        "GPU 0: 2 leases on it, 78 GiB of 80 GiB free, 80 GiB needed; GPU 1: alone",
    )
    return pool(first, second, waiters=[waiter])


def crowded():
    """Forty sessions on two servers."""
    servers = ("a.example.org:56001", "b.example.org:56001")
    gpus = [
        gpu(0, [lease(20 * place + number, memory=GIB // 4, cap=25) for number in range(20)], server=server)
        for place, server in enumerate(servers)
    ]
    return pool(*gpus, servers=servers)


def _fields(item):
    return {name: getattr(item, name) for name in item.__slots__}
