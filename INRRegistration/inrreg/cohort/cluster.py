"""Where a cohort is computed: processes of this computer, a Dask cluster at an address, or jobs of SLURM."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inrreg.protocol import UserError

if TYPE_CHECKING:
    from distributed import Client

GPU = {"GPU": 1}
"""The resource that a worker has with `dask worker --resources GPU=1`: one pair at a time."""


@dataclass(frozen=True)
class Place:
    """`workers` processes of one pair each, here or of SLURM; or those that a scheduler at `address` has.

    `insecure` allows an address without TLS that is not this computer's. `gpu` sends pairs only to workers with the
    resource `GPU`. `deaths` is how many workers may die over a pair before it fails (a running scheduler has its own
    setting). `slurm` has arguments of `dask_jobqueue.SLURMCluster`, whose `cores` a pair has all, None for no SLURM.
    """

    workers: int = 1
    address: str = ""
    insecure: bool = False
    gpu: bool = False
    deaths: int = 1
    slurm: dict[str, Any] | None = field(default=None)


@contextlib.contextmanager
def client(place: Place) -> Iterator[Client]:
    """A client of the place's scheduler, closed at the end with the processes that were started for it.

    Raises `UserError` (code `package`) without Dask, (code `cluster`) where the scheduler cannot be reached or is
    open to anybody.
    """
    try:
        import dask
        from distributed import Client, LocalCluster, Security
    except ImportError:
        hint = "Install it with: pip install 'inrreg[cluster]'"
        raise UserError("package", "Computing many pairs at once needs dask.distributed.", hint) from None
    # What it says of a worker that died becomes the pair's row.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack, dask.config.set({"distributed.scheduler.allowed-failures": place.deaths}):
        if place.address:
            _check_address(place)
            try:
                found = stack.enter_context(Client(place.address, timeout="20s"))
            except (OSError, ValueError, TypeError, ImportError, RuntimeError) as error:
                hint = "Check the address, that the scheduler runs, and Dask's TLS settings."
                raise UserError("cluster", f"The scheduler {place.address} cannot be used ({error}).", hint) from None
        elif place.slurm is not None:
            found = stack.enter_context(Client(stack.enter_context(_slurm(place))))
        else:
            # Whoever can speak to a scheduler runs code as its user: others on this computer must not.
            resources = GPU if place.gpu else None
            cluster = LocalCluster(
                n_workers=place.workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
                security=Security.temporary(),
                resources=resources,
            )
            found = stack.enter_context(Client(stack.enter_context(cluster)))
        yield found


def _check_address(place: Place) -> None:
    kind, _, rest = place.address.rpartition("://")
    host = rest.rsplit(":", 1)[0].strip("[]")
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    if kind != "tls" and host != "localhost" and not place.insecure:
        raise UserError(
            "cluster",
            f"{place.address} is not protected by TLS: whoever reaches it can run code as you.",
            "Use a tls:// address, or --insecure on a network that you trust.",
        )


def _slurm(place: Place) -> Any:
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        hint = "Install it with: pip install 'inrreg[cluster]'"
        raise UserError("package", "Jobs of SLURM need dask-jobqueue.", hint) from None
    from distributed import Security

    # By default a worker takes a pair for each core, in threads of one process.
    extra = ["--nthreads", "1", *(["--resources", "GPU=1"] if place.gpu else [])]
    options = {"cores": 1, "processes": 1, "memory": "8GB", "walltime": "04:00:00", **(place.slurm or {})}
    directives = options.get("job_extra_directives", "--gres=gpu:1" if place.gpu else "")
    options["job_extra_directives"] = directives.split()
    try:
        cluster = SLURMCluster(
            security=Security.temporary(), shared_temp_directory=os.getcwd(), worker_extra_args=extra, **options
        )
        cluster.scale(place.workers)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError("cluster", f"SLURM cannot be used ({error}).", "Check --slurm-option.") from None
    return cluster
