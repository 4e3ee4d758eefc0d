"""Paints lesions for other programs, such as 3D Slicer, over HTTP; the networks stay loaded.

    lefusion serve                      on http://127.0.0.1:8888, with a token that it prints
    lefusion serve --lefusion-slicer    also for the community's client lefusion-slicer

Needs `pip install 'lefusion[serve]'`. Writes nothing to disk. How to call the server: docs/server.md, or its
page /docs while it runs.
"""

import os
import secrets
import socket
from argparse import ArgumentParser, Namespace

from hydra import compose, initialize_config_dir

from LeFusion.errors import UserError
from LeFusion.runtime.commandline import CONFIGS, command_parser, plain, run_with_flags
from LeFusion.server.limits import LOOPBACK, Limits

TOKEN = "LEFUSION_TOKEN"  # in the environment: a token of one's own


def parser() -> ArgumentParser:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    add("--port", type=int, default=8888, help="(default: %(default)s)")
    add(
        "--weights",
        default="chest_ct",
        help="a data type, the name of bundled weights, or a file (default: %(default)s)",
    )
    add(
        "--data-type",
        default="chest_ct",
        help="how regions are read: a name of configs/data_type or a YAML file (default: %(default)s)",
    )
    add("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1, ...")
    add(
        "--precision", default="no", choices=("no", "bf16", "fp16"), help="no: float32 (default: %(default)s)"
    )
    add("--num-steps", type=int, help="levels that the sampler visits (default: as the command paints)")
    add("--no-token", action="store_true", help="ask for no token; works on this machine only")
    add("--lefusion-slicer", action="store_true", help="answer the client lefusion-slicer, too")

    def limit(flag: str, kind: type, default: float, what: str) -> None:
        add(flag, type=kind, default=default, help=f"{what} (default: {default:.0f})")

    limit("--max-mb", float, Limits.upload_bytes / 1e6, "largest upload")
    limit("--max-voxels", int, Limits.voxels, "largest region")
    limit("--upload-seconds", float, Limits.upload_seconds, "longest upload")
    limit("--job-seconds", float, Limits.job_seconds, "longest job")
    limit("--queue", int, Limits.waiting, "jobs that may wait")
    unasked = "a job that its client has not asked for so long is dropped"
    limit("--keep-seconds", float, Limits.kept_seconds, unasked)
    return parser


def check(arguments: Namespace) -> None:
    """Raises UserError for flags that cannot be, before anything is loaded."""
    loopback = arguments.host in LOOPBACK
    if arguments.no_token and not loopback:
        raise UserError(
            f"--no-token: with --host={arguments.host} others could use this server; leave it out"
        )
    if arguments.lefusion_slicer and not loopback:
        raise UserError(
            f"--lefusion-slicer: its client sends no token, so it is for this machine only, not for "
            f"--host={arguments.host}; forward the port instead (ssh -L 8888:127.0.0.1:8888)"
        )
    if not 0 <= arguments.port <= 65535:
        raise UserError(f"--port={arguments.port} must be from 0 to 65535")
    for key in ("max_mb", "max_voxels", "upload_seconds", "job_seconds", "queue", "keep_seconds"):
        if not 0 < getattr(arguments, key) < 1e12:
            raise UserError(f"--{key.replace('_', '-')}={getattr(arguments, key)} must be above 0")
    if arguments.num_steps is not None and arguments.num_steps < 1:
        raise UserError(f"--num-steps={arguments.num_steps} must be at least 1")


def run(arguments: Namespace) -> None:
    """Serves until it is stopped."""
    check(arguments)
    try:
        import uvicorn

        from LeFusion.server.app import make_app
        from LeFusion.server.lefusion_slicer import add_lefusion_slicer
    except ImportError as error:
        raise UserError(f"{error.name} is missing; pip install 'lefusion[serve]'") from None
    limits = Limits(
        upload_bytes=int(arguments.max_mb * 1e6),
        upload_seconds=arguments.upload_seconds,
        voxels=arguments.max_voxels,
        job_seconds=arguments.job_seconds,
        waiting=arguments.queue,
        kept_seconds=arguments.keep_seconds,
    )
    token = None if arguments.no_token else os.environ.get(TOKEN) or secrets.token_urlsafe(24)
    engine = load_engine(arguments)
    names = LOOPBACK if arguments.host in LOOPBACK else ("*",)
    app = make_app(engine, limits, token, names, add_lefusion_slicer if arguments.lefusion_slicer else None)
    listening = _listen(arguments.host, arguments.port)
    port = listening.getsockname()[1]
    place = f"http://{f'[{arguments.host}]' if ':' in arguments.host else arguments.host}:{port}"
    print(f"serving {', '.join(engine.textures)} on {engine.device}: {place} (documentation: {place}/docs)")
    print("no token is needed" if token is None else f"token: {token}", flush=True)
    if arguments.lefusion_slicer:
        print(
            f"lefusion-slicer needs no token; in its field Port: {port}, or {port}/s/A-WORD-OF-YOURS",
            flush=True,
        )
    config = uvicorn.Config(
        app,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=1 << 16,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Raises UserError where another program has the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # who reads the address and calls at once waits for the server, and is not refused
    except OSError as error:
        listening.close()
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror}); give another --port") from None
    return listening


def load_engine(arguments: Namespace):
    """The networks that the flags name. Raises UserError for those that cannot be, or are not for CT."""
    from DiffMask.inference.masks import ShapeMaker
    from DiffMask.settings import MaskInferenceSettings
    from LeFusion.painter import Painter
    from LeFusion.server.engine import Engine

    settings = {} if arguments.num_steps is None else {"num_steps": arguments.num_steps}
    painter = Painter.load(
        arguments.weights,
        data_type=arguments.data_type,
        device=arguments.device,
        precision=arguments.precision,
        **settings,
    )
    with initialize_config_dir(str(CONFIGS), version_base=None):
        masks = plain(compose("diffmask_inference", [f"device={arguments.device}"]))
    if painter.settings.layout.other_labels or painter.settings.modality != "CT":
        raise UserError(
            f"data_type {painter.settings.data_type}: the server paints lesions of CT; use chest_ct"
        )
    return Engine(painter, ShapeMaker(MaskInferenceSettings.of(masks)))


def main() -> None:
    run_with_flags(parser(), run)


if __name__ == "__main__":
    main()
