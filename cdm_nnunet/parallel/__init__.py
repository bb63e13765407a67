"""Parallel work on many cases: processes of this machine, or a Dask cluster.

A command chooses where its work runs by :func:`~cdm_nnunet.parallel.cluster.on_cluster`; the work itself only calls
:func:`unordered` or :func:`ordered`.
"""

from cdm_nnunet.parallel.local import end_with_parent, processes_for, usable_cores
from cdm_nnunet.parallel.spread import Engine, active_engine, ordered, unordered, using

__all__ = [
    "Engine",
    "active_engine",
    "end_with_parent",
    "ordered",
    "processes_for",
    "unordered",
    "usable_cores",
    "using",
]
