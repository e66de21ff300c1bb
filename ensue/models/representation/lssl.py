"""LSSL: codes in which time moves every entity along one direction.

Zhao, Liu, Adeli and Pohl, "Longitudinal Self-Supervised Learning", Medical Image Analysis 71
(2021), arXiv:2006.06930. Departures: the code is linear, not behind a tanh, at which it saturates;
the direction is by default the average of the differences' directions, or the best one of each
batch, where the paper learns it; tables and bags of items are encoded too.
The methods that it is compared with have the same networks: an autoencoder, a variational one
(Kingma and Welling, ICLR 2014), also with a heavier prior (Higgins et al., ICLR 2017), the contrast
of two views (SimCLR, Chen et al., ICML 2020), and principal components. Their direction of time is
found behind their training.
Shapes: B measurements, D width of the code, K directions, P pairs.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from ensue.config import Config
from ensue.data.longitudinal.measurements import Inputs
from ensue.errors import ConfigError
from ensue.losses.contrastive import view_contrast
from ensue.losses.longitudinal import best_directions, direction_loss, unit_differences
from ensue.losses.variational import gaussian_divergence
from ensue.models.representation.bodies import Body
from ensue.nn.perceptron import linear_layer, rectified_layer

MethodName = Literal["lssl", "ae", "vae", "beta-vae", "simclr", "pca"]
METHODS: tuple[MethodName, ...] = ("lssl", "ae", "vae", "beta-vae", "simclr", "pca")
# The methods that read a setting; one that is not named is read by all.
READ_BY: dict[str, tuple[MethodName, ...]] = {
    "weight": ("lssl",),
    "direction": ("lssl",),
    "memory": ("lssl",),
    "beta": ("lssl", "beta-vae"),
    "temperature": ("simclr",),
    "noise": ("simclr",),
    "dropout": ("simclr",),
    "hidden": ("lssl", "ae", "vae", "beta-vae", "simclr"),
    "channels": ("lssl", "ae", "vae", "beta-vae", "simclr"),
}
BETAS = {"vae": 1.0, "beta-vae": 4.0}


class LSSLConfig(Config):
    """What is learned, and by what networks.

    dim: width of the code. hidden: of the encoder's layers between measurement and code; the
        decoder has them in reverse.
    channels: of images and volumes: of the convolutions before that, each with pooling by 2.
    weight: of the direction of time, beside the reconstruction of both visits.
    direction: the moving "average" of the differences' directions, the best one of each batch
        ("closed"), or one that is "learned" by gradient.
    memory: of the moving average: what each step keeps of it.
    directions: K; the first one is that of time.
    beta: of the divergence of the codes from a normal prior; 0 has codes without noise. None is 1
        of a vae, 4 of a beta-vae and 0 of lssl.
    temperature, noise, dropout: of the contrast of two views; a view has noise of this deviation
        and is without this share of its values (images are turned and moved instead).
    """

    method: MethodName = "lssl"
    dim: int = Field(default=8, ge=1)
    hidden: tuple[PositiveInt, ...] = (64, 64)
    channels: tuple[PositiveInt, ...] = (16, 32, 64, 16)
    weight: float = Field(default=1.0, ge=0)
    direction: Literal["average", "closed", "learned"] = "average"
    memory: float = Field(default=0.9, ge=0, lt=1)
    directions: int = Field(default=1, ge=1)
    beta: float | None = Field(default=None, ge=0)
    temperature: float = Field(default=0.5, gt=0)
    noise: float = Field(default=0.2, ge=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_that_all_is_read(self) -> LSSLConfig:
        for name, methods in READ_BY.items():
            value = getattr(self, name)
            if self.method not in methods and value != type(self).model_fields[name].default:
                raise ConfigError(
                    f"{name} is read by {', '.join(methods)} only; got {name}={value!r} with "
                    f"method={self.method!r}."
                )
        if self.directions > self.dim:
            raise ConfigError(f"directions must be at most dim={self.dim}; got {self.directions}.")
        return self

    @property
    def direction_weight(self) -> float:
        """The weight of the direction of time in the loss."""
        return self.weight if self.method == "lssl" else 0.0

    @property
    def num_codes(self) -> int:
        """How many codes an encoder gives: 2 of a variational method, mean and log of variance."""
        return 2 if self.divergence_weight > 0 else 1

    @property
    def divergence_weight(self) -> float:
        """The weight of the divergence from the prior."""
        return BETAS.get(self.method, 0.0) if self.beta is None else self.beta


class LSSL(nn.Module):
    """A body that encodes and decodes, and the directions of time in its codes.

    Args:
        body: encodes `config.num_codes` codes, the second of which is the log of the variance.
        measured: what the body was made for, as JSON.

    directions: [K, D], orthonormal, the first one that of time; set once the codes are final.
    """

    directions: Tensor
    mean: Tensor
    moment: Tensor

    def __init__(self, config: LSSLConfig, body: Body, *, measured: dict[str, Any]) -> None:
        super().__init__()
        self.config, self.body, self.measured = config, body, measured
        if config.method == "simclr":
            self.projection = nn.Sequential(
                rectified_layer(config.dim, config.dim),
                nn.ReLU(),
                linear_layer(config.dim, config.dim),
            )
        if config.method == "lssl" and config.direction == "learned":
            self.raw_directions = nn.Parameter(torch.randn(config.directions, config.dim))
        self.register_buffer("directions", torch.zeros(config.directions, config.dim))
        self.register_buffer("mean", torch.zeros(config.dim))
        self.register_buffer("moment", torch.zeros(config.dim, config.dim))

    def encode(self, x: Inputs) -> Tensor:
        """Return the codes [B, D]; of a variational method their means."""
        return self.body.encode(x)[:, : self.config.dim]

    def losses(self, x: Inputs, shares: Tensor, places: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss of a batch by name; their sum is followed.

        Args:
            x: B distinct measurements of the batch, encoded once each.
            shares: [B], how many of the pairs a measurement is in, over P.
            places: [P, 2], the measurements of each pair.
        """
        if self.config.method == "simclr":
            return {"contrast": self._contrast(x)}
        codes, *log_variances = torch.split(self.body.encode(x), self.config.dim, dim=1)
        terms = {}
        latent = codes
        for log_variance in log_variances:  # of a variational method alone there is one
            latent = codes + torch.randn_like(codes) * torch.exp(0.5 * log_variance)
            divergence = gaussian_divergence(codes, log_variance) * self.body.per_element(x)
            terms["divergence"] = self.config.divergence_weight * (divergence * shares).sum()
        terms["reconstruction"] = self.body.error(latent, x, shares)
        if self.config.direction_weight > 0:
            differences = unit_differences(codes[places[:, 0]], codes[places[:, 1]])
            directions = self._follow(differences)
            found = direction_loss(differences, directions).mean()
            terms["direction"] = self.config.direction_weight * found
        return terms

    def _contrast(self, x: Inputs) -> Tensor:
        """Return the contrast of two views of the measurements, of either with the other."""
        noise, dropout = self.config.noise, self.config.dropout
        first, second = (
            F.normalize(self.projection(self.encode(self.body.view(x, noise, dropout))), dim=1)
            for _ in range(2)
        )
        temperature = self.config.temperature
        there = view_contrast(first, second, temperature=temperature)
        return 0.5 * (there + view_contrast(second, first, temperature=temperature))

    def _follow(self, differences: Tensor) -> Tensor:
        """Return the directions [K, D] that unit differences [P, D] are held against."""
        count = self.config.directions
        if self.config.direction == "learned":
            return orthonormal(self.raw_directions)
        with torch.no_grad():
            mean = differences.mean(dim=0)
            moment = differences.T @ differences / len(differences) if count > 1 else self.moment
            if self.config.direction == "average":
                if self.training:
                    self.mean.lerp_(mean, 1 - self.config.memory)
                    self.moment.lerp_(moment, 1 - self.config.memory)
                mean, moment = self.mean, self.moment
            return best_directions(mean, moment, count=count)

    @torch.no_grad()
    def set_directions_(self, mean: Tensor, moment: Tensor) -> None:
        """Set the directions, given the mean [D] of all unit differences, and of their products.

        Those that are learned are kept, each turned to where time goes.
        """
        if hasattr(self, "raw_directions"):
            found = orthonormal(self.raw_directions)
            found = found * torch.where(found @ mean < 0, -1.0, 1.0)[:, None]
        else:
            found = best_directions(mean, moment, count=self.config.directions)
        self.directions.copy_(found)


def orthonormal(raw: Tensor) -> Tensor:
    """Return orthonormal directions [K, D] that span raw ones; one alone has its length divided."""
    if len(raw) == 1:
        return F.normalize(raw, dim=1)
    found: Any = torch.linalg.qr(raw.T)
    return (found.Q * torch.sign(torch.diagonal(found.R))).T
