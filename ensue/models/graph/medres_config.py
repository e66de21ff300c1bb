"""Settings of MEDRES: its graphs, and what else is read of users and items."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ensue.config import Config
from ensue.nn.activations import Activation

Norm = Literal["sym", "row"]


class GraphsConfig(Config):
    """The graphs, and the convolutions over them.

    graphs: names of edge tables ("tags") and of features as graphs ("items.genres"); None is all
        that the dataset has, and [] none of them.
    interactions: whether what users took is a graph beside them.
    dim: width of the vectors of entities, and of all layers.
    degree: of the polynomial in the graph: 0 is each entity by itself, 1 with its neighbors, 2 with
        the neighbors of these.
    norm: of the edges: "sym" divides by the roots of both degrees, "row" by that of the entity that
        reads its neighbors.
    activation: behind each convolution; the perceptron that merges them is rectified always.
    layers: rounds over all graphs; from the second one on, graphs read what others have found.
    edge_dropout: share of the edges that a training step leaves out.
    max_neighbors: of an entity, drawn anew for a training step; None is all of them in a graph of
        up to 10 million edges, and 32 in a larger one.
    """

    graphs: list[str] | None = None
    interactions: bool = True
    dim: int = Field(default=64, ge=1)
    degree: Literal[0, 1, 2] = 2
    norm: Norm = "sym"
    activation: Activation = "identity"
    layers: int = Field(default=2, ge=1)
    edge_dropout: float = Field(default=0.2, ge=0, lt=1)
    max_neighbors: int | None = Field(default=None, ge=1)

    @field_validator("graphs")
    @classmethod
    def _distinct(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("must be distinct names")
        return value


class MedresConfig(GraphsConfig):
    """What is read beside the graphs, how it is scored, and the loss.

    dynamic: what is read of users and items themselves: their features, the last items of the
        history, or both.
    recent: how many of the last items the history is, each with weights of its place.
    ids: which sides have a vector for each of their entities; "items" leaves users to what they
        took, their graphs and features, and "none" items too.
    head: "dot" is a product of two vectors, "cosine" that of vectors of length 1 times a trained
        factor, "mlp" a perceptron over both.
    dropout: of what the layers read.
    loss: of a user's positives against drawn items: binary cross-entropy, or of a softmax.
    num_negatives: items drawn for each user of a step.
    history: what a user's vector reads while training: the events before the positives, or others
        than them in no order, for a log without order.
    """

    dynamic: Literal["none", "features", "history", "both"] = "features"
    recent: int = Field(default=20, ge=1)
    ids: Literal["both", "items", "none"] = "both"
    head: Literal["cosine", "dot", "mlp"] = "cosine"
    dropout: float = Field(default=0.2, ge=0, lt=1)
    loss: Literal["bce", "softmax"] = "bce"
    num_negatives: int = Field(default=200, ge=1)
    history: Literal["before", "others"] = "before"

    @model_validator(mode="after")
    def _something_is_read(self) -> MedresConfig:
        if self.ids == "none" and self.graphs == [] and self.dynamic in ("none", "history"):
            raise ValueError("items need ids, graphs or features to be told apart")
        return self

    @property
    def reads_features(self) -> bool:
        """Whether the features of users and items are read as they are."""
        return self.dynamic in ("features", "both")

    @property
    def reads_history(self) -> bool:
        """Whether the last items of a history are read by their places."""
        return self.dynamic in ("history", "both")
