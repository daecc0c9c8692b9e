"""The catalog, an SQLite file. Every SQL statement is in this package, in one file for each part that queries it."""

from craftkit_archive.catalog.assets import AssetQueries
from craftkit_archive.catalog.disposal import DisposalQueries
from craftkit_archive.catalog.exports import ExportQueries
from craftkit_archive.catalog.imports import ImportQueries
from craftkit_archive.catalog.lookup import LookupQueries
from craftkit_archive.catalog.nights import NightQueries
from craftkit_archive.catalog.retention import RetentionQueries
from craftkit_archive.catalog.serving import ServeQueries


class Catalog(
    ImportQueries,
    AssetQueries,
    ExportQueries,
    LookupQueries,
    ServeQueries,
    DisposalQueries,
    RetentionQueries,
    NightQueries,
):
    """An open catalog with every query on it; each base class holds those of one part of the program."""
