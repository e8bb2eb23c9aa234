"""How far the restatements in JAX are from mflux, both in float32 on the CPU.

uv run --group training python -m training.image.parity
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mflux.models.common.config.model_config import ModelConfig
from mflux.models.common.schedulers.flow_match_euler_discrete_scheduler import FlowMatchEulerDiscreteScheduler
from mflux.models.flux2.latent_creator.flux2_latent_creator import Flux2LatentCreator
from mflux.models.flux2.model.flux2_transformer.transformer import Flux2Transformer
from mlx.utils import tree_flatten, tree_unflatten

from herd_mcp.engines import builtin_image
from training.image import config, model, tokenizer, vae

BOUND = 1e-4


def differences() -> dict[str, float]:
    """The largest absolute difference of each part, for random weights and inputs."""
    precision, ModelConfig.precision = ModelConfig.precision, mx.float32
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    try:
        return {**_vae(), **_transformer(), **_schedule()}
    finally:
        ModelConfig.precision = precision
        mx.set_default_device(device)


def _vae() -> dict[str, float]:
    rng = np.random.default_rng(1)
    weights = {name: array + 0.02 * rng.standard_normal(array.shape) for name, array in vae.initial(0).items()}
    weights |= {"bn.running_mean": rng.standard_normal(128), "bn.running_var": rng.uniform(0.5, 2, 128)}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    theirs = builtin_image.make_vae({"vae": config.VAE})
    assert {name: array.shape for name, array in tree_flatten(theirs.parameters())} == {
        name: array.shape for name, array in weights.items()
    }
    theirs.update(tree_unflatten([(name, mx.array(array)) for name, array in weights.items()]))
    pictures = rng.uniform(-1, 1, (2, 64, 96, 3)).astype(np.float32)
    latents = theirs.encode(mx.array(pictures.transpose(0, 3, 1, 2)))
    packed = Flux2LatentCreator.patchify_latents(latents)
    ours = vae.encode(weights, pictures)
    tokens = np.array(Flux2LatentCreator.pack_latents(packed))
    drawn = np.array(theirs.decode_packed_latents(packed)).transpose(0, 2, 3, 1)
    unpacked = vae.unpack(vae.denormalise(weights, vae.pack(ours)), 4, 6)
    return {
        "vae encoder": _far(vae.pack(ours), tokens),
        "vae decoder": _far(vae.decode(weights, unpacked), drawn),
    }


def _transformer() -> dict[str, float]:
    rng = np.random.default_rng(2)
    size = tokenizer.build().get_vocab_size()
    weights = model.initial(size, 0)
    weights = {
        name: (array + 0.02 * rng.standard_normal(array.shape)).astype(np.float32) for name, array in weights.items()
    }
    theirs = Flux2Transformer(**config.TRANSFORMER)
    named = {name: array for name, array in weights.items() if name != model.EMBEDDING}
    assert {name: array.shape for name, array in tree_flatten(theirs.parameters())} == {
        name: array.shape for name, array in named.items()
    }
    theirs.update(tree_unflatten([(name, mx.array(array)) for name, array in named.items()]))
    latents = rng.standard_normal((2, 24, 128)).astype(np.float32)
    ids = rng.integers(0, size, (2, config.TEXT_TOKENS)).astype(np.int32)
    sigma = np.array([0.7, 0.3], np.float32)
    embedded = weights[model.EMBEDDING][ids]
    places = mx.stack([mx.zeros(512, dtype=mx.int32)] * 3 + [mx.arange(512)], axis=1)
    wanted = theirs(
        mx.array(latents),
        mx.array(np.concatenate([embedded] * 3, -1)),
        mx.array(sigma * 1000),
        Flux2LatentCreator.prepare_grid_ids(mx.zeros((1, 128, 4, 6)), t_coord=0),
        places[None],
    )
    return {"transformer": _far(model.velocity(weights, latents, model.all_pads(ids), sigma, 4, 6), np.array(wanted))}


def _schedule() -> dict[str, float]:
    worst = 0.0
    for tokens in (16, 36, 64):
        for steps in (1, 2, 4, 8, 20):
            _, theirs = FlowMatchEulerDiscreteScheduler.get_timesteps_and_sigmas(tokens, steps)
            worst = max(worst, _far(model.sigmas(tokens, steps), np.array(theirs)))
    return {"schedule": worst}


def _far(ours: object, theirs: object) -> float:
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())


if __name__ == "__main__":
    found = differences()
    for part, distance in found.items():
        print(f"{part}: {distance:.1e}")
    raise SystemExit(any(distance > BOUND for distance in found.values()))
