"""The training loop shared by every network of the project; `loss_fn` and the dataset are what differs.

The loop is here; its settings, batches, gradients, log, state on disk and stopping in the files beside it.

One run lives in one folder: `model-<step>.safetensors` (weights, moving average and metadata),
`training_state.pt` (what an exact resume needs), `loss.csv`, `loss.png`, TensorBoard events and sample
sheets; with a validation also `validation.csv` and `best.safetensors`. The same command resumes: every random
choice is addressed by the number of the sample in the run, so that a run that was stopped and resumed
computes what an unbroken one computes.
"""

import copy
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from LeFusion.diffusion import UNet3D
from LeFusion.diffusion.compilation import compile_network
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import stays_on_cpu
from LeFusion.training.batches import TimedIterator, run_batches
from LeFusion.training.log import Log
from LeFusion.training.review import Review
from LeFusion.training.settings import TrainingSettings
from LeFusion.training.state import SavedRun, checkpoint_path, fingerprint
from LeFusion.training.step import Backward
from LeFusion.training.stopping import Fetcher, Stopped, StopSignal


def train(
    network: UNet3D,
    loss_fn: Callable[[nn.Module, dict], Tensor],
    dataset,
    settings: TrainingSettings,
    results_folder: Path,
    metadata: dict[str, Any],
    sample_sheet: Callable[[UNet3D, Path], None] | None = None,
    validate: Callable[[UNet3D], dict[str, float]] | None = None,
) -> Path:
    """Trains, or goes on with the run in results_folder; returns the path of the last checkpoint.

    Args:
        loss_fn: (network, batch) -> scalar, a mean over the samples. The batch has the dataset's items plus
            `draw`, their numbers. With loss_fn.draw, see `drawn`, its noise is drawn by the loader's workers.
        dataset: `dataset[(index, draw)]` is item `index` with the random choices number `draw`.
        metadata: JSON-able; goes into the checkpoints. A run of other metadata is not resumed.
        sample_sheet: (network, path) -> writes a picture; called with the moving average at every save.
        validate: (network) -> values, among them "score", lower is better; called with the moving average
            at every save. The checkpoint with the best score so far is kept as best.safetensors.
    """
    results_folder = Path(results_folder)
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        cpu=stays_on_cpu(settings.device),
    )
    main = accelerator.is_main_process
    set_seed(settings.seed)
    # First to the device, as a resumed optimizer's state goes where its parameters are at that time
    network = network.to(accelerator.device)
    ema = copy.deepcopy(network).requires_grad_(False).eval()
    fused = accelerator.device.type in ("cuda", "cpu") or None
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.train_lr, fused=fused)
    run = fingerprint(network, settings, metadata, accelerator.num_processes)
    keep = settings.keep_checkpoints
    saved = SavedRun(results_folder, run, metadata, network, ema, optimizer, accelerator, keep)
    step = saved.resume()
    review = Review(results_folder, step, sample_sheet, validate) if main else None
    if step >= settings.train_num_steps:
        if main:
            print(f"{results_folder} is already trained for {step} steps; nothing to do")
            saved.mend_weights(step)
            review.finish(step, ema)
        return checkpoint_path(results_folder, step)
    if main:
        results_folder.mkdir(parents=True, exist_ok=True)
    network.checkpointing = settings.gradient_checkpointing
    if settings.compile:
        compile_network(network)
    model, optimizer = accelerator.prepare(network, optimizer)
    model.train()
    parameters, averages = list(network.parameters()), list(ema.parameters())

    loader = run_batches(dataset, settings, step, accelerator, getattr(loss_fn, "draw", None))
    batches = TimedIterator(loader)
    backward = Backward(model, loss_fn, optimizer, settings, accelerator)
    log = Log(results_folder, step) if main else None
    if main and step and step % settings.save_and_sample_every == 0:
        review.make_up(step, ema, log.board)
    samples_a_step = settings.batch_size * settings.gradient_accumulate_every * accelerator.num_processes
    stop = StopSignal()
    fetch = Fetcher(accelerator, stop, step)
    progress = tqdm(
        total=settings.train_num_steps,
        initial=step,
        unit="step",
        desc="training",
        disable=not main,
        smoothing=0.05,
    )
    with stop, progress, closing(loader):
        while step < settings.train_num_steps:
            started, waited = time.perf_counter(), batches.seconds
            # Forward and backward over the batches of one step
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate(step)
            loss = backward([next(batches) for _ in range(settings.gradient_accumulate_every)])
            # Update
            if settings.max_grad_norm:
                accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            # Moving average
            get_ema_multi_avg_fn(settings.ema_decay_at(step))(
                averages, [p.detach() for p in parameters], step
            )
            step += 1
            # Report, now and then
            last = step == settings.train_num_steps
            saving = last or step % settings.save_and_sample_every == 0
            losses, signal = fetch(step, loss, now=saving)
            for number, mean_loss in enumerate(losses, start=step - len(losses) + 1):
                if not np.isfinite(mean_loss):
                    raise UserError(
                        f"the loss became {mean_loss} at step {number}; lower train_lr, or use precision=no. "
                        f"What is saved in {results_folder} is from before"
                    )
            if main:
                seconds, waited = time.perf_counter() - started, batches.seconds - waited
                log.add(step, optimizer.param_groups[0]["lr"], seconds, waited)
                log.write(losses)
                progress.update()
                if losses:
                    progress.set_postfix(loss=f"{log.smoothed:.4f}")
            # Save
            stopping = signal > 0 and not last
            if stopping or saving:
                accelerator.wait_for_everyone()
                if main:
                    log.flush()
                    saved.save(step)
                    if not stopping:
                        review.add(step, ema, log.board, progress.set_postfix_str)
                accelerator.wait_for_everyone()
            if stopping:
                if main:
                    tqdm.write(log.pace(samples_a_step))
                    tqdm.write(f"stopped at step {step}; saved in {results_folder}; the same command goes on")
                raise Stopped(128 + signal)
    if main:
        print(log.pace(samples_a_step))
        log.close()
        review.draw_losses()
    return checkpoint_path(results_folder, step)
