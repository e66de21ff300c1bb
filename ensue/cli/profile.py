"""`ensue profile`: what a log holds before any model is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ensue.runs.profile import Profile

LAGS_SHOWN = (0, 1, 2, 3, 5, 10, 20, 30, 40, 50)


def profile(
    data: Annotated[Path, typer.Argument(help="Dataset folder made by ensue prepare.")],
    embedding: Annotated[
        Path | None,
        typer.Option(help="Run of bpr whose item vectors to use; default is an SVD of the log."),
    ] = None,
    dim: Annotated[int, typer.Option(help="Factors of the SVD.")] = 32,
    max_lag: Annotated[int, typer.Option(help="Measure the dependence up to this lag.")] = 50,
    seed: Annotated[int, typer.Option(help="Of permutations, SVD and resamples.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file; default DATA/profile.html.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Measure a log: sizes, popularity, repeats, how much its order says, and how long."""
    from ensue.cli.output import print_json, print_text
    from ensue.progress import note
    from ensue.runs.plots import has_plots, require_plots
    from ensue.runs.profile import profile as measure
    from ensue.runs.profile_page import write_profile

    if output is not None:
        require_plots()  # better now than after the measures
    found = measure(data, embedding=embedding, dim=dim, max_lag=max_lag, seed=seed, progress=True)
    page = None
    if has_plots():
        page = write_profile(found, output)
    else:
        note("No page was written: its plots need matplotlib; run pip install 'ensue[report]'.")
    if as_json:
        print_json({**found.to_dict(), "page": str(page) if page else None})
        return
    _print_sizes(found)
    _print_order(found)
    if page:
        print_text(f"The page is {page}.")


def _print_sizes(found: Profile) -> None:
    from ensue.cli.output import print_table

    counts, time, repeats = found.counts, found.time, found.repeats
    rows: list[tuple[str, object]] = [
        *((name, counts[name]) for name in ("users", "items", "interactions")),
        ("empty user-item pairs", f"{counts['sparsity']:.4%}"),
        *((f"interactions in {part}", counts[part]) for part in ("train", "validation", "test")),
        ("interactions with an item had before", f"{repeats['share']:.4%}"),
        ("interactions with the item just before", f"{repeats['immediate']:.4%}"),
    ]
    if time:
        rows += [
            ("first", time["first"]),
            ("last", time["last"]),
            ("interactions at the time of the one before", f"{time['tied']:.4%}"),
        ]
    print_table(["", "log"], rows, title=found.dataset["name"])
    quantiles = found.lengths["quantiles"]
    print_table(
        ["users", *(f"{percent}%" for percent in quantiles), "mean"],
        [["history length up to", *quantiles.values(), found.lengths["mean"]]],
    )
    top = found.popularity["top"]
    print_table(
        ["items", *(f"top {percent}%" for percent in top), "Gini"],
        [["share of the interactions", *top.values(), found.popularity["gini"]]],
    )


def _print_order(found: Profile) -> None:
    from ensue.cli.output import print_table, print_text
    from ensue.runs.profile import describe_dependence

    kinds = {"as logged": found.intensity, "in random order": found.shuffled_intensity}
    print_table(
        ["", *(f"L={length}" for length in found.intensity.rules), "rules per user"],
        [[name, *part.rules.values(), part.value] for name, part in kinds.items()],
        title="sequential intensity: rules of L items, then one",
    )
    values = found.to_dict()["dependence"]
    print_table(
        ["lag", "users", "Dep_L", "permuted", "5%", "95%", "within users", "permuted"],
        [
            [
                lag,
                values["users"][lag],
                *(values["total"][n][lag] for n in ("value", "floor")),
                *(values["total"][n][lag] for n in ("percentile_5", "percentile_95")),
                *(values["within"][n][lag] for n in ("value", "floor")),
            ]
            for lag in values["lags"]
            if lag in (*LAGS_SHOWN, values["lags"][-1])
        ],
        title=f"dependence of the last item on the one L steps before; vectors: "
        f"{found.protocol['vectors']}",
    )
    print_text("\n".join(describe_dependence(found)))
