"""The public data sets that `ensue fetch` knows: address, terms, citation, how to prepare them.

MovieLens: Harper and Konstan, ACM TiiS 5(4), 2015; GroupLens publishes an MD5 sum beside each
archive. Gowalla: Cho, Myers and Leskovec, KDD 2011; SNAP publishes no checksum. The terms are given
in our words: the host's own text, at `homepage`, is what binds.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from ensue.errors import UsageError, did_you_mean

_MOVIELENS = "https://files.grouplens.org/datasets/movielens/"
_MOVIELENS_CITATION = (
    "F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. "
    "ACM Transactions on Interactive Intelligent Systems 5, 4: 19. "
    "https://doi.org/10.1145/2827872"
)
_MOVIELENS_TERMS = (
    "Research use. Cite the data in publications; do not imply endorsement by the University of "
    "Minnesota or GroupLens; no commercial use without their permission; no warranty."
)
_NOT_PASSED_ON = " Do not redistribute the data without permission."
_PASSED_ON = " Redistribution is allowed under these same terms."


@dataclass(frozen=True)
class Source:
    """One data set.

    base_url, file: the address is their concatenation.
    license: a few words for a table; `terms` is the longer text.
    checksum: algorithm of the sum published at the address with the algorithm's name as suffix
        (ml-1m.zip.md5); None where the host publishes none.
    log: the interactions, relative to the folder made by `fetch`.
    prepare_options: what `ensue prepare` must be told about that file.
    """

    name: str
    title: str
    base_url: str
    file: str
    megabytes: int
    license: str
    terms: str
    citation: str
    homepage: str
    checksum: str | None
    log: str
    prepare_options: tuple[str, ...] = ()

    def prepare_command(self, folder: Path) -> str:
        """Return the command that makes a dataset of the files in `folder`."""
        dataset = folder.with_name(f"{folder.name}-dataset")
        words = ["ensue", "prepare", str(folder / self.log), "-o", str(dataset)]
        return shlex.join([*words, *self.prepare_options])


def _movielens(
    name: str, title: str, megabytes: int, log: str, *, readme: str, may_pass_on: bool = False
) -> Source:
    return Source(
        name=name,
        title=title,
        base_url=_MOVIELENS,
        file=f"{name}.zip",
        megabytes=megabytes,
        license="research, redistribution on the same terms" if may_pass_on else "research only",
        terms=_MOVIELENS_TERMS + (_PASSED_ON if may_pass_on else _NOT_PASSED_ON),
        citation=_MOVIELENS_CITATION,
        homepage=_MOVIELENS + readme,
        checksum="md5",
        log=log,
    )


_ALL = (
    _movielens(
        "ml-100k",
        "MovieLens 100K: 100,000 ratings, 943 users, 1,682 movies",
        5,
        "u.data",
        readme="ml-100k-README.txt",
    ),
    _movielens(
        "ml-1m",
        "MovieLens 1M: 1,000,209 ratings, 6,040 users, 3,706 movies",
        6,
        "ratings.dat",
        readme="ml-1m-README.txt",
    ),
    _movielens(
        "ml-10m",
        "MovieLens 10M: 10,000,054 ratings, 71,567 users, 10,681 movies",
        66,
        "ratings.dat",
        readme="ml-10m-README.html",
    ),
    _movielens(
        "ml-20m",
        "MovieLens 20M: 20,000,263 ratings, 138,493 users, 27,278 movies",
        199,
        "ratings.csv",
        readme="ml-20m-README.html",
    ),
    _movielens(
        "ml-25m",
        "MovieLens 25M: 25,000,095 ratings, 162,541 users, 62,423 movies",
        262,
        "ratings.csv",
        readme="ml-25m-README.html",
    ),
    _movielens(
        "ml-32m",
        "MovieLens 32M: 32,000,204 ratings, 200,948 users, 87,585 movies",
        239,
        "ratings.csv",
        readme="ml-32m-README.html",
        may_pass_on=True,
    ),
    Source(
        name="gowalla",
        title="Gowalla: 6,442,890 check-ins, February 2009 to October 2010",
        base_url="https://snap.stanford.edu/data/",
        file="loc-gowalla_totalCheckins.txt.gz",
        megabytes=106,
        license="none stated",
        terms="The host states no license. Cite the paper, and ask before any use beyond research.",
        citation=(
            "Eunjoon Cho, Seth A. Myers and Jure Leskovec. 2011. Friendship and Mobility: User "
            "Movement in Location-Based Social Networks. KDD 2011."
        ),
        homepage="https://snap.stanford.edu/data/loc-gowalla.html",
        checksum=None,
        log="loc-gowalla_totalCheckins.txt.gz",
        prepare_options=("--user", "1", "--item", "5", "--time", "2"),
    ),
)

SOURCES = {source.name: source for source in _ALL}


def find_source(name: str) -> Source:
    """Return the data set called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in SOURCES:
        raise UsageError(f"no data set is called {name!r}.{did_you_mean(name, SOURCES)}")
    return SOURCES[name]
