"""Put growing tables in the place of static ones, in any model."""

from __future__ import annotations

from torch import Tensor, nn

from ensue.nn.dynamic_embedding import DynamicEmbedding
from ensue.nn.table_config import TableConfig


def grow_table_(model: nn.Module, name: str, config: TableConfig | None = None) -> DynamicEmbedding:
    """Replace the parameter `name` [V, D] by a table that grows, and return that.

    Its ids are what the model looked up: the model itself stays as it is, if it reads the table by
    `gather_rows` and `dot_rows` alone. One that multiplies by all of it needs a static table.

    Args:
        name: as in `named_parameters`, as "item_embedding".

    Raises:
        ValueError: it is no table.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weight = parameters.get(name)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        tables = [own for own, parameter in parameters.items() if parameter.dim() == 2]
        raise ValueError(f"grow_table_ needs the name of a table [V, D] in {tables}; got {name!r}")
    path, _, own_name = name.rpartition(".")
    owner = model.get_submodule(path)
    delattr(owner, own_name)
    table = DynamicEmbedding(weight.shape[1], config, dtype=weight.dtype, device=weight.device)
    setattr(owner, own_name, table)
    return table
