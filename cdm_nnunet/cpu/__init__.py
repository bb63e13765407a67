"""Faster implementations for the CPU; other devices use torch's.

=================  ===================================================================================================
``instance_norm``  normalises in the channels-last layout: with the pointwise head, a step takes a fifth less time
``layout``         channels last: convolutions take a quarter less time, in bfloat16 half
``memory``         keeps freed memory: a step takes a fifth less of the processor's time, and 0.1 GB more memory
``sparse_rois``    finds and sorts the voxels of ROIs in NumPy, several times faster than torch
``step_sums``      sums V-metrics' steps slice by slice in NumPy, without an index of all positions
=================  ===================================================================================================

Measurements: ``docs/performance.md`` and ``docs/benchmarks.md``.
"""
