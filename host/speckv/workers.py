"""Processes that share a long computation."""

import contextlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from unittest import mock

# As many processes as cores, each with one thread, outrun one process whose matrix products alone use all cores.
_ONE_THREAD = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
                                      "VECLIB_MAXIMUM_THREADS")}


def run(tasks, jobs=None):
    """Yields (key, result) of `tasks` in the order in which they end.

    Parameters
    ----------
    tasks : dict
        Key to (function, arguments); all of them survive pickling.
    jobs : int, optional
        Processes, the number of cores if not given; with 1 all is done in this one.
    """
    jobs = min(jobs or os.cpu_count(), len(tasks))
    if jobs <= 1:
        for key, (function, arguments) in tasks.items():
            yield key, function(*arguments)
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, _ONE_THREAD))
        # Forked processes would keep the threads that this one's NumPy was loaded with.
        pool = stack.enter_context(ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")))
        stack.callback(pool.shutdown, cancel_futures=True)
        futures = {pool.submit(function, *arguments): key for key, (function, arguments) in tasks.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
