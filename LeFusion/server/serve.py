"""Paints lesions for other programs, such as 3D Slicer, over HTTP; the networks stay loaded.

    python LeFusion/server/serve.py                   on http://127.0.0.1:8888, with a token that it prints
    python LeFusion/server/serve.py --lefusion-slicer  also for the community's client lefusion-slicer

Needs `pip install lefusion[serve]`. Nothing is written to disk. How to call it: /docs of the running server.
"""

import os
import secrets
import socket
from argparse import ArgumentParser, Namespace

from hydra import compose, initialize_config_dir

from LeFusion.errors import UserError
from LeFusion.runtime.commandline import CONFIGS, command_parser, plain, run_with_flags

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN = "LEFUSION_TOKEN"  # in the environment: a token of one's own


def parser() -> ArgumentParser:
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; the default serves this machine only")
    add("--port", type=int, default=8888)
    add("--weights", default="chest_ct", help="a data type, the name of bundled weights, or a file")
    add("--data-type", default="chest_ct", help="what regions are: a name or a YAML file")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add("--precision", default="no", choices=("no", "bf16", "fp16"))
    add("--num-steps", type=int, help="levels that the sampler visits; default: the command's")
    add(
        "--no-token", action="store_true", help="anybody on this machine may ask; with a loopback --host only"
    )
    add("--lefusion-slicer", action="store_true", help="answer that client, which sends no token")
    add("--max-mb", type=float, default=64, help="size of an upload, at most")
    add("--max-voxels", type=int, default=8_000_000, help="of a region")
    add("--upload-seconds", type=float, default=60, help="that an upload may take")
    add("--job-seconds", type=float, default=600, help="that a lesion may take")
    add("--queue", type=int, default=16, help="jobs that may wait")
    add("--keep-seconds", type=float, default=300, help="after which a job that nobody asks for is dropped")
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

        from LeFusion.server.app import LOOPBACK as NAMES
        from LeFusion.server.app import Limits, make_app
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
    names = NAMES if arguments.host in LOOPBACK else ("*",)
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
