from __future__ import annotations

import pytest
import torch

from ensue.config import make_config
from ensue.errors import ConfigError
from ensue.models.retrieval.deep_retrieval import DeepRetrieval, DeepRetrievalConfig


def test_every_item_starts_on_distinct_paths():
    for width, depth, num_paths in ((3, 1, 3), (2, 2, 3), (100, 3, 3), (7, 2, 1)):
        config = DeepRetrievalConfig(dim=4, width=width, depth=depth, num_paths=num_paths)
        paths = DeepRetrieval(config, num_users=2, num_items=50).paths
        assert paths.shape == (51, num_paths)
        assert (paths[0] == -1).all()
        assert (paths[1:].diff(dim=1) > 0).all()
        assert int(paths[1:].min()) >= 0
        assert int(paths.max()) < width**depth


def test_the_encoder_is_all_but_the_paths():
    model = DeepRetrieval(DeepRetrievalConfig(dim=4, width=3, depth=2), num_users=2, num_items=5)
    encoder = {id(parameter) for parameter in model.encoder_parameters()}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in encoder) != name.startswith("path_layers."), name


def test_scores_are_those_of_the_softmax_alone():
    torch.manual_seed(0)
    model = DeepRetrieval(DeepRetrievalConfig(dim=4, width=3, depth=2), num_users=2, num_items=5)
    queries = torch.randn(2, 4)
    torch.testing.assert_close(model.match(queries), queries @ model.item_embedding.T)


@pytest.mark.parametrize("settings", [{"width": 1}, {"width": 1 << 32, "depth": 2}])
def test_there_must_be_enough_paths_and_not_too_many(settings):
    with pytest.raises(ConfigError, match=r"width \*\* depth must be at least num_paths"):
        make_config(DeepRetrievalConfig, settings)
