"""Deep Retrieval: every item lies on a few paths, and a beam search over paths finds candidates.

Gao et al., "Deep Retrieval: Learning a Retrievable Structure for Large-Scale Recommendations",
CIKM 2021, arXiv:2007.07203. A distribution over K ** D paths given the history, an assignment of
items to J paths each, and a softmax over items that ranks the candidates.
Departures: the encoder is GRU4Rec, whose item vectors also are the softmax's; sizes of the networks
are not published. `score` is the softmax over all items, the brute force that the paper compares
with; `indexes.paths` answers with the items of the likely paths alone.
Shapes: I items, E width of a query, J paths of an item, D layers of K nodes.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ensue.config import Config
from ensue.models.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from ensue.nn.path_layers import PathLayers

MAX_PATHS = 1 << 62  # codes are 64-bit numbers


class AssignmentConfig(Config):
    """Settings of how items are assigned to paths, before each epoch but the first.

    score_share: of the training examples whose likely paths are noted.
    num_candidates: likely paths remembered for each item.
    decay: of a remembered score at each update of its item.
    alpha: weight of the penalty on the number of items of a path; None finds the smallest that
        leaves all but one in a thousand paths with at most `path_size` items.
    power: the penalty of a path with t items is t ** power / power.
    m_step: "safe" never lowers the objective; "published" is the paper's Algorithm 2.
    sweeps: over all items, at each assignment.
    start: "random" paths; or "kmeans": the first epoch trains the softmax alone, and its item
        vectors are clustered into the first paths.
    """

    score_share: float = Field(default=0.2, gt=0, le=1)
    num_candidates: int = Field(default=50, ge=1)
    decay: float = Field(default=0.999, gt=0, le=1)
    alpha: float | None = Field(default=None, ge=0)
    path_size: int = Field(default=64, ge=1)
    power: int = Field(default=4, ge=2, le=8)
    m_step: Literal["safe", "published"] = "safe"
    sweeps: int = Field(default=4, ge=1)
    start: Literal["random", "kmeans"] = "random"


class DeepRetrievalConfig(AssignmentConfig, GRU4RecConfig):
    """Settings of Deep Retrieval; those of the encoder and of the softmax are GRU4Rec's.

    depth, width: D layers of K nodes each.
    num_paths: J, of an item.
    node_dim: width of the vectors that stand for the choices made.
    path_dim: width of the hidden layer of each layer's network.
    beam: prefixes kept in each layer, of an index that does not name its own.
    joint_epochs: after as many, the encoder and the item vectors stay as they are, and only the
        paths are trained; None trains all to the end.
    """

    depth: int = Field(default=3, ge=1)
    width: int = Field(default=100, ge=1)
    num_paths: int = Field(default=3, ge=1)
    node_dim: int = Field(default=64, ge=1)
    path_dim: int = Field(default=128, ge=1)
    beam: int = Field(default=50, ge=1)
    joint_epochs: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _enough_paths(self) -> DeepRetrievalConfig:
        if self.growth is not None:
            raise ValueError("assigns paths to the items of a static table; leave out growth")
        if not self.num_paths <= self.width**self.depth <= MAX_PATHS:
            raise ValueError(
                f"width ** depth must be at least num_paths and at most 2 ** 62; got width="
                f"{self.width}, depth={self.depth}, num_paths={self.num_paths}"
            )
        return self


class DeepRetrieval(GRU4Rec):
    """GRU4Rec with a distribution over paths on its queries, and the paths of the items.

    paths: [I + 1, J] int64, the codes of each item's paths, ascending; row 0 (padding) is -1.
    """

    Config = DeepRetrievalConfig
    config: DeepRetrievalConfig
    paths: Tensor

    def __init__(self, config: DeepRetrievalConfig, *, num_users: int, num_items: int) -> None:
        super().__init__(config, num_users=num_users, num_items=num_items)
        self.path_layers = PathLayers(
            config.dim,
            depth=config.depth,
            width=config.width,
            node_dim=config.node_dim,
            hidden_dim=config.path_dim,
        )
        # Ascending numbers, made distinct by adding their ranks.
        num_free = self.path_layers.num_paths - config.num_paths + 1
        paths = torch.randint(num_free, (num_items + 1, config.num_paths)).sort(dim=1).values
        paths += torch.arange(config.num_paths)
        paths[0] = -1
        self.register_buffer("paths", paths)

    def encoder_parameters(self) -> list[Tensor]:
        """Return all parameters but those of the distribution over paths."""
        of_paths = {id(parameter) for parameter in self.path_layers.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in of_paths]
