from __future__ import annotations

from typing import Any

import pytest
import torch

from ensue.config import make_config
from ensue.data.ranking.schema import RankingSchema
from ensue.errors import ConfigError, DataError, UsageError
from ensue.models.ranking.table import RANKERS, build_ranker, get_ranker, get_ranker_preset
from ensue.models.ranking.trunks import TRUNKS, make_trunk
from ensue.training.config import TrainingConfig
from tests.ranking_helpers import make_schema, random_batch

SCHEMA = make_schema()
PRESETS = [(name, preset) for name in RANKERS for preset in [None, *RANKERS[name].presets]]


def split(name: str, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the model and those of the training."""
    own = RANKERS[name].model.Config.model_fields
    return (
        {key: value for key, value in settings.items() if key in own},
        {key: value for key, value in settings.items() if key not in own},
    )


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_presets_are_settings(name: str, preset: str | None) -> None:
    model, training = split(name, get_ranker_preset(name, preset))
    make_config(RANKERS[name].model.Config, model)
    make_config(TrainingConfig, training)


def test_the_presets_of_clippy_have_the_widths_of_the_paper() -> None:
    small, large = (
        make_config(
            get_ranker("shared_bottom").model.Config, RANKERS["shared_bottom"].presets[name]
        )
        for name in ("small", "large_dcn")
    )
    assert small.hidden == [512, 512]
    assert large.hidden == [4096] * 4
    assert (large.trunk, large.num_crosses, large.cross_norm) == ("dcn_v2", 1, True)


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("name", ["shared_bottom", "mmoe", "ple"])
def test_every_trunk_under_every_model_of_several_tasks(name: str, trunk: str) -> None:
    config = make_config(
        RANKERS[name].model.Config, {"trunk": trunk, "dim": 3, "hidden": [5], "dropout": 0.25}
    )
    model = build_ranker(name, config, SCHEMA)
    assert type(model.trunk) is TRUNKS[trunk]
    assert model.trunk.width == 5
    assert model(random_batch(SCHEMA, 4)).isfinite().all()


def test_a_trunk_reads_the_settings_that_are_its_own() -> None:
    config_type = RANKERS["mmoe"].model.Config
    config = make_config(
        config_type, {"trunk": "dcn_v2", "num_crosses": 2, "cross_rank": 3, "cross_norm": True}
    )
    crosses = make_trunk(config, SCHEMA).crosses
    assert [layer.down.weight.shape[0] for layer in crosses.layers] == [3, 3]
    assert isinstance(crosses.norm, torch.nn.LayerNorm)
    config = make_config(config_type, {"trunk": "dlrm", "bottom": [7]})
    assert make_trunk(config, SCHEMA).bottom.layers[0].weight.shape[0] == 7


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mmoe", {"num_crosses": 2}, "num_crosses=2 needs trunk=dcn_v2; trunk is 'dnn'"),
        ("ple", {"trunk": "dcn_v2", "bottom": [8]}, r"bottom=\[8\] needs trunk=dlrm"),
        ("shared_bottom", {"tower": [0]}, "must be widths of 1 or more"),
        ("dlrm", {"bottom": [4, 0]}, "must be widths of 1 or more"),
        ("mmoe", {"expert": []}, "expert: list should have at least 1 item"),
        ("dcn_v2", {"cross_experts": 2}, "cross_experts=2 needs a cross_rank"),
        ("lr", {"dim": 4}, "LRConfig has no field 'dim'"),
    ],
)
def test_settings_that_mean_nothing(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(RANKERS[name].model.Config, settings)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match=r"no ranking model 'mmoo'\. Did you mean 'mmoe'"):
        get_ranker("mmoo")
    with pytest.raises(
        UsageError, match=r"shared_bottom has no preset 'huge'\. Known: small, large"
    ):
        get_ranker_preset("shared_bottom", "huge")
    with pytest.raises(UsageError, match=r"lr has no preset 'x'\. It has none"):
        get_ranker_preset("lr", "x")


def test_a_schema_without_columns_or_tasks() -> None:
    config = RANKERS["lr"].model.Config()
    with pytest.raises(DataError, match="5 columns and 0 tasks"):
        build_ranker(
            "lr", config, RankingSchema(make_schema(num_categorical=1, num_numeric=1).columns, ())
        )


def test_counts_are_taken_note_of() -> None:
    config = make_config(RANKERS["fm"].model.Config, {"min_count": 2})
    counts = {name: torch.ones(size + 1) for name, size in SCHEMA.vocabularies.items()}
    model = build_ranker("fm", config, SCHEMA, counts)
    tables = [fields.table for fields in model.field_embeddings()]
    assert [table.row_of.unique().numel() for table in tables] == [3, 4]  # an unknown row each
